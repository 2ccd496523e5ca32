//! Element-wise expressions and their SE programs.
//!
//! An expression is a DAG over one iteration space. Its leaves are loads of places, constants, coordinates, and the
//! result of the kernel's own product or reduction (the *hero*). Compiling it gives straight-line SE operations over
//! registers; values of narrow float types are rounded after each operation, as the IR's typed meaning demands.

use lacuna_ir::op::{BinaryOp, UnaryOp};
use lacuna_ir::{Op, Shape};
use lacuna_isa::format::ScalarType;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeOp, SeUnary};

use crate::code::{Code, lane};
use crate::ints;
use crate::place::Place;
use crate::refusal::Refusal;

/// Number of an expression node.
pub type ExprId = usize;

/// One node of an expression.
#[derive(Clone, Debug)]
pub enum ExprNode {
    /// Load number `usize` of [`Expr::leaves`].
    Leaf(usize),
    /// A constant, as the real or integer value's bits in its lane.
    Const(u64),
    /// The logical coordinate along a dimension of the space.
    Iota(usize),
    /// What the kernel itself computes.
    Hero,
    /// An element-wise operator.
    Op(Box<Op>, Vec<ExprId>),
}

/// A load of a place over the iteration space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Place with one stride per dimension of the space.
    pub place: Place,
    /// Element type.
    pub elem: ScalarType,
    /// Padding: per dimension the coordinate of index 0 and the number of elements that exist; outside, `fill` applies.
    pub pad: Option<(Vec<i64>, Vec<u64>, lacuna_isa::inst::Fill)>,
}

/// An expression.
#[derive(Clone, Debug, Default)]
pub struct Expr {
    /// Nodes; operands precede users.
    pub nodes: Vec<(ExprNode, ScalarType)>,
    /// Loads.
    pub leaves: Vec<Leaf>,
    /// The iteration space.
    pub shape: Shape,
}

impl Expr {
    /// An expression over `shape`.
    pub fn new(shape: Shape) -> Expr {
        Expr { nodes: Vec::new(), leaves: Vec::new(), shape }
    }

    /// Adds a node.
    pub fn add(&mut self, node: ExprNode, elem: ScalarType) -> ExprId {
        self.nodes.push((node, elem));
        self.nodes.len() - 1
    }

    /// Adds a load, or finds the equal one.
    pub fn leaf(&mut self, leaf: Leaf) -> ExprId {
        let elem = leaf.elem;
        let number = self.leaves.iter().position(|l| *l == leaf).unwrap_or_else(|| {
            self.leaves.push(leaf);
            self.leaves.len() - 1
        });
        self.add(ExprNode::Leaf(number), elem)
    }

    /// Whether the expression is one load of a place or of the hero.
    pub fn is_copy(&self) -> bool {
        matches!(self.nodes[..], [(ExprNode::Leaf(_) | ExprNode::Hero, _)])
    }
}

