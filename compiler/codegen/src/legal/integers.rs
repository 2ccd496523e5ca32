//! Integer products on the DPE.
//!
//! The DPE adds in f32, which is exact as long as no sum exceeds 2^24. Where operands are known to be small, an integer product is a
//! few products of f32 over parts of the summed dimension, each of which cannot exceed it, and the parts are added as integers: 8-bit
//! operands without zero points sum 1,024 terms at a time. The bits are those of the integer product.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::infer::TypeError;
use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs, UnaryOp};
use lacuna_ir::{ConstId, Constant, ConstantData, Function, FunctionBuilder, Module, Op, Shape, Value};
use lacuna_isa::format::{ScalarType, pack};

/// Integers up to this have an f32, and so have all sums that stay within it.
const EXACT: u64 = 1 << 24;
/// Magnitudes up to this count as small: sums of a few of them do not overflow.
const SMALL: i64 = 1 << 30;
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
    /// What is cut.
    cut: Cut,
    /// The ranges of it.
    ranges: Vec<Range<u64>>,
}

/// Which summed dimension of a product is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Cut {
    /// One dimension of each operand.
    Axes([usize; 2]),
    /// The channels of each group of a convolution: a dimension of the first operand, which has all groups' channels, and one of the
    /// second.
    Groups([usize; 2]),
    /// The kernel along a spatial axis.
    Kernel(usize),
}

/// What is known of the integers of a function.
pub struct Intervals<'a> {
    module: &'a Module,
    func: &'a Function,
    /// Between which numbers constants are: many products may share one.
    constants: RefCell<HashMap<ConstId, Option<(i64, i64)>>>,
}

/// The parts of an integer contraction or convolution, if its operands are small enough.
pub fn parts_of(known: &Intervals<'_>, op: &Op, args: &[Value]) -> Option<Parts> {
    let func = known.func;
    let bounds = [known.bound(args[0])?, known.bound(args[1])?];
    let terms = EXACT / bounds[0].max(1).checked_mul(bounds[1].max(1))?;
    let shape = |i: usize| &func.ty(args[i]).shape;
    // The summed dimension that is cut, its size, and terms for each of its elements.
    let (cut, size, each) = match op {
        Op::Contract { map, .. } => {
            let summed = map.summed();
            let at = |labels: &[u8], label: u8| labels.iter().position(|&l| l == label);
            let sizes =
                summed.iter().map(|&l| Some(shape(0)[at(&map.a, l)?])).collect::<Option<Vec<u64>>>()?;
            let (i, size) = sizes.iter().copied().enumerate().max_by_key(|&(i, n)| (n, i))?;
            let axes = [at(&map.a, summed[i])?, at(&map.b, summed[i])?];
            (Cut::Axes(axes), size, sizes.iter().product::<u64>() / size.max(1))
        }
        Op::Conv { attrs, .. } => {
            let axes = [usize::from(attrs.x[1]), usize::from(attrs.w[1])];
            let size = shape(1)[axes[1]];
            let all = shape(1).elements() / shape(1)[usize::from(attrs.w[0])].max(1);
            let cut = if attrs.groups > 1 { Cut::Groups(axes) } else { Cut::Axes(axes) };
            // Where not even one channel may be summed, the kernel is cut.
            let kernel = |i: usize| shape(1)[usize::from(attrs.w[i + 2])];
            let widest = (0..attrs.strides.len()).max_by_key(|&i| kernel(i));
            match widest.filter(|_| all / size.max(1) > terms) {
                Some(i) => (Cut::Kernel(i), kernel(i), all / kernel(i).max(1)),
                None => (cut, size, all / size.max(1)),
            }
        }
        _ => return None,
    };
    let per_part = (terms / each.max(1)).min(size);
    let n_parts = size.div_ceil(per_part.max(1));
    if size == 0 || per_part == 0 || n_parts > MAX_PARTS {
        return None;
    }
    // Equal parts, so that kernels are shared.
    let per_part = size.div_ceil(n_parts);
    let ranges = (0..n_parts)
        .map(|i| i * per_part..((i + 1) * per_part).min(size))
        .filter(|r| !r.is_empty())
        .collect();
    let types = bounds.map(|b| if b <= EXACT_BF16 { ScalarType::Bf16 } else { ScalarType::F32 });
    Some(Parts { types, cut, ranges })
}

