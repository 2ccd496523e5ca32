//! One step of an optimiser on any number of tensors.

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp, CompareOp, UnaryOp};

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Learning rate, number of steps so far (as a float), and the operands after them in `kinds` lists of equal length: values,
/// gradients, and states.
fn operands(c: &mut Ctx<'_>, n: &Call<'_>, kinds: usize) -> Result<(Value, Value, Vec<Vec<Value>>), Fail> {
    let all = n.all()?;
    if all.len() < 2 + kinds || !(all.len() - 2).is_multiple_of(kinds) {
        return Err(invalid(format!("{} operands, not 2 and {kinds} for each tensor", all.len())));
    }
    let rate = c.reshape(all[0], vec![])?;
    let steps = c.cast(all[1], c.elem(rate))?;
    let steps = c.reshape(steps, vec![])?;
    let count = (all.len() - 2) / kinds;
    Ok((rate, steps, all[2..].chunks(count).map(<[Value]>::to_vec).collect()))
}

/// The gradient with the derivative of `coefficient / 2` times the sum of squares of the value.
fn regularised(c: &mut Ctx<'_>, n: &Call<'_>, value: Value, gradient: Value) -> Result<Value, Fail> {
    let decay = c.binary_splat(BinaryOp::Mul, value, n.float("norm_coefficient", 0.0)?)?;
    c.binary(BinaryOp::Add, decay, gradient)
}

/// `a * x + b * y`.
fn blend(c: &mut Ctx<'_>, a: f64, x: Value, b: f64, y: Value) -> Result<Value, Fail> {
    let x = c.binary_splat(BinaryOp::Mul, x, a)?;
    let y = c.binary_splat(BinaryOp::Mul, y, b)?;
    c.binary(BinaryOp::Add, x, y)
}

/// New values, then new sums of squared gradients.
pub(super) fn adagrad(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (rate, steps, lists) = operands(c, n, 3)?;
    let decay = c.binary_splat(BinaryOp::Mul, steps, n.float("decay_factor", 0.0)?)?;
    let decay = c.binary_splat(BinaryOp::Add, decay, 1.0)?;
    let rate = c.binary(BinaryOp::Div, rate, decay)?;
    let (mut values, mut squares) = (Vec::new(), Vec::new());
    for ((&x, &g), &h) in lists[0].iter().zip(&lists[1]).zip(&lists[2]) {
        let g = regularised(c, n, x, g)?;
        let square = c.binary(BinaryOp::Mul, g, g)?;
        let h = c.binary(BinaryOp::Add, h, square)?;
        let root = c.unary(UnaryOp::Sqrt, h)?;
        let divisor = c.binary_splat(BinaryOp::Add, root, n.float("epsilon", 1e-6)?)?;
        let step = c.binary(BinaryOp::Mul, rate, g)?;
        let step = c.binary(BinaryOp::Div, step, divisor)?;
        values.push(c.binary(BinaryOp::Sub, x, step)?);
        squares.push(h);
    }
    values.append(&mut squares);
    Ok(values)
}

/// The rate with the bias of the averages, which start at zero, taken out: `rate * sqrt(1 - beta^t) / (1 - alpha^t)`.
fn unbiased(c: &mut Ctx<'_>, rate: Value, steps: Value, alpha: f64, beta: f64) -> Result<Value, Fail> {
    let mut rest = |base: f64| {
        let base = c.splat_like(steps, base)?;
        let power = c.binary(BinaryOp::Pow, base, steps)?;
        let one = c.splat_like(power, 1.0)?;
        c.binary(BinaryOp::Sub, one, power)
    };
    let (of_gradients, of_squares) = (rest(alpha)?, rest(beta)?);
    let root = c.unary(UnaryOp::Sqrt, of_squares)?;
    let scaled = c.binary(BinaryOp::Mul, rate, root)?;
    let adjusted = c.binary(BinaryOp::Div, scaled, of_gradients)?;
    let zero = c.splat_like(steps, 0.0)?;
    let started = c.compare(CompareOp::Lt, zero, steps)?;
    c.select(started, adjusted, rate)
}

/// New values, then averages of gradients, then averages of their squares.
pub(super) fn adam(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (rate, steps, lists) = operands(c, n, 4)?;
    let (alpha, beta) = (n.float("alpha", 0.9)?, n.float("beta", 0.999)?);
    let rate = unbiased(c, rate, steps, alpha, beta)?;
    let (mut values, mut averages, mut squares) = (Vec::new(), Vec::new(), Vec::new());
    let moments = lists[2].iter().zip(&lists[3]);
    for ((&x, &g), (&v, &h)) in lists[0].iter().zip(&lists[1]).zip(moments) {
        let g = regularised(c, n, x, g)?;
        let v = blend(c, alpha, v, 1.0 - alpha, g)?;
        let square = c.binary(BinaryOp::Mul, g, g)?;
        let h = blend(c, beta, h, 1.0 - beta, square)?;
        let root = c.unary(UnaryOp::Sqrt, h)?;
        let divisor = c.binary_splat(BinaryOp::Add, root, n.float("epsilon", 1e-6)?)?;
        let step = c.binary(BinaryOp::Mul, rate, v)?;
        let step = c.binary(BinaryOp::Div, step, divisor)?;
        let x = c.binary(BinaryOp::Sub, x, step)?;
        let kept = 1.0 - n.float("norm_coefficient_post", 0.0)?;
        values.push(if kept == 1.0 { x } else { c.binary_splat(BinaryOp::Mul, x, kept)? });
        averages.push(v);
        squares.push(h);
    }
    values.append(&mut averages);
    values.append(&mut squares);
    Ok(values)
}

/// New values, then momenta.
pub(super) fn momentum(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (rate, steps, lists) = operands(c, n, 3)?;
    let (alpha, beta) = (n.float("alpha", 0.0)?, n.float("beta", 0.0)?);
    let nesterov = match n.string("mode", "")? {
        "nesterov" => true,
        "standard" => false,
        other => return Err(invalid(format!("mode is {other:?}"))),
    };
    let beta = c.splat(c.elem(rate), &vec![].into(), beta)?;
    let one = c.splat_like(beta, 1.0)?;
    let zero = c.splat_like(steps, 0.0)?;
    let started = c.compare(CompareOp::Lt, zero, steps)?;
    let beta = c.select(started, beta, one)?;
    let (mut values, mut momenta) = (Vec::new(), Vec::new());
    for ((&x, &g), &v) in lists[0].iter().zip(&lists[1]).zip(&lists[2]) {
        let g = regularised(c, n, x, g)?;
        let kept = c.binary_splat(BinaryOp::Mul, v, alpha)?;
        let fresh = c.binary(BinaryOp::Mul, beta, g)?;
        let v = c.binary(BinaryOp::Add, kept, fresh)?;
        let direction = match nesterov {
            false => v,
            true => {
                let ahead = c.binary_splat(BinaryOp::Mul, v, alpha)?;
                c.binary(BinaryOp::Add, g, ahead)?
            }
        };
        let step = c.binary(BinaryOp::Mul, rate, direction)?;
        values.push(c.binary(BinaryOp::Sub, x, step)?);
        momenta.push(v);
    }
    values.append(&mut momenta);
    Ok(values)
}