/// Compiles an expression. `streams[i]` is the stream of leaf i, `hero` the register that holds the hero's value or its
/// stream; `pad` counts the unit dimensions before the space's own in the domain. Returns the result's register.
///
/// # Errors
/// When an operator has no SE operation for its type, or registers run out.
pub fn compile(
    expr: &Expr,
    code: &mut Code,
    streams: &[u8],
    hero: Hero,
    dim_of: &dyn Fn(usize) -> u8,
) -> Result<Reg, Refusal> {
    let mut last_use = vec![0usize; expr.nodes.len()];
    for (i, (node, _)) in expr.nodes.iter().enumerate() {
        if let ExprNode::Op(_, args) = node {
            for &a in args {
                last_use[a] = i;
            }
        }
    }
    let mut regs: Vec<Option<Reg>> = vec![None; expr.nodes.len()];
    for (i, (node, elem)) in expr.nodes.iter().enumerate() {
        let lane = lane(*elem);
        let dst = match node {
            ExprNode::Leaf(leaf) => {
                let dst = code.reg()?;
                code.ops.push(SeOp::Load { dst, lane, stream: streams[*leaf] });
                dst
            }
            ExprNode::Const(bits) => code.constant(lane, *bits)?,
            ExprNode::Iota(dim) => {
                let at = code.reg()?;
                code.ops.push(SeOp::Coord { dst: at, dim: dim_of(*dim) });
                convert(code, Lane::I32, lane, at)?
            }
            ExprNode::Hero => match hero {
                Hero::Reg(reg) => reg,
                Hero::Stream(stream) => {
                    let dst = code.reg()?;
                    code.ops.push(SeOp::Load { dst, lane: Lane::F32, stream });
                    narrow(code, *elem, false, dst)?
                }
                Hero::None => {
                    return Err(Refusal::Contradiction(
                        "an expression without a product refers to one".into(),
                    ));
                }
            },
            ExprNode::Op(op, args) => {
                let operands: Vec<(Reg, ScalarType)> = args
                    .iter()
                    .map(|&a| {
                        regs[a]
                            .map(|r| (r, expr.nodes[a].1))
                            .ok_or(Refusal::Contradiction("an operand follows its user".into()))
                    })
                    .collect::<Result<_, _>>()?;
                let dst = emit(code, op, &operands, *elem)?;
                let dst = round(code, *elem, op, dst)?;
                for (n, &a) in args.iter().enumerate() {
                    if last_use[a] == i && !args[..n].contains(&a) && regs[a] != Some(dst) {
                        regs[a].into_iter().for_each(|reg| code.release(reg));
                    }
                }
                dst
            }
        };
        regs[i] = Some(dst);
    }
    regs.last().copied().flatten().ok_or_else(|| Refusal::Contradiction("an empty expression".into()))
}

/// Where the hero's value is.
#[derive(Clone, Copy, Debug)]
pub enum Hero {
    /// There is none.
    None,
    /// In a register.
    Reg(Reg),
    /// In an f32 stream (an accumulator bank).
    Stream(u8),
}

fn convert(code: &mut Code, from: Lane, to: Lane, a: Reg) -> Result<Reg, Refusal> {
    if from == to {
        return Ok(a);
    }
    let dst = code.reg()?;
    code.ops.push(SeOp::Convert { from, to, dst, a });
    Ok(dst)
}

/// Rounds the result of an operator to a type narrower than its lane.
fn round(code: &mut Code, elem: ScalarType, op: &Op, a: Reg) -> Result<Reg, Refusal> {
    let exact = matches!(
        op,
        Op::Select {} | Op::Unary { op: UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign } | Op::Compare { .. }
    );
    if exact {
        return Ok(a);
    }
    // Saturation is a matter of 8-bit floats alone; wider ones overflow to infinity.
    let eight_bits = elem.is_float() && elem.bits() <= 8;
    let Op::Cast { saturate, .. } = *op else { return narrow(code, elem, false, a) };
    if eight_bits && !saturate {
        overflow_to_nan(code, elem, Lane::F32, a)?;
    }
    narrow(code, elem, eight_bits && saturate, a)
}

/// Replaces what an 8-bit float without infinity cannot hold by NaN, in place.
fn overflow_to_nan(code: &mut Code, elem: ScalarType, lane: Lane, a: Reg) -> Result<(), Refusal> {
    // The midpoint of the greatest value and its successor rounds away where the greatest code is odd.
    let (bound, f) = match elem {
        ScalarType::E4M3 => (464.0f64, SeBinary::Lt),
        ScalarType::E4M3Fnuz => (248.0, SeBinary::Le),
        ScalarType::E5M2Fnuz => (61440.0, SeBinary::Le),
        _ => return Ok(()),
    };
    let bits = |v: f64| if lane == Lane::F64 { v.to_bits() } else { u64::from((v as f32).to_bits()) };
    let bound = code.constant(lane, bits(bound))?;
    let nan = code.constant(lane, bits(f64::NAN))?;
    let magnitude = code.unary(SeUnary::Abs, lane, a)?;
    let over = code.binary(f, lane, bound, magnitude)?;
    code.ops.push(SeOp::Select { lane, dst: a, c: over, a: nan, b: a });
    [bound, nan, magnitude, over].into_iter().for_each(|r| code.release(r));
    Ok(())
}