impl<'a> Intervals<'a> {
    /// Of a function of a module.
    pub fn of(module: &'a Module, func: &'a Function) -> Intervals<'a> {
        Intervals { module, func, constants: RefCell::default() }
    }

    /// The greatest magnitude that an integer value can have, if it is known to be small.
    fn bound(&self, value: Value) -> Option<u64> {
        let (low, high) = self.interval(value, 0)?;
        Some(low.unsigned_abs().max(high.unsigned_abs()))
    }

    /// Between which numbers an integer value is, if it is known to be small.
    fn interval(&self, value: Value, depth: usize) -> Option<(i64, i64)> {
        let own = of_type(self.func.ty(value).elem.scalar()?);
        match (own, self.of_operator(value, depth)) {
            (Some(a), Some(b)) => Some((a.0.max(b.0), a.1.min(b.1))),
            (a, b) => a.or(b),
        }
    }

    fn of_operator(&self, value: Value, depth: usize) -> Option<(i64, i64)> {
        let func = self.func;
        let node = &func.nodes[func.def(value)?];
        if depth > MAX_DEPTH {
            return None;
        }
        let arg = |i: usize| {
            let &arg = node.args.get(i)?;
            self.interval(arg, depth + 1)
        };
        let hull = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        let all = || {
            let others = (1..node.args.len()).map(arg);
            others.fold(arg(0), |hulled, next| Some(hull(hulled?, next?)))
        };
        // Sums of small numbers stay within wide types; those within a type of their own wrap, and are as wide as it.
        let signed = |range: (i64, i64)| {
            let elem = func.ty(value).elem.scalar()?;
            let fits = of_type(elem).is_none_or(|own| own.0 <= range.0 && range.1 <= own.1);
            (is_signed(elem) && fits && range.0 >= -SMALL && range.1 <= SMALL).then_some(range)
        };
        match &node.op {
            Op::Const { value } => {
                let of = || of_constant(&self.module.constants[*value]);
                *self.constants.borrow_mut().entry(*value).or_insert_with(of)
            }
            // A negative value wraps to a large one in an unsigned type.
            Op::Cast { .. } => arg(0).and_then(signed),
            Op::Unary { op: UnaryOp::Neg } => arg(0).map(|(low, high)| (-high, -low)).and_then(signed),
            Op::Unary { op: UnaryOp::Abs } => {
                arg(0).map(|(low, high)| (0, low.abs().max(high.abs()))).and_then(signed)
            }
            Op::Binary { op: BinaryOp::Add } => {
                let ((a, b), (c, d)) = (arg(0)?, arg(1)?);
                signed((a + c, b + d))
            }
            Op::Binary { op: BinaryOp::Sub } => {
                let ((a, b), (c, d)) = (arg(0)?, arg(1)?);
                signed((a - d, b - c))
            }
            Op::Binary { op: BinaryOp::Max | BinaryOp::Min } | Op::Concat { .. } | Op::Pad { .. } => all(),
            Op::Select {} => Some(hull(arg(1)?, arg(2)?)),
            Op::Gather { .. } => arg(0),
            op if op.is_movement() => arg(0),
            _ => None,
        }
    }
}

/// The least and the greatest value of an integer type of up to 16 bits.
fn of_type(elem: ScalarType) -> Option<(i64, i64)> {
    match elem {
        _ if elem.is_float() || elem.bits() > 16 => None,
        ScalarType::Bool => Some((0, 1)),
        _ if is_signed(elem) => Some((-(1i64 << (elem.bits() - 1)), (1i64 << (elem.bits() - 1)) - 1)),
        _ => Some((0, (1i64 << elem.bits()) - 1)),
    }
}

