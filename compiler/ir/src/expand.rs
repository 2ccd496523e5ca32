//! Composite operators as their parts: what they mean in operators of one step each.

use lacuna_isa::format::ScalarType;

use crate::build::FunctionBuilder;
use crate::infer::TypeError;
use crate::module::{Constant, ConstantData, Value};
use crate::op::{BinaryOp, CompareOp, ContractMap, EmptyRow, Op, Real, ReduceOp, UnaryOp};
use crate::types::{Shape, TensorType};

mod products;

pub use products::{contract_of_windows, conv, is_plain, outer_product};

/// The attributes of [`Op::Attention`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attention {
    /// Factor of the products.
    pub scale: Real,
    /// Bound that scores bend to, or 0.
    pub softcap: Real,
    /// Whether keys behind a query are rejected.
    pub causal: bool,
    /// Position of the first query among the keys.
    pub shift: i64,
    /// Number of keys up to a query's position that it sees, or 0 for all.
    pub window: u64,
    /// Weights of rows without keys.
    pub empty_row: EmptyRow,
    /// Type of the result.
    pub elem: ScalarType,
}

impl Attention {
    /// The attributes of an operator, if it is attention.
    pub fn of(op: &Op) -> Option<Attention> {
        let Op::Attention { scale, softcap, causal, shift, window, empty_row, elem } = *op else {
            return None;
        };
        Some(Attention { scale, softcap, causal, shift, window, empty_row, elem })
    }

    /// The operator.
    pub fn op(self) -> Op {
        let Attention { scale, softcap, causal, shift, window, empty_row, elem } = self;
        Op::Attention { scale, softcap, causal, shift, window, empty_row, elem }
    }

    /// Whether each of `length` queries sees some of `keys` keys, as far as positions decide.
    pub fn every_row_lives(&self, length: u64, keys: u64) -> bool {
        let last = i128::from(self.shift) + i128::from(length) - 1;
        let first_seen = !self.causal || self.shift >= 0;
        let last_seen = self.window == 0 || last - i128::from(self.window) < i128::from(keys) - 1;
        keys > 0 && first_seen && last_seen
    }
}

/// A value that repeats one number.
fn splat(
    b: &mut FunctionBuilder<'_>,
    elem: ScalarType,
    shape: &Shape,
    value: f64,
) -> Result<Value, TypeError> {
    let ty = TensorType::new(elem, shape.clone());
    b.constant(Constant::new(ty, ConstantData::Splat(elem.encode(value)), ""))
}

/// The keys that positions leave, `bool[length, keys]`.
fn positions(b: &mut FunctionBuilder<'_>, a: &Attention, length: u64, keys: u64) -> Result<Value, TypeError> {
    let matrix: Shape = vec![length, keys].into();
    let iota = |axis| Op::Iota { elem: ScalarType::I64, shape: vec![length, keys].into(), axis };
    let (row, column) = (b.emit(iota(0), &[])?, b.emit(iota(1), &[])?);
    let int = |b: &mut FunctionBuilder<'_>, value: i64| {
        let ty = TensorType::new(ScalarType::I64, matrix.clone());
        b.constant(Constant::new(ty, ConstantData::Splat(value as u64), ""))
    };
    let shift = int(b, a.shift)?;
    let position = b.binary(BinaryOp::Add, row, shift)?;
    let behind = b.emit(Op::Compare { op: CompareOp::Le }, &[column, position])?;
    if a.window == 0 {
        return Ok(behind);
    }
    let window = int(b, i64::try_from(a.window).unwrap_or(i64::MAX))?;
    let first = b.binary(BinaryOp::Sub, position, window)?;
    let near = b.emit(Op::Compare { op: CompareOp::Lt }, &[first, column])?;
    if a.causal { b.binary(BinaryOp::And, behind, near) } else { Ok(near) }
}

