//! Losses: the negative logarithm of the probability of each target, weighted and reduced.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::indexing::non_negative;
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// The operand in the type that composite operators compute in: f32 for narrower floats.
pub(super) fn widened(c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
    match c.elem(x) {
        ScalarType::F16 | ScalarType::Bf16 => c.cast(x, ScalarType::F32),
        _ => Ok(x),
    }
}

pub(super) fn negative_log_likelihood(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let wide = widened(c, x)?;
    let loss = loss(c, n, wide)?;
    Ok(vec![c.cast(loss, c.elem(x))?])
}

/// The loss, and the logarithms of the probabilities that it is computed from.
pub(super) fn softmax_cross_entropy(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    if c.rank(x) < 2 {
        return Err(invalid(format!("a loss of {}", c.b.ty(x))));
    }
    let elem = c.elem(x);
    let wide = widened(c, x)?;
    let log_prob = c.emit(Op::Softmax { axis: 1, log: true }, &[wide])?;
    let loss = loss(c, n, log_prob)?;
    Ok(vec![c.cast(loss, elem)?, c.cast(log_prob, elem)?])
}

/// The loss of `x`, which is `[batch, classes, d...]`, against targets (operand 1) `[batch, d...]` with weights (operand 2)
/// `[classes]`.
fn loss(c: &mut Ctx<'_>, n: &Call<'_>, x: Value) -> Result<Value, Fail> {
    let (target, shape) = (n.input(1)?, c.shape(x));
    let positions = c.shape(target);
    if shape.rank() < 2 || [&shape[..1], &shape[2..]].concat() != positions.0 {
        return Err(invalid(format!("a loss of {} against {}", c.b.ty(x), c.b.ty(target))));
    }
    let (elem, classes) = (c.elem(x), shape[1]);
    let target = c.cast(target, ScalarType::I64)?;
    let ignored = match n.has("ignore_index") {
        true => Some(c.compare_splat(CompareOp::Eq, target, n.int("ignore_index", 0)? as f64)?),
        false => None,
    };
    // An ignored target may be no class at all; class 0 stands in, and does not count.
    let target = match ignored {
        None => target,
        Some(ignored) => {
            let first = c.splat_like(target, 0.0)?;
            c.select(ignored, first, target)?
        }
    };
    let count = positions.elements();
    let target = non_negative(c, target, &[classes])?;
    let target = c.reshape(target, vec![count])?;
    let mut last: Vec<u8> = (0..shape.rank() as u8).filter(|&d| d != 1).collect();
    last.push(1);
    let rows = c.permute(x, last)?;
    let rows = c.reshape(rows, vec![count, classes])?;
    let found = c.emit(Op::Gather { axis: 1, batch: 1 }, &[rows, target])?;
    let mut loss = c.unary(UnaryOp::Neg, found)?;
    let mut weight = match n.opt(2) {
        None => None,
        Some(weights) => {
            let weights = c.cast(weights, elem)?;
            Some(c.emit(Op::Gather { axis: 0, batch: 0 }, &[weights, target])?)
        }
    };
    if let Some(weight) = weight {
        loss = c.binary(BinaryOp::Mul, loss, weight)?;
    }
    if let Some(ignored) = ignored {
        let ignored = c.reshape(ignored, vec![count])?;
        let zero = c.splat_like(loss, 0.0)?;
        let counts = match weight {
            Some(weight) => weight,
            None => c.splat_like(loss, 1.0)?,
        };
        weight = Some(c.select(ignored, zero, counts)?);
        loss = c.select(ignored, zero, loss)?;
    }
    match n.string("reduction", "mean")? {
        "none" => c.reshape(loss, positions),
        "sum" => c.reduce(ReduceOp::Sum, loss, &[0], false),
        "mean" => match weight {
            None => c.reduce(ReduceOp::Mean, loss, &[0], false),
            Some(weight) => {
                let total = c.reduce(ReduceOp::Sum, loss, &[0], false)?;
                let of = c.reduce(ReduceOp::Sum, weight, &[0], false)?;
                c.binary(BinaryOp::Div, total, of)
            }
        },
        other => Err(invalid(format!("reduction is {other:?}"))),
    }
}
