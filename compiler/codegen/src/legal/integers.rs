//! Integer products on the DPE.
//!
//! The DPE adds in f32, which is exact as long as no sum exceeds 2^24. Where operands are known to be small, an integer product is a
//! few products of f32 over parts of the summed dimension, each of which cannot exceed it, and the parts are added as integers: 8-bit
//! operands without zero points sum 1,024 terms at a time. The bits are those of the integer product.

use std::ops::Range;

use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::infer::TypeError;
use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs};
use lacuna_ir::{Constant, ConstantData, Function, FunctionBuilder, Module, Op, Value};
use lacuna_isa::format::{ScalarType, pack};

/// Integers up to this have an f32, and so have all sums that stay within it.
const EXACT: u64 = 1 << 24;
/// Integers up to this have a bf16.
const EXACT_BF16: u64 = 1 << 8;
/// Parts of a sum; more are not worth their launches.
const MAX_PARTS: u64 = 256;
/// Elements of a constant that are looked at.
const MAX_SCANNED: u64 = 1 << 28;
/// Operators between a value and what bounds it.
const MAX_DEPTH: usize = 16;

/// How an integer product becomes ones of floats.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// Types that have the operands' values.
    types: [ScalarType; 2],
    /// The dimension of each operand that is cut, and the ranges of it.
    axes: [usize; 2],
    ranges: Vec<Range<u64>>,
}

/// The parts of an integer contraction or convolution, if its operands are small enough.
pub fn parts_of(module: &Module, func: &Function, op: &Op, args: &[Value]) -> Option<Parts> {
    let bounds = [bound(module, func, args[0], 0)?, bound(module, func, args[1], 0)?];
    let terms = EXACT / bounds[0].max(1).checked_mul(bounds[1].max(1))?;
    let shape = |i: usize| &func.ty(args[i]).shape;
    // The summed dimension that is cut, its size, and terms for each of its elements.
    let (axes, size, each) = match op {
        Op::Contract { map, .. } => {
            let summed = map.summed();
            let at = |labels: &[u8], label: u8| labels.iter().position(|&l| l == label);
            let sizes =
                summed.iter().map(|&l| Some(shape(0)[at(&map.a, l)?])).collect::<Option<Vec<u64>>>()?;
            let (i, size) = sizes.iter().copied().enumerate().max_by_key(|&(i, n)| (n, i))?;
            let axes = [at(&map.a, summed[i])?, at(&map.b, summed[i])?];
            (axes, size, sizes.iter().product::<u64>() / size.max(1))
        }
        Op::Conv { attrs, .. } => {
            let axes = [usize::from(attrs.x[1]), usize::from(attrs.w[1])];
            let size = shape(1)[axes[1]];
            (axes, size, shape(1).elements() / shape(1)[usize::from(attrs.w[0])].max(1) / size.max(1))
        }
        _ => return None,
    };
    let per_part = (terms / each.max(1)).min(size);
    let n_parts = size.div_ceil(per_part.max(1));
    let grouped = matches!(op, Op::Conv { attrs, .. } if attrs.groups > 1);
    if size == 0 || per_part == 0 || n_parts > MAX_PARTS || (grouped && n_parts > 1) {
        return None;
    }
    // Equal parts, so that kernels are shared.
    let per_part = size.div_ceil(n_parts);
    let ranges = (0..n_parts)
        .map(|i| i * per_part..((i + 1) * per_part).min(size))
        .filter(|r| !r.is_empty())
        .collect();
    let types = bounds.map(|b| if b <= EXACT_BF16 { ScalarType::Bf16 } else { ScalarType::F32 });
    Some(Parts { types, axes, ranges })
}