fn narrow(code: &mut Code, elem: ScalarType, saturate: bool, a: Reg) -> Result<Reg, Refusal> {
    if !elem.is_float() || matches!(elem, ScalarType::F32 | ScalarType::F64) {
        return Ok(a);
    }
    let dst = code.reg()?;
    code.ops.push(SeOp::RoundTo { format: elem as u8, saturate, lane: Lane::F32, dst, a });
    code.release(a);
    Ok(dst)
}

/// The function of the SE for an operator on elements of type `ty`.
fn simd_unary(op: UnaryOp, ty: ScalarType) -> SeUnary {
    match op {
        UnaryOp::Neg => SeUnary::Neg,
        UnaryOp::Abs => SeUnary::Abs,
        UnaryOp::Sign => SeUnary::Sign,
        UnaryOp::Ceil => SeUnary::Ceil,
        UnaryOp::Floor => SeUnary::Floor,
        UnaryOp::Round => SeUnary::Round,
        UnaryOp::Not if ty == ScalarType::Bool => SeUnary::Not,
        UnaryOp::Not => SeUnary::Inv,
        UnaryOp::Exp => SeUnary::Exp,
        UnaryOp::Log => SeUnary::Log,
        UnaryOp::Sqrt => SeUnary::Sqrt,
        UnaryOp::Recip => SeUnary::Recip,
        UnaryOp::Sin => SeUnary::Sin,
        UnaryOp::Cos => SeUnary::Cos,
        UnaryOp::Tan => SeUnary::Tan,
        UnaryOp::Asin => SeUnary::Asin,
        UnaryOp::Acos => SeUnary::Acos,
        UnaryOp::Atan => SeUnary::Atan,
        UnaryOp::Sinh => SeUnary::Sinh,
        UnaryOp::Cosh => SeUnary::Cosh,
        UnaryOp::Tanh => SeUnary::Tanh,
        UnaryOp::Asinh => SeUnary::Asinh,
        UnaryOp::Acosh => SeUnary::Acosh,
        UnaryOp::Atanh => SeUnary::Atanh,
        UnaryOp::Erf => SeUnary::Erf,
        UnaryOp::Sigmoid => SeUnary::Sigmoid,
        UnaryOp::Expm1 => SeUnary::Expm1,
        UnaryOp::Log1p => SeUnary::Log1p,
        UnaryOp::NormCdf => SeUnary::NormCdf,
        UnaryOp::IsNan => SeUnary::IsNan,
        UnaryOp::IsInf => SeUnary::IsInf,
    }
}

fn simd_binary(op: BinaryOp) -> SeBinary {
    match op {
        BinaryOp::Add => SeBinary::Add,
        BinaryOp::Sub => SeBinary::Sub,
        BinaryOp::Mul => SeBinary::Mul,
        BinaryOp::Div => SeBinary::Div,
        BinaryOp::Mod => SeBinary::Mod,
        BinaryOp::Rem => SeBinary::Rem,
        BinaryOp::Pow => SeBinary::Pow,
        BinaryOp::Min => SeBinary::Min,
        BinaryOp::Max => SeBinary::Max,
        BinaryOp::And => SeBinary::And,
        BinaryOp::Or => SeBinary::Or,
        BinaryOp::Xor => SeBinary::Xor,
        BinaryOp::Shl => SeBinary::Shl,
        BinaryOp::Shr => SeBinary::Shr,
    }
}

/// A float in a wide lane as one of a narrower type: one rounding, while the lane is still wide.
fn cast_down(
    code: &mut Code,
    (from, to): (Lane, ScalarType),
    a: Reg,
    saturate: bool,
) -> Result<Reg, Refusal> {
    let eight_bits = to.bits() <= 8;
    let dst = code.unary(SeUnary::Mov, from, a)?;
    if eight_bits && !saturate {
        overflow_to_nan(code, to, from, dst)?;
    }
    let saturate = eight_bits && saturate;
    code.ops.push(SeOp::RoundTo { format: to as u8, saturate, lane: from, dst, a: dst });
    code.ops.push(SeOp::Convert { from, to: lane(to), dst, a: dst });
    Ok(dst)
}

