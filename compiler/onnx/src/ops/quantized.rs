//! Products and sums of quantised operands: integers with scales and zero points.

use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::contraction::{centred, integer_conv, product};
use super::fused::{as_of, channels_last};
use super::{elementwise, normalization, pooling};
use crate::call::Call;
use crate::context::{Ctx, broadcast_shape, invalid};
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

/// QLinearAdd and QLinearMul. Codes meet in the scale of the result, as in ONNX Runtime, their only definition: ties between codes,
/// which scales that are multiples of one another make common, are ties in f32 too.
pub(super) fn qlinear_binary(c: &mut Ctx<'_>, n: &Call<'_>, op: BinaryOp) -> Results {
    let (a, b) = (centred_rows(c, n.input(0)?, n.opt(2))?, centred_rows(c, n.input(3)?, n.opt(5))?);
    let shape = broadcast_shape(&[c.shape(a), c.shape(b)])?;
    let mut scale = |i: usize, of: &Shape| match n.input(i)? {
        scale if c.shape(scale).elements() == 1 => c.reshape(scale, vec![]),
        scale => spread(c, scale, 0, of),
    };
    let (scale_a, scale_b, scale_y) = (scale(1, &shape)?, scale(4, &shape)?, scale(6, &shape)?);
    let y = match op {
        BinaryOp::Mul => {
            let factor = c.binary(BinaryOp::Mul, scale_a, scale_b)?;
            let factor = c.binary(BinaryOp::Div, factor, scale_y)?;
            let product = c.binary(BinaryOp::Mul, a, b)?;
            c.binary(BinaryOp::Mul, product, factor)?
        }
        op => {
            let mut of = |x: Value, scale: Value| {
                let ratio = c.binary(BinaryOp::Div, scale, scale_y)?;
                c.binary(BinaryOp::Mul, x, ratio)
            };
            let (a, b) = (of(a, scale_a)?, of(b, scale_b)?);
            c.binary(op, a, b)?
        }
    };
    let to = result_type(c, n.opt(7), n.input(0)?);
    Ok(vec![quantised(c, y, n.opt(7), to)?])
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

/// Codes without their zero point in f32.
pub(super) fn centred_rows(c: &mut Ctx<'_>, x: Value, zero: Option<Value>) -> Result<Value, Fail> {
    let x = centred(c, x, zero, 0)?;
    c.cast(x, ScalarType::F32)
}

/// A function of codes that is computed on what they stand for, channels first.
fn on_values(c: &mut Ctx<'_>, n: &Call<'_>, f: impl FnOnce(&mut Ctx<'_>, &Call<'_>) -> Results) -> Results {
    let x = dequantised(c, n, 0)?;
    let inner = n.on(vec![Some(x)]);
    let y = if n.flag("channels_last", false)? { channels_last(c, &inner, f)?[0] } else { f(c, &inner)?[0] };
    finish(c, n, y, 3)
}

/// QLinearAveragePool, which divides as ONNX Runtime does, its only definition.
pub(super) fn qlinear_average_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    on_values(c, n, |c, n| pooling::average(c, n, true))
}

/// QLinearGlobalAveragePool.
pub(super) fn qlinear_global_average_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    on_values(c, n, |c, n| pooling::global_pool(c, n, ReduceOp::Mean))
}

/// QLinearSoftmax, as the softmax of the operator set that the attribute `opset` names.
pub(super) fn qlinear_softmax(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let opset = n.int("opset", 13)?;
    on_values(c, n, |c, n| as_of(c, n, opset, |c, n| normalization::softmax(c, n, false)))
}

/// QLinearConv with an attribute `channels_last`.
pub(super) fn qlinear_conv_of_layout(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    if n.flag("channels_last", false)? { channels_last(c, n, qlinear_conv) } else { qlinear_conv(c, n) }
}

/// QLinearLeakyRelu.
pub(super) fn qlinear_leaky_relu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    on_values(c, n, elementwise::leaky_relu)
}

/// QLinearConcat: parts, each with a scale and a zero point, behind those of the result.
pub(super) fn qlinear_concat(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut parts = Vec::new();
    for i in (2..n.n_operands()).step_by(3) {
        parts.push(dequantised(c, n, i)?);
    }
    let rank = parts.first().map_or(0, |&p| c.rank(p));
    let axis = crate::call::axis(n.int("axis", 0)?, rank)?;
    let y = c.concat(&parts, axis)?;
    quantised_as(c, n, y, 0)
}

/// QLinearWhere.
pub(super) fn qlinear_where(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (yes, no) = (dequantised(c, n, 1)?, dequantised(c, n, 4)?);
    let y = c.select(n.input(0)?, yes, no)?;
    quantised_as(c, n, y, 7)
}

/// `y` divided by the scale at `first`, in the type of the zero point behind it.
fn quantised_as(c: &mut Ctx<'_>, n: &Call<'_>, y: Value, first: usize) -> Results {
    let shape = c.shape(y);
    let scale = spread(c, n.input(first)?, 0, &shape)?;
    let y = c.binary(BinaryOp::Div, y, scale)?;
    let to = c.elem(n.input(first + 1)?);
    Ok(vec![quantised(c, y, n.opt(first + 1), to)?])
}

/// QGemm: a product of codes with a bias in i32, quantised where the result has a scale.
pub(super) fn qgemm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut matrix = |i: usize, flag: &str| {
        let (x, transposed) = (n.input(i)?, n.flag(flag, false)?);
        if c.rank(x) != 2 {
            return Err(invalid(format!("QGemm of {}", c.b.ty(x))));
        }
        // Zero points belong to rows of the first and columns of the second operand.
        let x = if transposed { c.permute(x, vec![1, 0])? } else { x };
        centred(c, x, n.opt(i + 2), usize::from(i != 0))
    };
    let (a, b) = (matrix(0, "transA")?, matrix(3, "transB")?);
    let mut sum = product(c, a, b)?;
    if let Some(bias) = n.opt(6) {
        sum = c.binary(BinaryOp::Add, sum, bias)?;
    }
    let shape = c.shape(sum);
    let (a, b) = (spread(c, n.input(1)?, 0, &shape)?, spread(c, n.input(4)?, 1, &shape)?);
    let mut factor = c.binary(BinaryOp::Mul, a, b)?;
    let alpha = n.float("alpha", 1.0)?;
    if alpha != 1.0 {
        factor = c.binary_splat(BinaryOp::Mul, factor, alpha)?;
    }
    let y = c.cast(sum, ScalarType::F32)?;
    let y = c.binary(BinaryOp::Mul, y, factor)?;
    match n.opt(7) {
        Some(_) => finish(c, n, y, 7),
        None => Ok(vec![y]),
    }
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
    let y = dynamic_product(c, a, (b, n.input(2)?, n.opt(3)))?;
    Ok(vec![with_bias(c, y, n.opt(4))?])
}

/// The product of an operand that is quantised as it comes with codes.
pub(super) fn dynamic_product(c: &mut Ctx<'_>, a: Value, b: Codes) -> Result<Value, Fail> {
    let (a, scale, zero) = dynamically_quantised(c, a)?;
    scaled_product(c, (a, scale, Some(zero)), b)
}

/// Codes, their scale, and their zero point.
pub(super) type Codes = (Value, Value, Option<Value>);

/// The product of two operands of codes, in the type of the second one's scale.
pub(super) fn scaled_product(c: &mut Ctx<'_>, a: Codes, b: Codes) -> Result<Value, Fail> {
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
