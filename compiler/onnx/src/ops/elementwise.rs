//! Arithmetic, logic, comparison and activations, element by element.

use lacuna_ir::op::{BinaryOp, CompareOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::legacy;
use crate::call::Call;
use crate::codes;
use crate::context::{Ctx, broadcast_shape, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::tensor::scalar_type;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn unary(c: &mut Ctx<'_>, n: &Call<'_>, op: UnaryOp) -> Results {
    Ok(vec![c.unary(op, n.input(0)?)?])
}

pub(super) fn binary(c: &mut Ctx<'_>, n: &Call<'_>, op: BinaryOp) -> Results {
    let (a, b) = legacy::operands(c, n)?;
    Ok(vec![c.binary(op, a, b)?])
}

/// Min, Max and Sum: any number of operands.
pub(super) fn variadic(c: &mut Ctx<'_>, n: &Call<'_>, op: BinaryOp) -> Results {
    let all = n.all()?;
    let mut acc = all[0];
    for &v in &all[1..] {
        acc = c.binary(op, acc, v)?;
    }
    Ok(vec![acc])
}

pub(super) fn mean(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let sum = variadic(c, n, BinaryOp::Add)?[0];
    Ok(vec![c.binary_splat(BinaryOp::Div, sum, n.n_operands() as f64)?])
}

/// Pow keeps the base's type. Operands of two types are computed with in one that holds both, f32 if that is enough.
pub(super) fn pow(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, y) = legacy::operands(c, n)?;
    let (base, exponent) = (c.elem(x), c.elem(y));
    let holds = |elem: ScalarType| elem.is_float() && elem != ScalarType::F64 || elem.bits() <= 16;
    let small = |c: &mut Ctx<'_>, v| {
        c.known_ints(v).is_some_and(|known| known.iter().all(|k| k.unsigned_abs() <= 1 << 24))
    };
    let wide = if base == exponent {
        base
    } else if !base.is_float() && !exponent.is_float() {
        ScalarType::I64
    } else if (holds(base) || small(c, x)) && (holds(exponent) || small(c, y)) {
        ScalarType::F32
    } else {
        ScalarType::F64
    };
    let (x, y) = (c.cast(x, wide)?, c.cast(y, wide)?);
    let z = c.binary(BinaryOp::Pow, x, y)?;
    Ok(vec![c.cast(z, base)?])
}

pub(super) fn modulo(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let fmod = n.flag("fmod", false)?;
    if !fmod && c.elem(n.input(0)?).is_float() && n.opset < 28 {
        return Err(invalid("Mod of floating-point operands needs fmod=1"));
    }
    binary(c, n, if fmod { BinaryOp::Rem } else { BinaryOp::Mod })
}

pub(super) fn bit_shift(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    match n.string("direction", "")? {
        "LEFT" => binary(c, n, BinaryOp::Shl),
        "RIGHT" => {
            let (x, by) = (n.input(0)?, n.input(1)?);
            let logical = c.binary(BinaryOp::Shr, x, by)?;
            let signed =
                matches!(c.elem(x), ScalarType::I8 | ScalarType::I16 | ScalarType::I32 | ScalarType::I64);
            if !signed {
                return Ok(vec![logical]);
            }
            // Negative numbers keep their sign: the shift of the complement, complemented.
            let complement = c.unary(UnaryOp::Not, x)?;
            let shifted = c.binary(BinaryOp::Shr, complement, by)?;
            let restored = c.unary(UnaryOp::Not, shifted)?;
            let negative = c.compare_splat(CompareOp::Lt, x, 0.0)?;
            Ok(vec![c.select(negative, restored, logical)?])
        }
        other => Err(invalid(format!("direction is {other:?}, not LEFT or RIGHT"))),
    }
}

/// A relation, or with `swap` its converse: greater is less with operands exchanged.
pub(super) fn compare(c: &mut Ctx<'_>, n: &Call<'_>, op: CompareOp, swap: bool) -> Results {
    let (a, b) = legacy::operands(c, n)?;
    Ok(vec![if swap { c.compare(op, b, a)? } else { c.compare(op, a, b)? }])
}

pub(super) fn select(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![c.select(n.input(0)?, n.input(1)?, n.input(2)?)?])
}

pub(super) fn is_inf(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let (negative, positive) = (n.flag("detect_negative", true)?, n.flag("detect_positive", true)?);
    let infinite = c.unary(UnaryOp::IsInf, x)?;
    let zero = c.splat_like(x, 0.0)?;
    Ok(vec![match (negative, positive) {
        (true, true) => infinite,
        (false, false) => {
            let shape = c.shape(x);
            c.splat(ScalarType::Bool, &shape, 0.0)?
        }
        (true, false) => {
            let sign = c.compare(CompareOp::Lt, x, zero)?;
            c.binary(BinaryOp::And, infinite, sign)?
        }
        (false, true) => {
            let sign = c.compare(CompareOp::Lt, zero, x)?;
            c.binary(BinaryOp::And, infinite, sign)?
        }
    }])
}

