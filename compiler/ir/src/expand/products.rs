//! Products in simpler ones: those that sum over nothing, convolutions over many axes or of spread operands, and those that no
//! engine but the vector engine computes.

use lacuna_isa::format::ScalarType;

use super::narrowed;
use crate::build::FunctionBuilder;
use crate::infer::TypeError;
use crate::module::{Constant, ConstantData, Value};
use crate::op::{BinaryOp, ContractMap, ConvAttrs, Op};
use crate::types::{Shape, TensorType};

/// A contraction that sums over nothing, as a product of its repeated operands: each element is rounded once, to `elem`.
///
/// # Errors
/// When the operands do not fit the operator, or `map` sums over a label.
pub fn outer_product(
    b: &mut FunctionBuilder<'_>,
    map: &ContractMap,
    elem: ScalarType,
    args: &[Value],
) -> Result<Value, TypeError> {
    if !map.summed().is_empty() {
        return Err(TypeError(format!("map {map} sums")));
    }
    let size = |b: &FunctionBuilder<'_>, label: u8| {
        let of =
            |labels: &[u8], arg: Value| labels.iter().position(|&l| l == label).map(|d| b.ty(arg).shape[d]);
        of(&map.a, args[0]).or_else(|| of(&map.b, args[1])).unwrap_or(1)
    };
    let shape: Shape = map.out.iter().map(|&l| size(b, l)).collect();
    let types: Vec<_> = args.iter().filter_map(|&arg| b.ty(arg).elem.scalar()).collect();
    // A sum of one term is exact before it is rounded, so narrower floats meet in f32.
    let common = match &types[..] {
        [a, other] if a == other && *a == elem => elem,
        _ if elem.is_float() && elem != ScalarType::F64 => ScalarType::F32,
        _ => elem,
    };
    let mut operands = Vec::new();
    for (labels, &arg) in [&map.a, &map.b].into_iter().zip(args) {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        let at = |d: &usize| map.out.iter().position(|l| *l == labels[*d]).unwrap_or(0) as u8;
        order.sort_by_key(at);
        let dims = order.iter().map(at).collect();
        let perm = order.iter().map(|&d| d as u8).collect();
        let x = narrowed(b, arg, common)?;
        let x = b.emit(Op::Permute { perm }, &[x])?;
        operands.push(b.emit(Op::Broadcast { dims, shape: shape.clone() }, &[x])?);
    }
    let y = b.binary(BinaryOp::Mul, operands[0], operands[1])?;
    narrowed(b, y, elem)
}

/// Whether a convolution is one over at most two axes, of an operand that is not spread: [`conv`] emits such ones.
pub fn is_plain(attrs: &ConvAttrs) -> bool {
    attrs.strides.len() <= 2 && attrs.x_dilations.iter().all(|&d| d == 1)
}

/// A convolution as a plain one: see [`is_plain`]. Spread operands get their zeros, and windows of all but the last two axes
/// become channels. Sums run in another order.
///
/// # Errors
/// When the operands do not fit the operator.
pub fn conv(
    b: &mut FunctionBuilder<'_>,
    attrs: &ConvAttrs,
    elem: ScalarType,
    x: Value,
    w: Value,
) -> Result<Value, TypeError> {
    if is_plain(attrs) {
        return b.emit(Op::Conv { attrs: attrs.clone(), elem }, &[x, w]);
    }
    let (x, w, mut rest) = canonical(b, attrs, x, w)?;
    let mut x = spread(b, &mut rest, x)?;
    let mut w = w;
    // Positions along the axes that are gone, outermost first.
    let mut positions = Vec::new();
    let batch = b.ty(x).shape[0];
    while rest.strides.len() > 2 {
        (x, w) = fold_axis(b, &mut rest, x, w, &mut positions)?;
    }
    let y = b.emit(Op::Conv { attrs: rest, elem }, &[x, w])?;
    let shape = b.ty(y).shape.clone();
    let mut apart = vec![batch];
    apart.extend(&positions);
    apart.extend(&shape[1..]);
    let y = b.emit(Op::Reshape { shape: apart.into() }, &[y])?;
    // Channels before positions, then the result's own order.
    let n = positions.len();
    let channels_first: Vec<u8> =
        [0, n + 1].into_iter().chain(1..=n).chain(n + 2..n + shape.rank()).map(|d| d as u8).collect();
    placed(b, y, &channels_first, &attrs.out)
}