/// Attention as products, a softmax and what is between them.
///
/// # Errors
/// When the operands do not fit the operator.
pub fn attention(b: &mut FunctionBuilder<'_>, a: &Attention, args: &[Value]) -> Result<Value, TypeError> {
    let dims = |b: &FunctionBuilder<'_>, i: usize| b.ty(args[i]).shape.0.clone();
    let (q, k, v) = (dims(b, 0), dims(b, 1), dims(b, 2));
    let (&[batch, heads, length, size], &[_, groups, keys, _], &[.., width]) = (&q[..], &k[..], &v[..])
    else {
        return Err(TypeError("attention needs rank 4".into()));
    };
    let share = heads.checked_div(groups).unwrap_or(0);
    let map = |text: &str| ContractMap::parse(text).ok_or_else(|| TypeError(format!("map {text}")));
    let q = b.emit(Op::Reshape { shape: vec![batch, groups, share, length, size].into() }, &args[..1])?;
    let scores = b.emit(Op::Contract { map: map("abgqd,abkd->abgqk")?, elem: a.elem }, &[q, args[1]])?;
    let full: Shape = vec![batch, heads, length, keys].into();
    let mut scores = b.emit(Op::Reshape { shape: full.clone() }, &[scores])?;
    let scaled = |b: &mut FunctionBuilder<'_>, op, x, by: f64| {
        let by = splat(b, a.elem, &full, by)?;
        b.binary(op, x, by)
    };
    if a.scale.0 != 1.0 {
        scores = scaled(b, BinaryOp::Mul, scores, a.scale.0)?;
    }
    if a.softcap.0 > 0.0 {
        scores = scaled(b, BinaryOp::Div, scores, a.softcap.0)?;
        scores = b.unary(UnaryOp::Tanh, scores)?;
        scores = scaled(b, BinaryOp::Mul, scores, a.softcap.0)?;
    }
    let reject = |b: &mut FunctionBuilder<'_>, keep, scores| {
        let least = splat(b, a.elem, &full, f64::NEG_INFINITY)?;
        b.emit(Op::Select {}, &[keep, scores, least])
    };
    if let Some(&mask) = args.get(3) {
        let wide = b.emit(Op::Broadcast { dims: vec![0, 1, 2, 3], shape: full.clone() }, &[mask])?;
        scores = if b.ty(mask).elem.scalar() == Some(ScalarType::Bool) {
            reject(b, wide, scores)?
        } else {
            b.binary(BinaryOp::Add, scores, wide)?
        };
    }
    if a.causal || a.window > 0 {
        let keep = positions(b, a, length, keys)?;
        let keep = b.emit(Op::Broadcast { dims: vec![2, 3], shape: full.clone() }, &[keep])?;
        scores = reject(b, keep, scores)?;
    }
    let mut weights = b.emit(Op::Softmax { axis: 3, log: false }, &[scores])?;
    let fill = match a.empty_row {
        EmptyRow::Uniform => Some(1.0 / keys as f64),
        EmptyRow::Zero => Some(0.0),
        EmptyRow::Nan => None,
    };
    if let Some(fill) = fill.filter(|_| args.len() > 3 || !a.every_row_lives(length, keys)) {
        let best = b.emit(Op::Reduce { op: ReduceOp::Max, axes: vec![3] }, &[scores])?;
        let least = splat(b, a.elem, &full.0[..3].into(), f64::NEG_INFINITY)?;
        let empty = b.emit(Op::Compare { op: CompareOp::Eq }, &[best, least])?;
        let empty = b.emit(Op::Broadcast { dims: vec![0, 1, 2], shape: full.clone() }, &[empty])?;
        let fill = splat(b, a.elem, &full, fill)?;
        weights = b.emit(Op::Select {}, &[empty, fill, weights])?;
    }
    let of_values = b.ty(args[2]).elem.scalar().filter(|&to| to != a.elem);
    if let Some(to) = of_values {
        weights = b.emit(Op::Cast { to, saturate: true }, &[weights])?;
    }
    let weights =
        b.emit(Op::Reshape { shape: vec![batch, groups, share, length, keys].into() }, &[weights])?;
    let y = b.emit(Op::Contract { map: map("abgqk,abkd->abgqd")?, elem: a.elem }, &[weights, args[2]])?;
    b.emit(Op::Reshape { shape: vec![batch, heads, length, width].into() }, &[y])
}