/// The greatest magnitude that an integer value can have, if it is known to be small.
fn bound(module: &Module, func: &Function, value: Value, depth: usize) -> Option<u64> {
    let elem = func.ty(value).elem.scalar()?;
    let of_type = match elem {
        _ if elem.is_float() || elem.bits() > 16 => None,
        _ if is_signed(elem) => Some(1u64 << (elem.bits() - 1)),
        ScalarType::Bool => Some(1),
        _ => Some((1u64 << elem.bits()) - 1),
    };
    let narrower = of_operator(module, func, value, depth);
    match (of_type, narrower) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn of_operator(module: &Module, func: &Function, value: Value, depth: usize) -> Option<u64> {
    let node = &func.nodes[func.def(value)?];
    if depth > MAX_DEPTH {
        return None;
    }
    let arg = |i: usize| {
        let &arg = node.args.get(i)?;
        bound(module, func, arg, depth + 1)
    };
    let greatest = || (0..node.args.len()).map(arg).try_fold(0, |most, b| Some(most.max(b?)));
    match &node.op {
        Op::Const { value } => {
            let constant = &module.constants[*value];
            if constant.ty.shape.elements() > MAX_SCANNED {
                return None;
            }
            let elem = constant.ty.elem.scalar()?;
            // Integers above 2^53 are rounded, and are far from small.
            let magnitude = |code: u64| elem.decode(code).abs() as u64;
            match &constant.data {
                ConstantData::Splat(code) => Some(magnitude(*code)),
                ConstantData::Dense(blob) => {
                    let n = constant.ty.shape.elements() as usize;
                    (0..n).map(|i| magnitude(pack::get(blob.bytes(), elem, i))).max()
                }
            }
        }
        // A negative value wraps to a large one in an unsigned type.
        Op::Cast { to, .. } if is_signed(*to) => arg(0),
        Op::Unary { op: lacuna_ir::op::UnaryOp::Neg | lacuna_ir::op::UnaryOp::Abs }
            if is_signed(func.ty(value).elem.scalar()?) =>
        {
            arg(0)
        }
        Op::Binary { op: BinaryOp::Add | BinaryOp::Sub } if is_signed(func.ty(value).elem.scalar()?) => {
            arg(0)?.checked_add(arg(1)?)
        }
        Op::Binary { op: BinaryOp::Max | BinaryOp::Min } | Op::Concat { .. } | Op::Pad { .. } => greatest(),
        Op::Select {} => Some(arg(1)?.max(arg(2)?)),
        Op::Gather { .. } => arg(0),
        op if op.is_movement() => arg(0),
        _ => None,
    }
}

fn is_signed(elem: ScalarType) -> bool {
    use ScalarType::{I2, I4, I8, I16, I32, I64};
    matches!(elem, I2 | I4 | I8 | I16 | I32 | I64)
}

/// An operand that is taken in parts, in a type that has its values.
struct Whole {
    value: Value,
    /// The value where it is constant, cut at compile time: products pack only constants.
    constant: Option<(Tensor, String)>,
    axis: usize,
}

/// The one result of an operator on a constant.
fn computed(module: &Module, op: &Op, x: &Tensor) -> Result<Tensor, TypeError> {
    let results = eval_op(module, op, &[x], Mode::Typed).map_err(|e| TypeError(e.to_string()))?;
    results.into_iter().next().ok_or_else(|| TypeError("no result".into()))
}

impl Whole {
    fn new(
        b: &mut FunctionBuilder<'_>,
        value: Value,
        axis: usize,
        to: ScalarType,
    ) -> Result<Whole, TypeError> {
        let cast = Op::Cast { to, saturate: true };
        let Some(id) = b.func().as_const(value) else {
            return Ok(Whole { value: b.emit(cast, &[value])?, constant: None, axis });
        };
        let constant = &b.module.constants[id];
        let tensor = Tensor::from_constant(constant).map_err(|e| TypeError(e.to_string()))?;
        let tensor = computed(b.module, &cast, &tensor)?;
        Ok(Whole { value, constant: Some((tensor, constant.name.clone())), axis })
    }

    /// The operand over a range of its dimension.
    fn part(&self, b: &mut FunctionBuilder<'_>, range: &Range<u64>) -> Result<Value, TypeError> {
        let mut shape = b.ty(self.value).shape.clone();
        let rank = shape.rank();
        let mut starts = vec![0; rank];
        starts[self.axis] = range.start as i64;
        shape.0[self.axis] = range.end - range.start;
        let cut = Op::Slice { starts, shape, steps: vec![1; rank] };
        let Some((tensor, name)) = &self.constant else { return b.emit(cut, &[self.value]) };
        let part = computed(b.module, &cut, tensor)?;
        b.constant(Constant::dense(part.ty.clone(), part.to_bytes(), name.clone()))
    }
}

/// Emits the parts of an integer contraction or convolution and adds them.
pub fn emit(b: &mut FunctionBuilder<'_>, op: &Op, parts: &Parts, args: &[Value]) -> Result<Value, TypeError> {
    let (elem, product) = match op {
        Op::Contract { map, elem } => (*elem, contraction(map)),
        Op::Conv { attrs, elem } => (*elem, convolution(attrs)),
        op => return Err(TypeError(format!("`{}` is not a product", op.name()))),
    };
    let operands = (args.iter().zip(&parts.axes).zip(&parts.types))
        .map(|((&arg, &axis), &to)| Whole::new(b, arg, axis, to))
        .collect::<Result<Vec<Whole>, TypeError>>()?;
    let mut sum = None;
    for range in &parts.ranges {
        let mut cut = Vec::new();
        for operand in &operands {
            // The first operand of a grouped convolution counts the channels of all groups, and is never cut.
            let whole = 0..b.ty(operand.value).shape[operand.axis];
            cut.push(operand.part(b, if parts.ranges.len() == 1 { &whole } else { range })?);
        }
        let y = b.emit(product.clone(), &cut)?;
        let y = b.emit(Op::Cast { to: elem, saturate: true }, &[y])?;
        sum = Some(match sum {
            Some(sum) => b.binary(BinaryOp::Add, sum, y)?,
            None => y,
        });
    }
    sum.ok_or_else(|| TypeError("a product without terms".into()))
}

fn contraction(map: &ContractMap) -> Op {
    Op::Contract { map: map.clone(), elem: ScalarType::F32 }
}

fn convolution(attrs: &ConvAttrs) -> Op {
    Op::Conv { attrs: attrs.clone(), elem: ScalarType::F32 }
}
