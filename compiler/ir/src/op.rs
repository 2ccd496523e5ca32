//! The operator table. Every operator of the IR is one row of [`for_each_op!`]; the enum, its name, its arity and its
//! attribute list are expansions of it, and so is the text form.
//!
//! Meaning, in real arithmetic and in the result's type, is defined by the evaluator; shapes and types by
//! [`crate::infer`].
//!
//! # Attention
//!
//! `q` is `[batch, heads, length, size]`, `k` is `[batch, groups, keys, size]` and `v` is `[batch, groups, keys, width]`;
//! heads are a multiple of groups, and head h attends to group `h / (heads / groups)`. The result is
//! `[batch, heads, length, width]` of type `elem`.
//!
//! A score is the product of a query and a key times `scale`; a positive `softcap` c bends it to `c * tanh(score / c)`. The
//! `mask` has these four dimensions (batch, heads, length, keys), each of which may be 1 and then repeats: a `bool` one
//! rejects a key where it is false, a floating-point one is added to the scores. Query i stands at position `i + shift`
//! among the keys: `causal` rejects keys behind it, a positive `window` w those before the last w up to it. Keys with a
//! score of minus infinity are rejected too.
//!
//! The weights are the softmax of a row's scores, 0 for rejected keys. A row whose keys are all rejected is empty; its
//! weights are what `empty_row` says. In typed mode, weights for values of less than 32 bits are rounded to their type before
//! they are divided by their sum: the exponentials are what multiplies the values.

use std::fmt;

use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::Combine;

use crate::entities::{ConstId, FuncId};
use crate::types::Shape;

/// A list of dimension numbers, sizes or steps.
pub type Dims = Vec<u8>;