/// A cast to E8M0 through f32: up, down or to nearest with ties up, from the nearest power of two with ties to even.
fn power_of_two(c: &mut Ctx<'_>, x: Value, rounding: &str, saturate: bool) -> Results {
    let (least, greatest) = (2f64.powi(-127), 2f64.powi(127));
    let to_scale = Op::Cast { to: ScalarType::E8M0, saturate: true };
    let x = c.cast(x, ScalarType::F32)?;
    let near = c.emit(to_scale.clone(), &[x])?;
    let near = c.cast(near, ScalarType::F32)?;
    let (bound, factor, relation) = match rounding {
        "up" => (near, 2.0, CompareOp::Lt),
        "down" => (near, 0.5, CompareOp::Lt),
        _ => (c.binary_splat(BinaryOp::Mul, near, 1.5)?, 2.0, CompareOp::Le),
    };
    let (low, high) = if factor < 1.0 { (x, bound) } else { (bound, x) };
    let moves = c.compare(relation, low, high)?;
    let moved = c.binary_splat(BinaryOp::Mul, near, factor)?;
    let mut y = c.select(moves, moved, near)?;
    if !saturate {
        let small = c.compare_splat(CompareOp::Lt, x, least)?;
        let limit = c.splat_like(y, greatest)?;
        let large = c.compare(CompareOp::Lt, limit, y)?;
        let infinite = c.unary(UnaryOp::IsInf, x)?;
        let large = c.binary(BinaryOp::Or, large, infinite)?;
        let outside = c.binary(BinaryOp::Or, small, large)?;
        let nan = c.splat_like(y, f64::NAN)?;
        y = c.select(outside, nan, y)?;
    }
    Ok(vec![c.emit(to_scale, &[y])?])
}

fn convert(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, to: ScalarType) -> Results {
    // Only types of 8 bits and less have a choice of rounding and saturation.
    let saturate = n.flag("saturate", true)?;
    let rounding = n.choice("round_mode", &["up", "down", "nearest"])?;
    if to == c.elem(x) {
        return Ok(vec![x]);
    }
    if to == ScalarType::E8M0 {
        return power_of_two(c, x, rounding, saturate);
    }
    if to == ScalarType::Bool {
        let zero = c.compare_splat(CompareOp::Eq, x, 0.0)?;
        return Ok(vec![c.unary(UnaryOp::Not, zero)?]);
    }
    // Floats out of the range of a type below a byte wrap, as integers do.
    let narrow = to.is_int() && to.bits() < 8;
    let x = if narrow && c.elem(x).is_float() { c.cast(x, ScalarType::I32)? } else { x };
    Ok(vec![c.emit(Op::Cast { to, saturate }, &[x])?])
}

pub(super) fn cast(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let to = match n.opset < 6 {
        true => legacy::data_type_code(n.string("to", "")?).unwrap_or(-1),
        false => n.int("to", 0)?,
    };
    let to = scalar_type(i32::try_from(to).unwrap_or(-1))
        .map_err(|r| Fail::new(codes::ELEMENT_TYPE, format!("the target type: {r}")))?;
    convert(c, n, n.input(0)?, to)
}

pub(super) fn cast_like(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let to = c.elem(n.input(1)?);
    convert(c, n, n.input(0)?, to)
}

/// The bits of each element as another type of equal width.
pub(super) fn bit_cast(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let to = n.data_type("to")?.ok_or_else(|| invalid("attribute `to` is missing"))?;
    if to.bits() != c.elem(x).bits() {
        return Err(invalid(format!("BitCast of {} to {to}: their widths differ", c.b.ty(x))));
    }
    if to == c.elem(x) {
        return Ok(vec![x]);
    }
    let y = c.emit(Op::BitCast { to }, &[x])?;
    // A constant may lie in memory in another type than its own.
    match c.known(y) {
        Some(known) => Ok(vec![c.constant(known)?]),
        None => Ok(vec![y]),
    }
}