/// A value whose dimension `from[i]` becomes dimension `to[i]`.
fn placed(b: &mut FunctionBuilder<'_>, y: Value, from: &[u8], to: &[u8]) -> Result<Value, TypeError> {
    let mut perm = vec![0; from.len()];
    for (&from, &to) in from.iter().zip(to) {
        perm[usize::from(to)] = from;
    }
    b.emit(Op::Permute { perm }, &[y])
}

/// The operands as (batch, channels, axes) and (channels, channels, axes), and the attributes for them.
fn canonical(
    b: &mut FunctionBuilder<'_>,
    attrs: &ConvAttrs,
    x: Value,
    w: Value,
) -> Result<(Value, Value, ConvAttrs), TypeError> {
    let x = b.emit(Op::Permute { perm: attrs.x.clone() }, &[x])?;
    let w = b.emit(Op::Permute { perm: attrs.w.clone() }, &[w])?;
    let order: Vec<u8> = (0..attrs.x.len() as u8).collect();
    Ok((x, w, ConvAttrs { x: order.clone(), w: order.clone(), out: order, ..attrs.clone() }))
}

/// The operand with zeros between its elements, as `x_dilations` say, which are 1 afterwards.
fn spread(b: &mut FunctionBuilder<'_>, attrs: &mut ConvAttrs, x: Value) -> Result<Value, TypeError> {
    let shape = b.ty(x).shape.clone();
    if attrs.x_dilations.iter().all(|&d| d == 1) {
        return Ok(x);
    }
    // Each spread dimension as (size, 1), padded to (size, dilation), joined again without what stands behind the last one.
    let (mut apart, mut high, mut joined, mut cropped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (d, &size) in shape.iter().enumerate() {
        let dilation = if d < 2 { 1 } else { attrs.x_dilations[d - 2] };
        apart.push(size);
        high.push(0);
        if dilation > 1 {
            apart.push(1);
            high.push(dilation - 1);
        }
        let all =
            size.checked_mul(dilation).ok_or_else(|| TypeError(format!("{shape} spread by {dilation}")))?;
        joined.push(all);
        cropped.push(all.saturating_sub(dilation - 1));
    }
    let x = b.emit(Op::Reshape { shape: apart.into() }, &[x])?;
    let x = padded(b, x, vec![0; high.len()], high)?;
    let rank = joined.len();
    let x = b.emit(Op::Reshape { shape: joined.into() }, &[x])?;
    attrs.x_dilations.fill(1);
    b.emit(Op::Slice { starts: vec![0; rank], shape: cropped.into(), steps: vec![1; rank] }, &[x])
}

/// Zeros around a value.
fn padded(b: &mut FunctionBuilder<'_>, x: Value, low: Vec<u64>, high: Vec<u64>) -> Result<Value, TypeError> {
    if low.iter().chain(&high).all(|&n| n == 0) {
        return Ok(x);
    }
    let elem = b.ty(x).elem.scalar().ok_or_else(|| TypeError("padding groups".into()))?;
    let ty = TensorType::new(elem, Vec::<u64>::new());
    let zero = b.constant(Constant::new(ty, ConstantData::Splat(elem.encode(0.0)), ""))?;
    b.emit(Op::Pad { low, high }, &[x, zero])
}

/// The operand with the zeros around one of its axes, and without what negative amounts crop.
fn bordered(
    b: &mut FunctionBuilder<'_>,
    x: Value,
    axis: usize,
    low: i64,
    high: i64,
) -> Result<Value, TypeError> {
    let rank = b.ty(x).shape.rank();
    let mut amounts = [vec![0; rank], vec![0; rank]];
    (amounts[0][axis], amounts[1][axis]) = (low.max(0).unsigned_abs(), high.max(0).unsigned_abs());
    let [before, after] = amounts;
    let x = padded(b, x, before, after)?;
    let mut shape = b.ty(x).shape.clone();
    let mut starts = vec![0; rank];
    starts[axis] = (-low).max(0);
    let cropped = shape[axis] as i64 - (-low).max(0) - (-high).max(0);
    if cropped == shape[axis] as i64 {
        return Ok(x);
    }
    shape.0[axis] =
        u64::try_from(cropped).map_err(|_| TypeError(format!("pads crop more than {shape} has")))?;
    b.emit(Op::Slice { starts, shape, steps: vec![1; rank] }, &[x])
}

/// Windows along an axis of the operand, whose elements come last.
fn windows(
    b: &mut FunctionBuilder<'_>,
    attrs: &ConvAttrs,
    axis: usize,
    x: Value,
    taps: u64,
) -> Result<Value, TypeError> {
    let x = bordered(b, x, axis + 2, attrs.low[axis], attrs.high[axis])?;
    let window = Op::Window {
        axes: vec![axis as u8 + 2],
        sizes: vec![taps],
        strides: vec![attrs.strides[axis]],
        dilations: vec![attrs.dilations[axis]],
    };
    b.emit(window, &[x])
}

/// One step of [`conv`]: the first axis of canonical operands goes, its windows become channels and its positions a part of the batch.
fn fold_axis(
    b: &mut FunctionBuilder<'_>,
    attrs: &mut ConvAttrs,
    x: Value,
    w: Value,
    positions: &mut Vec<u64>,
) -> Result<(Value, Value), TypeError> {
    let (kernel, groups) = (b.ty(w).shape.clone(), attrs.groups);
    let (outputs, inputs, taps) = (kernel[0], kernel[1], kernel[2]);
    let x = windows(b, attrs, 0, x, taps)?;
    // (batch, groups, inputs, positions, axes, taps) to (batch, positions, groups, taps, inputs, axes).
    let shape = b.ty(x).shape.clone();
    let rank = shape.rank();
    let mut apart = vec![shape[0], groups, inputs];
    apart.extend(&shape[2..]);
    let x = b.emit(Op::Reshape { shape: apart.into() }, &[x])?;
    let perm = [0, 3, 1, rank, 2].into_iter().chain(4..rank).map(|d| d as u8).collect();
    let x = b.emit(Op::Permute { perm }, &[x])?;
    let mut joined = vec![shape[0] * shape[2], groups * taps * inputs];
    joined.extend(&shape[3..rank - 1]);
    let x = b.emit(Op::Reshape { shape: joined.into() }, &[x])?;
    let perm = [0, 2, 1].into_iter().chain(3..kernel.rank()).map(|d| d as u8).collect();
    let w = b.emit(Op::Permute { perm }, &[w])?;
    let mut joined = vec![outputs, taps * inputs];
    joined.extend(&kernel[3..]);
    let w = b.emit(Op::Reshape { shape: joined.into() }, &[w])?;
    positions.push(shape[2]);
    let order: Vec<u8> = (0..kernel.rank() as u8 - 1).collect();
    (attrs.x, attrs.w, attrs.out) = (order.clone(), order.clone(), order);
    for list in [&mut attrs.strides, &mut attrs.dilations, &mut attrs.x_dilations] {
        list.remove(0);
    }
    attrs.low.remove(0);
    attrs.high.remove(0);
    Ok((x, w))
}

/// A convolution as a contraction of its windows, for types that only the vector engine multiplies.
///
/// # Errors
/// When the operands do not fit the operator.
pub fn contract_of_windows(
    b: &mut FunctionBuilder<'_>,
    attrs: &ConvAttrs,
    elem: ScalarType,
    x: Value,
    w: Value,
) -> Result<Value, TypeError> {
    let (x, w, mut rest) = canonical(b, attrs, x, w)?;
    let mut x = spread(b, &mut rest, x)?;
    let kernel = b.ty(w).shape.clone();
    let (n_spatial, groups) = (rest.strides.len(), rest.groups);
    for axis in 0..n_spatial {
        x = windows(b, &rest, axis, x, kernel[axis + 2])?;
    }
    let shape = b.ty(x).shape.clone();
    let mut apart = vec![shape[0], groups, kernel[1]];
    apart.extend(&shape[2..]);
    let x = b.emit(Op::Reshape { shape: apart.into() }, &[x])?;
    let mut apart = vec![groups, kernel[0] / groups, kernel[1]];
    apart.extend(&kernel[2..]);
    let w = b.emit(Op::Reshape { shape: apart.into() }, &[w])?;
    // Labels: batch, group, input channel, output channel, positions, taps.
    let positions: Vec<u8> = (0..n_spatial as u8).map(|i| 4 + i).collect();
    let taps: Vec<u8> = (0..n_spatial as u8).map(|i| 4 + n_spatial as u8 + i).collect();
    let map = ContractMap {
        a: [&[0, 1, 2][..], &positions, &taps].concat(),
        b: [&[1, 3, 2][..], &taps].concat(),
        out: [&[0, 1, 3][..], &positions].concat(),
    };
    let y = b.emit(Op::Contract { map, elem }, &[x, w])?;
    let mut joined = vec![shape[0], kernel[0]];
    joined.extend(&shape[2..2 + n_spatial]);
    let y = b.emit(Op::Reshape { shape: joined.into() }, &[y])?;
    placed(b, y, &rest.out, &attrs.out)
}