fn emit(code: &mut Code, op: &Op, args: &[(Reg, ScalarType)], elem: ScalarType) -> Result<Reg, Refusal> {
    let (a, ty) = args[0];
    let from = lane(ty);
    match op {
        // Of u64, which is its own magnitude, the lane's sign says nothing.
        Op::Unary { op: UnaryOp::Abs } if ty == ScalarType::U64 => code.unary(SeUnary::Mov, from, a),
        Op::Unary { op: UnaryOp::Sign } if ty == ScalarType::U64 => {
            let one = code.constant(from, 1)?;
            let sign = ints::binary(code, BinaryOp::Min, ty, a, one)?;
            code.release(one);
            Ok(sign)
        }
        // Minus true is not 0, and so true.
        Op::Unary { op: UnaryOp::Neg } if ty == ScalarType::Bool => code.unary(SeUnary::Mov, from, a),
        Op::Unary { op: f } => {
            let f = simd_unary(*f, ty);
            if !ty.is_float() && f.is_float_only() {
                return ints::real_function(code, f, ty, a);
            }
            let dst = code.unary(f, from, a)?;
            // The magnitude of the least value, the negative or the complement of an unsigned one leave the range.
            if !matches!(f, SeUnary::IsNan | SeUnary::IsInf) {
                ints::wrap(code, ty, dst)?;
            }
            Ok(dst)
        }
        Op::Binary { op: f } if ty == ScalarType::Bool => ints::binary_bool(code, *f, a, args[1].0),
        Op::Binary { op: f } if ty.is_int() => ints::binary(code, *f, ty, a, args[1].0),
        Op::Binary { op: f } => code.binary(simd_binary(*f), from, a, args[1].0),
        Op::Compare { op: f } => ints::compare(code, *f, ty, a, args[1].0),
        Op::Select {} => {
            let dst = code.reg()?;
            code.ops.push(SeOp::Select { lane: lane(elem), dst, c: a, a: args[1].0, b: args[2].0 });
            Ok(dst)
        }
        Op::Cast { to: ScalarType::Bool, .. } => {
            let zero = code.constant(from, 0)?;
            let equal = code.binary(SeBinary::Eq, from, a, zero)?;
            code.unary(SeUnary::Not, Lane::I32, equal)
        }
        Op::Cast { to, saturate } => {
            let to_lane = lane(*to);
            match (ty.is_float(), to.is_float()) {
                (false, false) => ints::from_int(code, ty, *to, a),
                (true, false) => ints::from_float(code, from, *to, a),
                (false, true) => ints::to_float(code, ty, to_lane, a),
                (true, true) if from == to_lane => code.unary(SeUnary::Mov, from, a),
                (true, true) if !matches!(to, ScalarType::F32 | ScalarType::F64) => {
                    cast_down(code, (from, *to), a, *saturate)
                }
                (true, true) => convert(code, from, to_lane, a),
            }
        }
        Op::Const { .. }
        | Op::Iota { .. }
        | Op::BitCast { .. }
        | Op::Reshape { .. }
        | Op::Permute { .. }
        | Op::Broadcast { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Window { .. }
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::ArgReduce { .. }
        | Op::Cumulate { .. }
        | Op::Sort { .. }
        | Op::Scatter { .. }
        | Op::Contract { .. }
        | Op::Conv { .. }
        | Op::Softmax { .. }
        | Op::Norm { .. }
        | Op::Attention { .. }
        | Op::MxQuantize { .. }
        | Op::MxDecode { .. }
        | Op::Dequantize { .. }
        | Op::Call { .. } => Err(Refusal::Unimplemented(format!("`{}` is not element-wise", op.name()))),
    }
}
