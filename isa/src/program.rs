//! SE programs: what the SIMD engine does to each element of a domain.
//!
//! A program runs over a domain of five dimensions, the sizes and clipping of its `domain` view. The first `parallel`
//! dimensions are parallel: their order is not defined and nothing depends on it. The remaining ones are the sequence,
//! walked in row-major order for each parallel index. `init` runs before the sequence, `body` at each of its steps, `finish`
//! after it; registers keep their values from one to the next. In `init` and `finish`, the sequence's indices are 0.
//!
//! Registers hold one lane per parallel index. `f32` and `i32` lanes are 32 bits wide, `f64` and `i64` lanes 64.

use crate::format::ScaleMode;
use crate::inst::Operand;

/// Most operand streams of a program.
pub const MAX_STREAMS: usize = 8;
/// Number of registers.
pub const REGISTERS: usize = 64;
/// Number of accumulators, each of 16 partials.
pub const ACCUMULATORS: usize = 8;
/// Partials of one accumulator; element `i` of the sequence goes to partial `i mod 16`.
pub const PARTIALS: usize = 16;

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reg(pub u8);

/// Type of the lanes that an operation works on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Binary32: every float format loads into it exactly but f64.
    F32 = 0,
    /// Binary64, half rate.
    F64 = 1,
    /// 32-bit two's complement; also masks (0 or 1).
    I32 = 2,
    /// 64-bit two's complement, half rate.
    I64 = 3,
}

impl Lane {
    /// Whether lanes hold floating-point numbers.
    pub const fn is_float(self) -> bool {
        match self {
            Lane::F32 | Lane::F64 => true,
            Lane::I32 | Lane::I64 => false,
        }
    }
}

/// Functions of one register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SeUnary {
    /// Copy.
    Mov = 0,
    /// Negation.
    Neg,
    /// Magnitude.
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// Round up.
    Ceil,
    /// Round down.
    Floor,
    /// Round to nearest, ties to even.
    Round,
    /// Logical complement of a mask.
    Not,
    /// Bitwise complement.
    Inv,
    /// Natural exponential.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1 / x`, one rounding.
    Recip,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Inverse sine.
    Asin,
    /// Inverse cosine.
    Acos,
    /// Inverse tangent.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Hyperbolic tangent.
    Tanh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// Error function.
    Erf,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Mask: NaN.
    IsNan,
    /// Mask: infinite.
    IsInf,
    /// `exp(x) - 1`, accurate next to zero.
    Expm1,
    /// `log(1 + x)`, accurate next to zero.
    Log1p,
    /// Distribution function of the standard normal distribution.
    NormCdf,
}

impl SeUnary {
    /// Whether the function is approximated by a polynomial: not exact in itself.
    pub const fn is_polynomial(self) -> bool {
        match self {
            SeUnary::Mov
            | SeUnary::Neg
            | SeUnary::Abs
            | SeUnary::Sign
            | SeUnary::Ceil
            | SeUnary::Floor
            | SeUnary::Round
            | SeUnary::Not
            | SeUnary::Inv
            | SeUnary::Sqrt
            | SeUnary::Recip
            | SeUnary::IsNan
            | SeUnary::IsInf => false,
            SeUnary::Exp
            | SeUnary::Log
            | SeUnary::Sin
            | SeUnary::Cos
            | SeUnary::Tan
            | SeUnary::Asin
            | SeUnary::Acos
            | SeUnary::Atan
            | SeUnary::Sinh
            | SeUnary::Cosh
            | SeUnary::Tanh
            | SeUnary::Asinh
            | SeUnary::Acosh
            | SeUnary::Atanh
            | SeUnary::Erf
            | SeUnary::Sigmoid
            | SeUnary::Expm1
            | SeUnary::Log1p
            | SeUnary::NormCdf => true,
        }
    }

    /// Whether the function is defined on float lanes alone.
    pub const fn is_float_only(self) -> bool {
        self.is_polynomial()
            || matches!(self, SeUnary::Sqrt | SeUnary::Recip | SeUnary::IsNan | SeUnary::IsInf)
    }
}

/// Functions of two registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SeBinary {
    /// Sum; integers wrap.
    Add = 0,
    /// Difference; integers wrap.
    Sub,
    /// Product; integers wrap.
    Mul,
    /// Quotient; integers truncate, by zero gives 0, `MIN / -1` gives `MIN`.
    Div,
    /// Remainder with the divisor's sign; by zero gives 0.
    Mod,
    /// Remainder with the dividend's sign; by zero gives 0.
    Rem,
    /// Power.
    Pow,
    /// Lesser; NaN if either is; -0 is below +0.
    Min,
    /// Greater; NaN if either is; -0 is below +0.
    Max,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Left shift; by the width or more gives 0.
    Shl,
    /// Logical right shift; by the width or more gives 0.
    Shr,
    /// Mask: equal.
    Eq,
    /// Mask: less.
    Lt,
    /// Mask: less or equal.
    Le,
}

/// How an accumulator combines.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SeReduce {
    /// Sum, from +0.
    Sum = 0,
    /// Product, from 1.
    Prod,
    /// Greatest, from the lane's least value (-infinity).
    Max,
    /// Least, from the lane's greatest value (+infinity).
    Min,
}