/// Dropout where it drops nothing: the operand, and a mask of true (of ones up to operator set 9).
pub(super) fn dropout(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let training = match n.opset {
        ..7 => !n.flag("is_test", false)?,
        7..12 => false,
        _ => match n.opt(2) {
            Some(training) => c.const_ints(training, "training_mode")?.iter().any(|&t| t != 0),
            None => false,
        },
    };
    // Where nothing is dropped, nothing is random.
    n.pass_over(&["seed"]);
    let share = n.float("ratio", 0.5)?;
    let ratio = match n.opt(1) {
        _ if !training => 0.0,
        None => share,
        Some(ratio) => c.const_scalar(ratio, "the ratio operand")?,
    };
    if ratio != 0.0 {
        let reason = format!("training with ratio {ratio} drops elements at random");
        return Err(unsupported(reason).hint("export the model for inference"));
    }
    let shape = c.shape(x);
    let mask = if n.opset < 10 { c.elem(x) } else { ScalarType::Bool };
    Ok(vec![x, c.splat(mask, &shape, 1.0)?])
}

pub(super) fn relu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![c.binary_splat(BinaryOp::Max, n.input(0)?, 0.0)?])
}

/// Clip up to operator set 10. From set 6 on a bound that is absent is the greatest f32, which clips infinities of f32
/// and wider elements.
fn clip_by_attributes(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut x = n.input(0)?;
    let is_wide = matches!(c.elem(x), ScalarType::F32 | ScalarType::F64);
    for (name, op, default) in [("min", BinaryOp::Max, f32::MIN), ("max", BinaryOp::Min, f32::MAX)] {
        if n.has(name) || (n.opset >= 6 && is_wide) {
            x = c.binary_splat(op, x, n.float(name, default)?)?;
        }
    }
    Ok(vec![x])
}

pub(super) fn clip(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    if n.opset < 11 {
        return clip_by_attributes(c, n);
    }
    let mut x = n.input(0)?;
    for (i, op) in [(1, BinaryOp::Max), (2, BinaryOp::Min)] {
        if let Some(bound) = n.opt(i) {
            if c.shape(bound).elements() != 1 {
                return Err(invalid(format!("bound {} is not a scalar", c.b.ty(bound))));
            }
            let bound = c.reshape(bound, vec![])?;
            x = c.binary(op, x, bound)?;
        }
    }
    Ok(vec![x])
}

/// `select(x < 0, f(x), x)`.
fn below_zero(c: &mut Ctx<'_>, x: Value, negative: Value) -> Results {
    let below = c.compare_splat(CompareOp::Lt, x, 0.0)?;
    Ok(vec![c.select(below, negative, x)?])
}

pub(super) fn leaky_relu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let negative = c.binary_splat(BinaryOp::Mul, x, n.float("alpha", 0.01)?)?;
    below_zero(c, x, negative)
}

pub(super) fn prelu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let slope = legacy::slopes(c, n, n.input(1)?, x)?;
    let negative = c.binary(BinaryOp::Mul, x, slope)?;
    below_zero(c, x, negative)
}

pub(super) fn exp_minus_one(c: &mut Ctx<'_>, x: Value, alpha: f64) -> Result<Value, Fail> {
    let e = c.unary(UnaryOp::Expm1, x)?;
    if alpha == 1.0 { Ok(e) } else { c.binary_splat(BinaryOp::Mul, e, alpha) }
}

pub(super) fn elu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let negative = exp_minus_one(c, x, n.float("alpha", 1.0)?)?;
    below_zero(c, x, negative)
}

/// `max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)`.
pub(super) fn celu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let alpha = n.float("alpha", 1.0)?;
    let scaled = c.binary_splat(BinaryOp::Div, x, alpha)?;
    let e = exp_minus_one(c, scaled, alpha)?;
    let low = c.binary_splat(BinaryOp::Min, e, 0.0)?;
    let high = c.binary_splat(BinaryOp::Max, x, 0.0)?;
    Ok(vec![c.binary(BinaryOp::Add, high, low)?])
}

pub(super) fn selu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let alpha = n.float("alpha", 1.673_263_2)?;
    let gamma = n.float("gamma", 1.050_701)?;
    let negative = exp_minus_one(c, x, alpha)?;
    let chosen = below_zero(c, x, negative)?[0];
    Ok(vec![c.binary_splat(BinaryOp::Mul, chosen, gamma)?])
}

pub(super) fn hard_sigmoid_of(c: &mut Ctx<'_>, x: Value, alpha: f64, beta: f64) -> Result<Value, Fail> {
    let y = c.binary_splat(BinaryOp::Mul, x, alpha)?;
    let y = c.binary_splat(BinaryOp::Add, y, beta)?;
    let y = c.binary_splat(BinaryOp::Max, y, 0.0)?;
    c.binary_splat(BinaryOp::Min, y, 1.0)
}

pub(super) fn hard_sigmoid(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![hard_sigmoid_of(c, n.input(0)?, n.float("alpha", 0.2)?, n.float("beta", 0.5)?)?])
}

