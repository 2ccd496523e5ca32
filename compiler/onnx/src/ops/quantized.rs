//! Products and sums of quantised operands: integers with scales and zero points.

use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::contraction::{centred, integer_conv, product};
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// A scale or zero point as it broadcasts to `shape`: one number, one for each index of dimension `along`, or of full rank.
pub(super) fn spread(c: &mut Ctx<'_>, p: Value, along: usize, shape: &Shape) -> Result<Value, Fail> {
    if c.shape(p).elements() == 1 {
        let scalar = c.reshape(p, vec![])?;
        return c.broadcast_to(scalar, shape);
    }
    match c.rank(p) {
        1 => c.broadcast_along(p, along, shape),
        _ => c.broadcast_to(p, shape),
    }
}

/// `saturate(round(x) + zero)` of `x` in f32.
fn quantised(c: &mut Ctx<'_>, x: Value, zero: Option<Value>, to: ScalarType) -> Result<Value, Fail> {
    let mut y = c.unary(UnaryOp::Round, x)?;
    if let Some(zero) = zero {
        let shape = c.shape(y);
        let zero = c.cast(zero, ScalarType::F32)?;
        let zero = spread(c, zero, shape.rank().saturating_sub(1), &shape)?;
        y = c.binary(BinaryOp::Add, y, zero)?;
    }
    c.emit(Op::Cast { to, saturate: true }, &[y])
}

/// A sum of products in i32 times `a * b / y`, quantised. The scales of a and b run along the dimensions `rows` and `columns`.
fn requantised(
    c: &mut Ctx<'_>,
    sum: Value,
    scales: [(Value, usize); 3],
    zero: Option<Value>,
    to: ScalarType,
) -> Result<Value, Fail> {
    let shape = c.shape(sum);
    let [a, b, y] = scales;
    // Scales that are numbers are multiplied as such.
    let single = scales.iter().all(|(scale, _)| c.shape(*scale).elements() == 1);
    let of: Shape = if single { Shape::default() } else { shape.clone() };
    let mut scale = |(scale, along): (Value, usize)| {
        let scale = c.cast(scale, ScalarType::F32)?;
        spread(c, scale, along, &of)
    };
    let (a, b, y) = (scale(a)?, scale(b)?, scale(y)?);
    let factor = c.binary(BinaryOp::Mul, a, b)?;
    let factor = c.binary(BinaryOp::Div, factor, y)?;
    let sum = c.cast(sum, ScalarType::F32)?;
    let scaled = c.binary(BinaryOp::Mul, sum, factor)?;
    quantised(c, scaled, zero, to)
}

/// The type of a quantised result: that of its zero point, or of the operand.
fn result_type(c: &Ctx<'_>, zero: Option<Value>, x: Value) -> ScalarType {
    c.elem(zero.unwrap_or(x))
}

pub(super) fn qlinear_mat_mul(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(3)?);
    let (row, column) = (c.rank(a).saturating_sub(2), c.rank(b).saturating_sub(1));
    let (ca, cb) = (centred(c, a, n.opt(2), row)?, centred(c, b, n.opt(5), column)?);
    let sum = product(c, ca, cb)?;
    let rank = c.rank(sum);
    let (row, column) = (rank.saturating_sub(2), rank.saturating_sub(1));
    let scales = [(n.input(1)?, row), (n.input(4)?, column), (n.input(6)?, column)];
    let to = result_type(c, n.opt(7), a);
    Ok(vec![requantised(c, sum, scales, n.opt(7), to)?])
}

/// Scales and zero points of the weight may be per output channel; the bias is in i32.
pub(super) fn qlinear_conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, w) = (n.input(0)?, n.input(3)?);
    let mut sum = integer_conv(c, n, (x, n.opt(2)), (w, n.opt(5)))?;
    if let Some(bias) = n.opt(8) {
        let shape = c.shape(sum);
        let bias = c.broadcast_along(bias, 1, &shape)?;
        sum = c.binary(BinaryOp::Add, sum, bias)?;
    }
    let scales = [(n.input(1)?, 1), (n.input(4)?, 1), (n.input(6)?, 1)];
    let to = result_type(c, n.opt(7), x);
    Ok(vec![requantised(c, sum, scales, n.opt(7), to)?])
}

/// Codes in u8, scale and zero point such that the range of the operand, with zero, fills all codes.
pub(super) fn dynamic_quantize(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let (y, scale, zero) = dynamically_quantised(c, x)?;
    Ok(vec![y, scale, zero])
}