/// The least and the greatest element of a constant of integers.
fn of_constant(constant: &Constant) -> Option<(i64, i64)> {
    let n = constant.ty.shape.elements();
    let elem = constant.ty.elem.scalar().filter(|elem| !elem.is_float())?;
    if n > MAX_SCANNED {
        return None;
    }
    // Integers above 2^53 are rounded, and are far from small.
    let small = |code: u64| Some(elem.decode(code)).filter(|v| v.abs() <= SMALL as f64).map(|v| v as i64);
    match &constant.data {
        ConstantData::Splat(code) => small(*code).map(|v| (v, v)),
        ConstantData::Dense(blob) => {
            let mut found = (i64::MAX, i64::MIN);
            for i in 0..n as usize {
                let v = small(pack::get(blob.bytes(), elem, i))?;
                found = (found.0.min(v), found.1.max(v));
            }
            (n > 0).then_some(found)
        }
    }
}

fn is_signed(elem: ScalarType) -> bool {
    use ScalarType::{I2, I4, I8, I16, I32, I64};
    matches!(elem, I2 | I4 | I8 | I16 | I32 | I64)
}

/// Constants that were cut at compile time, since products pack only constants: what is cut, its type then, and how.
pub type Cuts = HashMap<(ConstId, ScalarType, Vec<Op>), Value>;

/// An operand that is taken in parts, in a type that has its values.
struct Whole {
    value: Value,
    to: ScalarType,
    constant: Option<ConstId>,
}

/// The one result of an operator on a constant.
fn computed(module: &Module, op: &Op, x: &Tensor) -> Result<Tensor, TypeError> {
    let results = eval_op(module, op, &[x], Mode::Typed).map_err(|e| TypeError(e.to_string()))?;
    results.into_iter().next().ok_or_else(|| TypeError("no result".into()))
}

impl Whole {
    fn new(b: &mut FunctionBuilder<'_>, value: Value, to: ScalarType) -> Result<Whole, TypeError> {
        let constant = b.func().as_const(value);
        let cast = Op::Cast { to, saturate: true };
        let value = if constant.is_some() { value } else { b.emit(cast, &[value])? };
        Ok(Whole { value, to, constant })
    }

    /// The operand over a range of one of its dimensions.
    fn part(
        &self,
        b: &mut FunctionBuilder<'_>,
        cuts: &mut Cuts,
        axis: usize,
        range: &Range<u64>,
    ) -> Result<Value, TypeError> {
        self.through(b, cuts, &[sliced(&b.ty(self.value).shape, axis, range)])
    }

    /// The operand with a range of the channels of each of `groups` groups, which are those of one dimension.
    fn part_of_groups(
        &self,
        b: &mut FunctionBuilder<'_>,
        cuts: &mut Cuts,
        axis: usize,
        groups: u64,
        range: &Range<u64>,
    ) -> Result<Value, TypeError> {
        let mut split = b.ty(self.value).shape.clone();
        let channels = split[axis] / groups.max(1);
        let mut joined = split.clone();
        joined.0[axis] = groups * (range.end - range.start);
        split.0.splice(axis..=axis, [groups, channels]);
        let cut = sliced(&split, axis + 1, range);
        self.through(b, cuts, &[Op::Reshape { shape: split }, cut, Op::Reshape { shape: joined }])
    }