pub(super) fn hard_swish(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let gate = hard_sigmoid_of(c, x, 1.0 / 6.0, 0.5)?;
    Ok(vec![c.binary(BinaryOp::Mul, x, gate)?])
}

/// `log(1 + exp(x))` as `max(x, 0) + log1p(exp(-|x|))`, which neither overflows nor cancels.
pub(super) fn softplus_of(c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
    let magnitude = c.unary(UnaryOp::Abs, x)?;
    let negative = c.unary(UnaryOp::Neg, magnitude)?;
    let e = c.unary(UnaryOp::Exp, negative)?;
    let log = c.unary(UnaryOp::Log1p, e)?;
    let high = c.binary_splat(BinaryOp::Max, x, 0.0)?;
    c.binary(BinaryOp::Add, high, log)
}

pub(super) fn softplus(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![softplus_of(c, n.input(0)?)?])
}

pub(super) fn mish(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let s = softplus_of(c, x)?;
    let t = c.unary(UnaryOp::Tanh, s)?;
    Ok(vec![c.binary(BinaryOp::Mul, x, t)?])
}

pub(super) fn softsign(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let magnitude = c.unary(UnaryOp::Abs, x)?;
    let d = c.binary_splat(BinaryOp::Add, magnitude, 1.0)?;
    Ok(vec![c.binary(BinaryOp::Div, x, d)?])
}

pub(super) fn thresholded_relu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let alpha = c.splat_like(x, n.float("alpha", 1.0)?)?;
    let above = c.compare(CompareOp::Lt, alpha, x)?;
    let zero = c.splat_like(x, 0.0)?;
    Ok(vec![c.select(above, x, zero)?])
}

/// `x + bias` below `-lambd`, `x - bias` above `lambd`, zero between.
pub(super) fn shrink(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let (bias, lambd) = (n.float("bias", 0.0)?, n.float("lambd", 0.5)?);
    let below = c.compare_splat(CompareOp::Lt, x, -lambd)?;
    let limit = c.splat_like(x, lambd)?;
    let above = c.compare(CompareOp::Lt, limit, x)?;
    let raised = c.binary_splat(BinaryOp::Add, x, bias)?;
    let lowered = c.binary_splat(BinaryOp::Sub, x, bias)?;
    let zero = c.splat_like(x, 0.0)?;
    let rest = c.select(above, lowered, zero)?;
    Ok(vec![c.select(below, raised, rest)?])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn swish(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let alpha = n.float("alpha", 1.0)?;
    let scaled = if alpha == 1.0 { x } else { c.binary_splat(BinaryOp::Mul, x, alpha)? };
    let gate = c.unary(UnaryOp::Sigmoid, scaled)?;
    Ok(vec![c.binary(BinaryOp::Mul, x, gate)?])
}

pub(super) fn gelu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let tanh = n.choice("approximate", &["none", "tanh"])? == "tanh";
    Ok(vec![gelu_of(c, n.input(0)?, tanh)?])
}

/// `x * (1 + erf(x / sqrt(2))) / 2`, or with a hyperbolic tangent in place of the error function, both as `x` times a
/// function that keeps its digits where it is small.
pub(super) fn gelu_of(c: &mut Ctx<'_>, x: Value, tanh: bool) -> Result<Value, Fail> {
    let gate = if tanh {
        let square = c.binary(BinaryOp::Mul, x, x)?;
        let cube = c.binary(BinaryOp::Mul, square, x)?;
        let cube = c.binary_splat(BinaryOp::Mul, cube, 0.044_715)?;
        let sum = c.binary(BinaryOp::Add, x, cube)?;
        // (1 + tanh(z)) / 2 is the sigmoid of 2 z.
        let scaled = c.binary_splat(BinaryOp::Mul, sum, 2.0 * (2.0 / std::f64::consts::PI).sqrt())?;
        c.unary(UnaryOp::Sigmoid, scaled)?
    } else {
        c.unary(UnaryOp::NormCdf, x)?
    };
    c.binary(BinaryOp::Mul, x, gate)
}

/// `x` of a shape that operands broadcast to: the operands' common shape is checked.
pub(super) fn expand(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, target) = (n.input(0)?, n.input(1)?);
    let sizes = c.const_ints(target, "the shape")?;
    let sizes: Option<Vec<u64>> = sizes.iter().map(|&s| u64::try_from(s).ok()).collect();
    let target = sizes.ok_or_else(|| invalid("the shape has a negative size"))?;
    let shape = broadcast_shape(&[c.shape(x), target.into()])?;
    Ok(vec![c.broadcast_to(x, &shape)?])
}