/// A softmax along `axis`, or its logarithm, as reductions and what is between them. Types narrower than f32 are computed in f32.
///
/// # Errors
/// When the operand does not fit the operator.
pub fn softmax(b: &mut FunctionBuilder<'_>, axis: u8, log: bool, x: Value) -> Result<Value, TypeError> {
    let (x, own) = widened(b, x)?;
    let shape = b.ty(x).shape.clone();
    let axes = [axis];
    let greatest = b.emit(Op::Reduce { op: ReduceOp::Max, axes: axes.to_vec() }, &[x])?;
    let greatest = repeated(b, greatest, &shape, &axes)?;
    let shifted = b.binary(BinaryOp::Sub, x, greatest)?;
    let exp = b.unary(UnaryOp::Exp, shifted)?;
    let mut sum = b.emit(Op::Reduce { op: ReduceOp::Sum, axes: axes.to_vec() }, &[exp])?;
    if log {
        sum = b.unary(UnaryOp::Log, sum)?;
    }
    let sum = repeated(b, sum, &shape, &axes)?;
    let result =
        if log { b.binary(BinaryOp::Sub, shifted, sum)? } else { b.binary(BinaryOp::Div, exp, sum)? };
    narrowed(b, result, own)
}

/// A norm over `axes` as reductions and what is between them. Types narrower than f32 are computed in f32.
///
/// # Errors
/// When the operands do not fit the operator.
pub fn norm(
    b: &mut FunctionBuilder<'_>,
    axes: &[u8],
    centre: bool,
    eps: f64,
    args: &[Value],
) -> Result<Value, TypeError> {
    let (x, own) = widened(b, args[0])?;
    let shape = b.ty(x).shape.clone();
    let mean = Op::Reduce { op: ReduceOp::Mean, axes: axes.to_vec() };
    let mut value = x;
    if centre {
        let mean = b.emit(mean.clone(), &[x])?;
        let mean = repeated(b, mean, &shape, axes)?;
        value = b.binary(BinaryOp::Sub, x, mean)?;
    }
    let square = b.binary(BinaryOp::Mul, value, value)?;
    let variance = b.emit(mean, &[square])?;
    let of_rows = b.ty(variance).clone();
    let elem = of_rows.elem.scalar().ok_or_else(|| TypeError("a norm of groups".into()))?;
    let eps = splat(b, elem, &of_rows.shape, eps)?;
    let sum = b.binary(BinaryOp::Add, variance, eps)?;
    let root = b.unary(UnaryOp::Sqrt, sum)?;
    let one = splat(b, elem, &of_rows.shape, 1.0)?;
    let factor = b.binary(BinaryOp::Div, one, root)?;
    let factor = repeated(b, factor, &shape, axes)?;
    value = b.binary(BinaryOp::Mul, value, factor)?;
    for (&arg, op) in args[1..].iter().zip([BinaryOp::Mul, BinaryOp::Add]) {
        let (arg, _) = widened(b, arg)?;
        let wide = b.emit(Op::Broadcast { dims: axes.to_vec(), shape: shape.clone() }, &[arg])?;
        value = b.binary(op, value, wide)?;
    }
    narrowed(b, value, own)
}

/// A value in f32 if its type is a narrower float, and its own type.
fn widened(b: &mut FunctionBuilder<'_>, x: Value) -> Result<(Value, ScalarType), TypeError> {
    let own = b.ty(x).elem.scalar().ok_or_else(|| TypeError("a grouped operand".into()))?;
    let wide = matches!(own, ScalarType::F32 | ScalarType::F64);
    let cast = Op::Cast { to: ScalarType::F32, saturate: true };
    Ok((if wide { x } else { b.emit(cast, &[x])? }, own))
}

/// A value in another type, or as it is.
fn narrowed(b: &mut FunctionBuilder<'_>, x: Value, to: ScalarType) -> Result<Value, TypeError> {
    if b.ty(x).elem.scalar() == Some(to) {
        return Ok(x);
    }
    b.emit(Op::Cast { to, saturate: true }, &[x])
}

/// A value that lacks `axes`, repeated along them.
fn repeated(b: &mut FunctionBuilder<'_>, x: Value, shape: &Shape, axes: &[u8]) -> Result<Value, TypeError> {
    let dims = (0..shape.rank() as u8).filter(|d| !axes.contains(d)).collect();
    b.emit(Op::Broadcast { dims, shape: shape.clone() }, &[x])
}