/// A real attribute, compared by its bits.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Calls the macro `$m` with the whole table. A row is
/// `doc, Variant "text name" (min arity, max arity) { attribute: Type, .. }`.
#[macro_export]
macro_rules! for_each_op {
    ($m:ident) => {
        $m! {
            /// A constant of the module's pool.
            Const "const" (0, 0) { value: ConstId }
            /// Logical indices along `axis`, converted to `elem`: 0, 1, 2, ...
            Iota "iota" (0, 0) { elem: ScalarType, shape: Shape, axis: u8 }

            /// A function of one operand, element by element.
            Unary "unary" (1, 1) { op: UnaryOp }
            /// A function of two operands of equal type, element by element.
            Binary "binary" (2, 2) { op: BinaryOp }
            /// A relation of two operands of equal type; the result is `bool`.
            Compare "compare" (2, 2) { op: CompareOp }
            /// `select(c, a, b)`: `a` where the `bool` c holds, else `b`.
            Select "select" (3, 3) { }
            /// Conversion to another scalar type: to nearest even; float to integer truncates and saturates, NaN gives 0.
            /// With `saturate` false, overflow of an 8-bit float gives NaN or infinity as ONNX defines.
            Cast "cast" (1, 1) { to: ScalarType, saturate: bool }

            /// The bits of each element, read as another scalar type of equal width. The payload of a NaN need not stay.
            BitCast "bitcast" (1, 1) { to: ScalarType }

            /// The same elements in row-major order under another shape.
            Reshape "reshape" (1, 1) { shape: Shape }
            /// Result dimension `i` is operand dimension `perm[i]`.
            Permute "permute" (1, 1) { perm: Dims }
            /// Operand dimension `i` (of equal size, or 1) is result dimension `dims[i]`; others repeat. `dims` ascends.
            Broadcast "broadcast" (1, 1) { dims: Dims, shape: Shape }
            /// `result[i] = x[starts + i * steps]` in each dimension; steps are non-zero and of either sign.
            Slice "slice" (1, 1) { starts: Vec<i64>, shape: Shape, steps: Vec<i64> }
            /// `pad(x, value)`: `low` and `high` elements of the scalar `value` around each dimension.
            Pad "pad" (2, 2) { low: Vec<u64>, high: Vec<u64> }
            /// Operands one after the other along `axis`.
            Concat "concat" (1, 4096) { axis: u8 }
            /// Sliding windows without padding over `axes`: each becomes its number of positions, and one dimension per
            /// axis is appended with the elements of the window.
            Window "window" (1, 1) { axes: Dims, sizes: Vec<u64>, strides: Vec<u64>, dilations: Vec<u64> }

            /// `gather(x, i)`: dimension `axis` of x is replaced by the shape of i, without its `batch` leading dimensions,
            /// which are shared with x. Indices are non-negative.
            Gather "gather" (2, 2) { axis: u8, batch: u8 }

            /// A reduction that removes `axes`.
            Reduce "reduce" (1, 1) { op: ReduceOp, axes: Dims }
            /// Index (`i64`) of the extreme element along `axis`, which is removed; the first one, or the `last`.
            ArgReduce "arg_reduce" (1, 1) { max: bool, axis: u8, last: bool }
            /// Indices (`i64`) of the first `k` elements of each line along the last dimension, in order; equal ones in the order in
            /// which they stand, -0 as +0, and NaN as the greatest. Elements have at most 32 bits.
            Sort "sort" (1, 1) { k: u64, descending: bool }
            /// `scatter(x, i, u)`: `x` `[lanes, rows, width]` with the rows at positions `i` `[lanes, count]` (`i32` or `i64`) of each lane
            /// combined with `u` `[lanes, count, width]`, in the order of the updates. A position that no row has is an error.
            Scatter "scatter" (3, 3) { combine: Combine }
            /// Running reduction along `axis`.
            Cumulate "cumulate" (1, 1) { op: ReduceOp, axis: u8, exclusive: bool, reverse: bool }

            /// Sum of products over the labels that the result lacks: `contract(a, b)` with an einsum-like map.
            Contract "contract" (2, 2) { map: ContractMap, elem: ScalarType }
            /// Convolution `conv(x, w)`; see [`ConvAttrs`].
            Conv "conv" (2, 2) { attrs: ConvAttrs, elem: ScalarType }

            /// `exp(x - max) / sum` along `axis`, or its logarithm.
            Softmax "softmax" (1, 1) { axis: u8, log: bool }
            /// `norm(x, scale?, bias?)`: `(x - mean?) / sqrt(mean((x - mean?)^2) + eps) * scale + bias` over `axes`;
            /// scale and bias have the shape of the axes. The mean is subtracted when `centre`.
            Norm "norm" (1, 3) { axes: Dims, centre: bool, eps: Real }

            /// `attention(q, k, v, mask?)`: `softmax(q k^T * scale + mask) v`; see [the module](crate::op#attention).
            Attention "attention" (3, 4) {
                scale: Real, softcap: Real, causal: bool, shift: i64, window: u64, empty_row: EmptyRow, elem: ScalarType
            }

            /// Groups along `axis` with shared scales. The result is a grouped value.
            MxQuantize "mx_quantize" (1, 1) { format: GroupFormat, axis: u8, mode: ScaleMode }
            /// The exact values of a grouped operand.
            MxDecode "mx_decode" (1, 1) { to: ScalarType }

            /// `dequantize(q, scale, zero?)`: `(q - zero) * scale` in f32, rounded to `to`. In dimension `d` each `blocks[d]`
            /// neighbours share an element of scale and zero; the last block may be short.
            Dequantize "dequantize" (2, 3) { blocks: Vec<u64>, to: ScalarType }

            /// The results of a function of the module.
            Call "call" (0, 4096) { func: FuncId }
        }
    };
}