/// One operation: 64 bits in the object file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SeOp {
    /// `dst = stream[index]`, converted exactly to the lane type (grouped formats: code times scale). A bank's -0 loads as +0.
    Load {
        /// Result.
        dst: Reg,
        /// Lane type.
        lane: Lane,
        /// Stream number.
        stream: u8,
    },
    /// `stream[index] = src`, rounded to nearest even and saturated as the stream's format defines. A stream of a
    /// grouped format is quantised by whole groups when the program ends, with the stream's scale mode.
    Store {
        /// Stream number.
        stream: u8,
        /// Lane type of the source.
        lane: Lane,
        /// What is stored.
        src: Reg,
    },
    /// `dst` = constant number `index` of the program.
    Const {
        /// Result.
        dst: Reg,
        /// Lane type.
        lane: Lane,
        /// Position in the program's constants.
        index: u16,
    },
    /// `dst` = logical coordinate (see the domain view) of dimension `dim`, as `i32`.
    Coord {
        /// Result.
        dst: Reg,
        /// Dimension of the domain.
        dim: u8,
    },
    /// `dst = f(a)`.
    Unary {
        /// Function.
        f: SeUnary,
        /// Lane type.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
    },
    /// `dst = f(a, b)`.
    Binary {
        /// Function.
        f: SeBinary,
        /// Lane type of the operands.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// First operand.
        a: Reg,
        /// Second operand.
        b: Reg,
    },
    /// `dst = a * b + c`, one rounding (float lanes).
    Fma {
        /// Lane type.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// Factor.
        a: Reg,
        /// Factor.
        b: Reg,
        /// Addend.
        c: Reg,
    },
    /// `dst = c != 0 ? a : b`.
    Select {
        /// Lane type of `a` and `b`.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// Mask.
        c: Reg,
        /// Value where the mask holds.
        a: Reg,
        /// Value elsewhere.
        b: Reg,
    },
    /// `dst = a` converted: to nearest even; float to integer truncates, saturates, NaN gives 0; wider to narrower
    /// integers wrap.
    Convert {
        /// Lane type of the operand.
        from: Lane,
        /// Lane type of the result.
        to: Lane,
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
    },
    /// Rounds an f32 or f64 lane to a narrower format and back (`format` is a scalar code), saturating when `saturate`.
    RoundTo {
        /// Code of the scalar type.
        format: u8,
        /// Whether overflow gives the largest finite value.
        saturate: bool,
        /// Lane type.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
    },
    /// Combines `a` into partial `i mod 16` of accumulator `acc`, `i` the sequence's logical (row-major) index.
    /// Accumulators start at their identity.
    Accumulate {
        /// Function.
        f: SeReduce,
        /// Lane type.
        lane: Lane,
        /// Accumulator number.
        acc: u8,
        /// Operand.
        a: Reg,
    },
    /// `dst` = the 16 partials combined by halving: partial `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    Tree {
        /// Function.
        f: SeReduce,
        /// Lane type.
        lane: Lane,
        /// Result.
        dst: Reg,
        /// Accumulator number.
        acc: u8,
    },
}

/// Registers that an operation touches, each with its lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterUse {
    /// Registers that it reads.
    pub reads: Vec<(Reg, Lane)>,
    /// The register that it writes.
    pub writes: Option<(Reg, Lane)>,
}

impl Lane {
    /// Bits of a lane.
    pub const fn bits(self) -> u32 {
        match self {
            Lane::F32 | Lane::I32 => 32,
            Lane::F64 | Lane::I64 => 64,
        }
    }
}

impl SeOp {
    /// Registers that the operation reads and the one that it writes, each with its lane.
    pub fn registers(&self) -> RegisterUse {
        let (reads, writes) = match *self {
            SeOp::Load { dst, lane, .. } | SeOp::Const { dst, lane, .. } | SeOp::Tree { dst, lane, .. } => {
                (Vec::new(), Some((dst, lane)))
            }
            SeOp::Coord { dst, .. } => (Vec::new(), Some((dst, Lane::I32))),
            SeOp::Store { src, lane, .. } => (vec![(src, lane)], None),
            SeOp::Accumulate { a, lane, .. } => (vec![(a, lane)], None),
            SeOp::Unary { f, lane, dst, a } => {
                let mask = matches!(f, SeUnary::IsNan | SeUnary::IsInf);
                (vec![(a, lane)], Some((dst, if mask { Lane::I32 } else { lane })))
            }
            SeOp::Binary { f, lane, dst, a, b } => {
                let mask = matches!(f, SeBinary::Eq | SeBinary::Lt | SeBinary::Le);
                (vec![(a, lane), (b, lane)], Some((dst, if mask { Lane::I32 } else { lane })))
            }
            SeOp::Fma { lane, dst, a, b, c } => (vec![(a, lane), (b, lane), (c, lane)], Some((dst, lane))),
            SeOp::Select { lane, dst, c, a, b } => {
                (vec![(c, Lane::I32), (a, lane), (b, lane)], Some((dst, lane)))
            }
            SeOp::Convert { from, to, dst, a } => (vec![(a, from)], Some((dst, to))),
            SeOp::RoundTo { lane, dst, a, .. } => (vec![(a, lane)], Some((dst, lane))),
        };
        RegisterUse { reads, writes }
    }
}

/// An operand stream of a program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stream {
    /// Buffer, action and local view; the view's dimensions are those of the domain (stride 0 repeats).
    pub operand: Operand,
    /// How scales are chosen when the stream is written in a grouped format.
    pub mode: ScaleMode,
}

/// A program of the kernel's table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Program {
    /// Name in text forms.
    pub name: String,
    /// Number of the (local) view whose sizes, clipping and coordinates are the domain.
    pub domain: u16,
    /// Leading dimensions that are parallel, 0 to 5.
    pub parallel: u8,
    /// Operand streams; at most [`MAX_STREAMS`]. A stream whose action is push or update may be stored to.
    pub streams: Vec<Stream>,
    /// Constants, by lane type in the low bits.
    pub constants: Vec<u64>,
    /// Before the sequence.
    pub init: Vec<SeOp>,
    /// At each step of the sequence (at each element when there is none).
    pub body: Vec<SeOp>,
    /// After the sequence.
    pub finish: Vec<SeOp>,
}