fn dynamically_quantised(c: &mut Ctx<'_>, x: Value) -> Result<(Value, Value, Value), Fail> {
    let all: Vec<u8> = (0..c.rank(x) as u8).collect();
    let max = c.reduce(ReduceOp::Max, x, &all, false)?;
    let max = c.binary_splat(BinaryOp::Max, max, 0.0)?;
    let min = c.reduce(ReduceOp::Min, x, &all, false)?;
    let min = c.binary_splat(BinaryOp::Min, min, 0.0)?;
    let range = c.binary(BinaryOp::Sub, max, min)?;
    let scale = c.binary_splat(BinaryOp::Div, range, 255.0)?;
    // An operand of zeros has any scale.
    let empty = c.compare_splat(lacuna_ir::op::CompareOp::Eq, scale, 0.0)?;
    let one = c.splat_like(scale, 1.0)?;
    let scale = c.select(empty, one, scale)?;
    let low = c.unary(UnaryOp::Neg, min)?;
    let zero = c.binary(BinaryOp::Div, low, scale)?;
    let zero = quantised(c, zero, None, ScalarType::U8)?;
    let scaled = c.binary(BinaryOp::Div, x, scale)?;
    let y = quantised(c, scaled, Some(zero), ScalarType::U8)?;
    Ok((y, scale, zero))
}

/// `(x - zero) * scale` in f32 of one of the operands of an element-wise function.
fn dequantised(c: &mut Ctx<'_>, n: &Call<'_>, first: usize) -> Result<Value, Fail> {
    let x = n.input(first)?;
    let x = centred(c, x, n.opt(first + 2), 0)?;
    let x = c.cast(x, ScalarType::F32)?;
    let (scale, shape) = (n.input(first + 1)?, c.shape(x));
    let scale = spread(c, scale, 0, &shape)?;
    c.binary(BinaryOp::Mul, x, scale)
}

/// `x / scale`, quantised to the type of the zero point.
fn finish(c: &mut Ctx<'_>, n: &Call<'_>, y: Value, first: usize) -> Results {
    let shape = c.shape(y);
    let scale = spread(c, n.input(first)?, 0, &shape)?;
    let y = c.binary(BinaryOp::Div, y, scale)?;
    let to = result_type(c, n.opt(first + 1), n.input(0)?);
    Ok(vec![quantised(c, y, n.opt(first + 1), to)?])
}

/// QLinearAdd and QLinearMul.
pub(super) fn qlinear_binary(c: &mut Ctx<'_>, n: &Call<'_>, op: BinaryOp) -> Results {
    let (a, b) = (dequantised(c, n, 0)?, dequantised(c, n, 3)?);
    let y = c.binary(op, a, b)?;
    finish(c, n, y, 6)
}

/// QLinearSigmoid and QLinearLeakyRelu.
pub(super) fn qlinear_unary(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    f: impl Fn(&mut Ctx<'_>, Value) -> Result<Value, Fail>,
) -> Results {
    let x = dequantised(c, n, 0)?;
    let y = f(c, x)?;
    finish(c, n, y, 3)
}

/// MatMulIntegerToFloat: `a` and `b` are codes, each with a scale and a zero point.
pub(super) fn mat_mul_integer_to_float(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let y = scaled_product(c, (a, n.input(2)?, n.opt(4)), (b, n.input(3)?, n.opt(5)))?;
    Ok(vec![with_bias(c, y, n.opt(6))?])
}

/// DynamicQuantizeMatMul: `a` is quantised as it comes, `b` are codes.
pub(super) fn dynamic_quantize_mat_mul(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (a, scale, zero) = dynamically_quantised(c, a)?;
    let y = scaled_product(c, (a, scale, Some(zero)), (b, n.input(2)?, n.opt(3)))?;
    Ok(vec![with_bias(c, y, n.opt(4))?])
}

/// Codes, their scale, and their zero point.
type Codes = (Value, Value, Option<Value>);

fn scaled_product(c: &mut Ctx<'_>, a: Codes, b: Codes) -> Result<Value, Fail> {
    let (row, column) = (c.rank(a.0).saturating_sub(2), c.rank(b.0).saturating_sub(1));
    let (ca, cb) = (centred(c, a.0, a.2, row)?, centred(c, b.0, b.2, column)?);
    let sum = product(c, ca, cb)?;
    let shape = c.shape(sum);
    if shape.rank() == 0 {
        return Err(invalid("a product of vectors has no rows to scale"));
    }
    let elem = c.elem(b.1);
    let y = c.cast(sum, elem)?;
    let (sa, sb) = (spread(c, a.1, shape.rank() - 1, &shape)?, spread(c, b.1, shape.rank() - 1, &shape)?);
    let y = c.binary(BinaryOp::Mul, y, sa)?;
    c.binary(BinaryOp::Mul, y, sb)
}

fn with_bias(c: &mut Ctx<'_>, y: Value, bias: Option<Value>) -> Result<Value, Fail> {
    match bias {
        Some(bias) => c.binary(BinaryOp::Add, y, bias),
        None => Ok(y),
    }
}