macro_rules! define_ops {
    ($($(#[$doc:meta])* $name:ident $text:literal ($min:literal, $max:literal) { $($field:ident : $ty:ty),* })*) => {
        /// An operator with its attributes.
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub enum Op { $($(#[$doc])* $name {
            $(
                #[expect(missing_docs, reason = "attributes are documented by their operator's row")]
                $field: $ty
            ),*
        },)* }

        impl Op {
            /// The name in text forms.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name { .. } => $text,)* }
            }

            /// Least and greatest number of operands.
            pub fn arity(&self) -> (usize, usize) {
                match self { $(Op::$name { .. } => ($min, $max),)* }
            }
        }
    };
}
for_each_op!(define_ops);

impl Op {
    /// Whether each element of the result depends on the elements of the operands, of the same shape, at its own index.
    pub fn is_elementwise(&self) -> bool {
        match self.family() {
            Family::Elementwise => true,
            Family::Source | Family::Movement | Family::Product | Family::Other => false,
        }
    }

    /// Whether the result is a view of the one operand: elements in other places, some left out or repeated.
    pub fn is_movement(&self) -> bool {
        match self.family() {
            Family::Movement => true,
            Family::Source | Family::Elementwise | Family::Product | Family::Other => false,
        }
    }

    /// Whether the operator sums products.
    pub fn is_product(&self) -> bool {
        match self.family() {
            Family::Product => true,
            Family::Source | Family::Elementwise | Family::Movement | Family::Other => false,
        }
    }

    fn family(&self) -> Family {
        match self {
            Op::Const { .. } | Op::Iota { .. } => Family::Source,
            Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } => Family::Elementwise,
            Op::Select {} | Op::Cast { .. } => Family::Elementwise,
            Op::Reshape { .. } | Op::Permute { .. } | Op::Broadcast { .. } => Family::Movement,
            Op::Slice { .. } | Op::Window { .. } => Family::Movement,
            Op::Contract { .. } | Op::Conv { .. } => Family::Product,
            Op::Pad { .. } | Op::Concat { .. } | Op::Gather { .. } | Op::Reduce { .. } => Family::Other,
            Op::ArgReduce { .. } | Op::Cumulate { .. } | Op::Softmax { .. } | Op::Norm { .. } => {
                Family::Other
            }
            Op::Sort { .. } | Op::Scatter { .. } | Op::BitCast { .. } | Op::Attention { .. } => Family::Other,
            Op::MxQuantize { .. } | Op::MxDecode { .. } | Op::Dequantize { .. } | Op::Call { .. } => {
                Family::Other
            }
        }
    }
}

/// Operators by what passes tell apart.
enum Family {
    Source,
    Elementwise,
    Movement,
    Product,
    Other,
}

macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name in text forms.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The value with this text name, if there is one.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($text => Some($name::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named_enum! {
    /// Functions of one operand.
    UnaryOp {
        /// `-x`.
        Neg "neg",
        /// Magnitude.
        Abs "abs",
        /// -1, 0 or 1 with the operand's sign; NaN stays.
        Sign "sign",
        /// Least integer not below.
        Ceil "ceil",
        /// Greatest integer not above.
        Floor "floor",
        /// Nearest integer, ties to even.
        Round "round",
        /// Logical or bitwise complement.
        Not "not",
        /// Natural exponential.
        Exp "exp",
        /// Natural logarithm.
        Log "log",
        /// Square root.
        Sqrt "sqrt",
        /// `1 / x`.
        Recip "recip",
        /// Sine.
        Sin "sin",
        /// Cosine.
        Cos "cos",
        /// Tangent.
        Tan "tan",
        /// Inverse sine.
        Asin "asin",
        /// Inverse cosine.
        Acos "acos",
        /// Inverse tangent.
        Atan "atan",
        /// Hyperbolic sine.
        Sinh "sinh",
        /// Hyperbolic cosine.
        Cosh "cosh",
        /// Hyperbolic tangent.
        Tanh "tanh",
        /// Inverse hyperbolic sine.
        Asinh "asinh",
        /// Inverse hyperbolic cosine.
        Acosh "acosh",
        /// Inverse hyperbolic tangent.
        Atanh "atanh",
        /// Gauss error function.
        Erf "erf",
        /// `1 / (1 + exp(-x))`.
        Sigmoid "sigmoid",
        /// `exp(x) - 1`, accurate next to zero.
        Expm1 "expm1",
        /// `log(1 + x)`, accurate next to zero.
        Log1p "log1p",
        /// Distribution function of the standard normal distribution, accurate in its lower tail.
        NormCdf "normcdf",
        /// Whether NaN; the result is `bool`.
        IsNan "isnan",
        /// Whether infinite; the result is `bool`.
        IsInf "isinf",
    }
}

named_enum! {
    /// Functions of two operands.
    BinaryOp {
        /// Sum.
        Add "add",
        /// Difference.
        Sub "sub",
        /// Product.
        Mul "mul",
        /// Quotient; integers truncate.
        Div "div",
        /// Remainder with the divisor's sign.
        Mod "mod",
        /// Remainder with the dividend's sign.
        Rem "rem",
        /// Power.
        Pow "pow",
        /// Lesser; NaN if either is NaN.
        Min "min",
        /// Greater; NaN if either is NaN.
        Max "max",
        /// Logical or bitwise and.
        And "and",
        /// Logical or bitwise or.
        Or "or",
        /// Logical or bitwise exclusive or.
        Xor "xor",
        /// Left shift.
        Shl "shl",
        /// Logical right shift.
        Shr "shr",
    }
}

named_enum! {
    /// Relations.
    CompareOp {
        /// Equal.
        Eq "eq",
        /// Less.
        Lt "lt",
        /// Less or equal.
        Le "le",
    }
}

named_enum! {
    /// Functions that reduce many elements to one.
    ReduceOp {
        /// Sum.
        Sum "sum",
        /// Arithmetic mean.
        Mean "mean",
        /// Product.
        Prod "prod",
        /// Greatest; NaN if any is NaN.
        Max "max",
        /// Least; NaN if any is NaN.
        Min "min",
    }
}

named_enum! {
    /// Weights of a row of attention that has no key left.
    EmptyRow {
        /// The same for every key.
        Uniform "uniform",
        /// Zeros.
        Zero "zero",
        /// NaN, as the quotient of a softmax is.
        Nan "nan",
    }
}

/// Which labels (small integers, printed as letters) the dimensions of the operands and the result of a contraction have.
///
/// A label in both operands and the result is a batch dimension; in both operands only, it is summed over; in one
/// operand and the result, it is free. Every label of the result occurs in an operand, every label of an operand that
/// the result lacks occurs in both operands, and none occurs twice in one list. Text form: `"bmk,bkn->bmn"`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContractMap {
    /// Labels of the first operand's dimensions.
    pub a: Dims,
    /// Labels of the second operand's dimensions.
    pub b: Dims,
    /// Labels of the result's dimensions.
    pub out: Dims,
}

impl ContractMap {
    /// Parses the einsum-like text form with letters `a` to `z`.
    pub fn parse(text: &str) -> Option<ContractMap> {
        let (ins, out) = text.split_once("->")?;
        let (a, b) = ins.split_once(',')?;
        let labels = |s: &str| -> Option<Dims> {
            s.bytes().map(|c| c.is_ascii_lowercase().then(|| c - b'a')).collect()
        };
        Some(ContractMap { a: labels(a)?, b: labels(b)?, out: labels(out)? })
    }

    /// Labels in both operands and the result, in result order.
    pub fn batch(&self) -> Dims {
        self.out.iter().copied().filter(|l| self.a.contains(l) && self.b.contains(l)).collect()
    }

    /// Labels of the result that only the first operand has, in result order.
    pub fn rows(&self) -> Dims {
        self.out.iter().copied().filter(|l| !self.b.contains(l)).collect()
    }

    /// Labels of the result that only the second operand has, in result order.
    pub fn columns(&self) -> Dims {
        self.out.iter().copied().filter(|l| !self.a.contains(l)).collect()
    }

    /// Labels that are summed over, in the first operand's order.
    pub fn summed(&self) -> Dims {
        self.a.iter().copied().filter(|l| !self.out.contains(l)).collect()
    }
}

impl fmt::Display for ContractMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The type rule keeps labels below 26.
        let letter = |l: u8| if l < 26 { char::from(b'a' + l) } else { '?' };
        let letters = |dims: &[u8]| dims.iter().map(|&l| letter(l)).collect::<String>();
        write!(f, "{},{}->{}", letters(&self.a), letters(&self.b), letters(&self.out))
    }
}

/// Attributes of a convolution over `s` spatial dimensions.
///
/// `x` holds the operand dimension of batch, of channels and of each spatial axis, `w` of output channels, of input
/// channels per group and of each spatial axis, `out` of batch, of channels and of each spatial axis. Output position
/// `o` of a spatial axis reads `x[o * stride + k * dilation - low]`, where x is first spread by `x_dilation` with
/// zeros between elements (transposed convolution).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConvAttrs {
    /// Dimensions of the first operand: batch, channels, spatial axes.
    pub x: Dims,
    /// Dimensions of the second operand: output channels, input channels, spatial axes.
    pub w: Dims,
    /// Dimensions of the result: batch, channels, spatial axes.
    pub out: Dims,
    /// Step of each spatial axis.
    pub strides: Vec<u64>,
    /// Distance of kernel elements.
    pub dilations: Vec<u64>,
    /// Spread of the operand before the convolution: 1 leaves it.
    pub x_dilations: Vec<u64>,
    /// Zeros before each spatial axis; negative crops.
    pub low: Vec<i64>,
    /// Zeros after each spatial axis; negative crops.
    pub high: Vec<i64>,
    /// Groups of channels that do not mix.
    pub groups: u64,
}
