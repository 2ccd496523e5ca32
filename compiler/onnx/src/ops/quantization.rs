//! QuantizeLinear and DequantizeLinear.

use lacuna_ir::op::{BinaryOp, UnaryOp};
use lacuna_ir::{ConstantData, Op, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::codes;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Scales, zero points and operands of (de)quantisation: per tensor, per axis or in blocks along an axis.
fn quantisation_parameter(c: &mut Ctx<'_>, n: &Call<'_>, p: Value, x: Value) -> Result<Value, Fail> {
    let (shape, param) = (c.shape(x), c.shape(p));
    let (axis, block) = (n.int("axis", 1)?, n.int("block_size", 0)?);
    if param.elements() == 1 {
        let scalar = c.reshape(p, vec![])?;
        return c.broadcast_to(scalar, &shape);
    }
    let axis = crate::call::axis(axis, shape.rank())?;
    if param.rank() == 1 && block == 0 {
        return c.broadcast_along(p, axis, &shape);
    }
    let block = u64::try_from(block).ok().filter(|&b| b > 0 && param.rank() == shape.rank());
    let block = block.ok_or_else(|| {
        invalid(format!(
            "a scale or zero point {param} does not fit {shape}: it must have one element, one for each index of axis {axis}, or \
             the rank of the operand and a `block_size`"
        ))
    })?;
    if param[axis] != shape[axis].div_ceil(block) {
        return Err(invalid(format!(
            "a scale or zero point {param} does not fit {shape} in blocks of {block} along axis {axis}"
        )));
    }
    let mut split = param.0.clone();
    split.insert(axis + 1, 1);
    let p = c.reshape(p, split.clone())?;
    split[axis + 1] = block.min(crate::limits::MAX_ELEMENTS);
    let p = c.broadcast_to(p, &split.into())?;
    let mut joined = param.0;
    joined[axis] = joined[axis].saturating_mul(block);
    let p = c.reshape(p, joined)?;
    c.slice_axis(p, axis, 0, shape[axis])
}

/// Whether every element is known to be 0, which in floats is the positive one.
fn is_zero(c: &mut Ctx<'_>, x: Value) -> bool {
    c.known(x).is_some_and(|known| match &known.data {
        ConstantData::Splat(code) => *code == 0,
        ConstantData::Dense(blob) => blob.bytes().iter().all(|&b| b == 0),
    })
}

/// The value of constant codes that have scales per block, or zeros: products read the codes as they are stored.
fn stored(c: &mut Ctx<'_>, n: &Call<'_>, to: ScalarType) -> Result<Option<Value>, Fail> {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let (shape, param, elem) = (c.shape(x), c.shape(scale), c.elem(x));
    let constant = [Some(x), Some(scale), n.opt(2)].into_iter().flatten().all(|v| c.is_constant(v));
    if !constant || elem.bits() > 8 || shape.rank() == 0 || shape.elements() == 0 {
        return Ok(None);
    }
    let zero = n.opt(2).filter(|&zero| !is_zero(c, zero));
    let (axis, size) = (n.int("axis", 1)?, u64::try_from(n.int("block_size", 0)?).unwrap_or(0));
    let mut blocks: Vec<u64> = shape.0.clone();
    let mut each = vec![1; shape.rank()];
    if param.elements() > 1 {
        let axis = crate::call::axis(axis, shape.rank())?;
        let by_block = size > 0 && param.rank() == shape.rank();
        if by_block {
            blocks = vec![1; shape.rank()];
            each.clone_from(&param.0);
        } else {
            each[axis] = shape[axis];
        }
        blocks[axis] = if by_block { size } else { 1 };
    }
    let fits = each.iter().zip(&shape.0).zip(&blocks).all(|((&n, size), &block)| n == size.div_ceil(block));
    let same = |v: Value| c.shape(v).elements() == each.iter().product::<u64>();
    // Without blocks and zeros the scale leaves the product, and codes are all that it reads.
    let scaled_apart = zero.is_none() && (param.elements() == 1 || size == 0);
    if scaled_apart || !fits || !same(scale) || !zero.is_none_or(same) {
        return Ok(None);
    }
    let mut args = vec![x];
    for p in [Some(scale), zero].into_iter().flatten() {
        args.push(c.reshape(p, each.clone())?);
    }
    Ok(Some(c.emit(Op::Dequantize { blocks, to }, &args)?))
}

/// `(x - zero) * scale`. Subtraction is exact in i32, or in the result's type for wider codes.
pub(super) fn dequantize(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let to = n.data_type("output_dtype")?.unwrap_or(c.elem(scale));
    if !matches!(to, ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16) {
        return Err(Fail::new(codes::ELEMENT_TYPE, format!("the result type is {to}")));
    }
    if let Some(y) = stored(c, n, to)? {
        return Ok(vec![y]);
    }
    let scale = quantisation_parameter(c, n, scale, x)?;
    let mut centred = x;
    if let Some(point) = n.opt(2) {
        let zero = quantisation_parameter(c, n, point, x)?;
        // Without the difference, codes are seen to fit into their own type.
        if !is_zero(c, point) {
            let wide = if c.elem(x).is_int() { ScalarType::I32 } else { ScalarType::F32 };
            let (a, b) = (c.cast(x, wide)?, c.cast(zero, wide)?);
            centred = c.binary(BinaryOp::Sub, a, b)?;
        }
    }
    let (a, b) = (c.cast(centred, ScalarType::F32)?, c.cast(scale, ScalarType::F32)?);
    let y = c.binary(BinaryOp::Mul, a, b)?;
    Ok(vec![c.cast(y, to)?])
}

/// `saturate(round(x / scale) + zero)`.
pub(super) fn quantize(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let stated = n.data_type("output_dtype")?;
    let to = n.opt(2).map(|zero| c.elem(zero)).or(stated).unwrap_or(ScalarType::U8);
    // The type of the scale is the default, and f32 is what the quotient is computed in.
    let precision = n.data_type("precision")?.unwrap_or(ScalarType::F32);
    if precision != ScalarType::F32 && precision != c.elem(scale) {
        return Err(unsupported(format!("precision is {precision} where the scale is {}", c.elem(scale))));
    }
    let scale = quantisation_parameter(c, n, scale, x)?;
    let (a, b) = (c.cast(x, ScalarType::F32)?, c.cast(scale, ScalarType::F32)?);
    let mut y = c.binary(BinaryOp::Div, a, b)?;
    if to.is_int() {
        y = c.unary(UnaryOp::Round, y)?;
    }
    if let Some(zero) = n.opt(2) {
        let zero = quantisation_parameter(c, n, zero, x)?;
        let zero = c.cast(zero, ScalarType::F32)?;
        y = c.binary(BinaryOp::Add, y, zero)?;
    }
    Ok(vec![c.emit(Op::Cast { to, saturate: n.flag("saturate", true)? }, &[y])?])
}