    /// The operand after some movements.
    fn through(&self, b: &mut FunctionBuilder<'_>, cuts: &mut Cuts, ops: &[Op]) -> Result<Value, TypeError> {
        let Some(id) = self.constant else {
            return ops.iter().try_fold(self.value, |value, op| b.emit(op.clone(), &[value]));
        };
        let key = (id, self.to, ops.to_vec());
        if let Some(&cut) = cuts.get(&key) {
            return Ok(cut);
        }
        let constant = &b.module.constants[id];
        let name = constant.name.clone();
        let mut tensor = Tensor::from_constant(constant).map_err(|e| TypeError(e.to_string()))?;
        for op in [&Op::Cast { to: self.to, saturate: true }].into_iter().chain(ops) {
            tensor = computed(b.module, op, &tensor)?;
        }
        let cut = b.constant(Constant::dense(tensor.ty.clone(), tensor.to_bytes(), name))?;
        cuts.insert(key, cut);
        Ok(cut)
    }
}

/// A range of one dimension of a shape.
fn sliced(shape: &Shape, axis: usize, range: &Range<u64>) -> Op {
    let (mut shape, mut starts) = (shape.clone(), vec![0; shape.rank()]);
    starts[axis] = range.start as i64;
    shape.0[axis] = range.end - range.start;
    let steps = vec![1; shape.rank()];
    Op::Slice { starts, shape, steps }
}

/// Emits the parts of an integer contraction or convolution and adds them. `cuts` has the constants that other products have cut.
pub fn emit(
    b: &mut FunctionBuilder<'_>,
    cuts: &mut Cuts,
    op: &Op,
    parts: &Parts,
    args: &[Value],
) -> Result<Value, TypeError> {
    let (elem, product) = match op {
        Op::Contract { map, elem } => (*elem, contraction(map)),
        Op::Conv { attrs, elem } => (*elem, convolution(attrs)),
        op => return Err(TypeError(format!("`{}` is not a product", op.name()))),
    };
    let (x, w) = (Whole::new(b, args[0], parts.types[0])?, Whole::new(b, args[1], parts.types[1])?);
    let mut sum = None;
    for range in &parts.ranges {
        let (product, cut) = match (&parts.cut, op) {
            _ if parts.ranges.len() == 1 => {
                (product.clone(), [x.through(b, cuts, &[])?, w.through(b, cuts, &[])?])
            }
            (Cut::Groups(axes), Op::Conv { attrs, .. }) => {
                let channels = x.part_of_groups(b, cuts, axes[0], attrs.groups, range)?;
                (product.clone(), [channels, w.part(b, cuts, axes[1], range)?])
            }
            (Cut::Kernel(axis), Op::Conv { attrs, .. }) => {
                let kernel = w.part(b, cuts, usize::from(attrs.w[axis + 2]), range)?;
                let size = b.ty(args[1]).shape[usize::from(attrs.w[axis + 2])];
                (convolution(&behind(attrs, *axis, size, range)), [x.through(b, cuts, &[])?, kernel])
            }
            (Cut::Axes(axes) | Cut::Groups(axes), _) => {
                (product.clone(), [x.part(b, cuts, axes[0], range)?, w.part(b, cuts, axes[1], range)?])
            }
            (Cut::Kernel(_), _) => return Err(TypeError("a kernel of a contraction".into())),
        };
        let y = b.emit(product, &cut)?;
        let y = b.emit(Op::Cast { to: elem, saturate: true }, &[y])?;
        sum = Some(match sum {
            Some(sum) => b.binary(BinaryOp::Add, sum, y)?,
            None => y,
        });
    }
    sum.ok_or_else(|| TypeError("a product without terms".into()))
}

/// The convolution by a range of a kernel of so many elements along one axis: what it skips is cropped or not padded.
fn behind(attrs: &ConvAttrs, axis: usize, size: u64, range: &Range<u64>) -> ConvAttrs {
    let mut attrs = attrs.clone();
    let step = attrs.dilations[axis] as i64;
    attrs.low[axis] -= range.start as i64 * step;
    attrs.high[axis] -= (size - range.end) as i64 * step;
    attrs
}

fn contraction(map: &ContractMap) -> Op {
    Op::Contract { map: map.clone(), elem: ScalarType::F32 }
}

fn convolution(attrs: &ConvAttrs) -> Op {
    Op::Conv { attrs: attrs.clone(), elem: ScalarType::F32 }
}
