//! Reductions, extremes' indices and running sums.

use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use crate::call::{Call, axes, axis};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// What a reduction does to the elements before, and to the result after.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    /// Nothing.
    Plain,
    /// Sum of magnitudes.
    Abs,
    /// Sum of squares.
    Square,
    /// Square root of the sum of squares.
    Root,
    /// Logarithm of the sum.
    Log,
    /// Logarithm of the sum of exponentials.
    LogExp,
}

/// Axes (an attribute or the second operand, by version), and whether they stay with size 1. `None`: the operand itself.
fn arguments(c: &mut Ctx<'_>, n: &Call<'_>, x: Value) -> Result<(Option<Vec<u8>>, bool), Fail> {
    let rank = c.rank(x);
    let given = match n.opt(1) {
        Some(v) => c.const_ints(v, "the axes operand")?,
        None => n.ints("axes")?.unwrap_or(&[]).to_vec(),
    };
    let (keep, noop) = (n.flag("keepdims", true)?, n.flag("noop_with_empty_axes", false)?);
    if given.is_empty() {
        return Ok(((!noop).then(|| (0..rank as u8).collect()), keep));
    }
    Ok((Some(axes(&given, rank)?), keep))
}

pub(super) fn reduce(c: &mut Ctx<'_>, n: &Call<'_>, op: ReduceOp, around: Around) -> Results {
    let x = n.input(0)?;
    let (axes, keep) = arguments(c, n, x)?;
    let axes = axes.unwrap_or_default();
    let shape = c.shape(x);
    // Of no element the specification leaves the mean open; ONNX Runtime's is 0, as PyTorch's is in an empty bag of embeddings.
    let is_empty = axes.iter().any(|&d| shape[usize::from(d)] == 0);
    let op = if is_empty && op == ReduceOp::Mean { ReduceOp::Sum } else { op };
    let sum = |c: &mut Ctx<'_>, x| c.reduce(op, x, &axes, keep);
    Ok(vec![match around {
        Around::Plain => sum(c, x)?,
        Around::Abs => {
            let magnitude = c.unary(UnaryOp::Abs, x)?;
            sum(c, magnitude)?
        }
        Around::Square => {
            let square = c.binary(BinaryOp::Mul, x, x)?;
            sum(c, square)?
        }
        Around::Root => {
            let square = c.binary(BinaryOp::Mul, x, x)?;
            let total = sum(c, square)?;
            floating(c, total, UnaryOp::Sqrt)?
        }
        Around::Log => {
            let total = sum(c, x)?;
            floating(c, total, UnaryOp::Log)?
        }
        Around::LogExp => log_sum_exp(c, x, &axes, keep)?,
    }])
}

/// A function of floats on a value that may be of integers: computed in f64 and truncated, as the specification's
/// NumPy code does.
fn floating(c: &mut Ctx<'_>, x: Value, op: UnaryOp) -> Result<Value, Fail> {
    let elem = c.elem(x);
    if elem.is_float() {
        return c.unary(op, x);
    }
    let wide = c.cast(x, ScalarType::F64)?;
    let y = c.unary(op, wide)?;
    c.cast(y, elem)
}

/// `m + log(sum(exp(x - m)))` with m the maximum, or zero where that is infinite.
fn log_sum_exp(c: &mut Ctx<'_>, x: Value, axes: &[u8], keep: bool) -> Result<Value, Fail> {
    let elem = c.elem(x);
    let x = if elem.is_float() { x } else { c.cast(x, ScalarType::F64)? };
    let max = c.reduce(ReduceOp::Max, x, axes, true)?;
    let infinite = c.unary(UnaryOp::IsInf, max)?;
    let zero = c.splat_like(max, 0.0)?;
    let max = c.select(infinite, zero, max)?;
    let lowered = c.binary(BinaryOp::Sub, x, max)?;
    let e = c.unary(UnaryOp::Exp, lowered)?;
    let total = c.reduce(ReduceOp::Sum, e, axes, true)?;
    let log = c.unary(UnaryOp::Log, total)?;
    let y = c.binary(BinaryOp::Add, log, max)?;
    let y = c.cast(y, elem)?;
    if keep {
        return Ok(y);
    }
    let shape = c.shape(x);
    let kept: Vec<u64> =
        (0..shape.rank()).filter(|&d| !axes.contains(&(d as u8))).map(|d| shape[d]).collect();
    c.reshape(y, kept)
}

pub(super) fn arg_reduce(c: &mut Ctx<'_>, n: &Call<'_>, max: bool) -> Results {
    let x = n.input(0)?;
    let mut shape = c.shape(x);
    let axis = axis(n.int("axis", 0)?, shape.rank())?;
    let last = n.flag("select_last_index", false)?;
    let y = c.emit(Op::ArgReduce { max, axis: axis as u8, last }, &[x])?;
    if !n.flag("keepdims", true)? {
        return Ok(vec![y]);
    }
    shape.0[axis] = 1;
    Ok(vec![c.reshape(y, shape)?])
}

pub(super) fn cumulate(c: &mut Ctx<'_>, n: &Call<'_>, op: ReduceOp) -> Results {
    let x = n.input(0)?;
    let given = c.const_ints(n.input(1)?, "the axis operand")?;
    let [given] = given[..] else { return Err(invalid("the axis operand is not one number")) };
    let axis = axis(given, c.rank(x))? as u8;
    let (exclusive, reverse) = (n.flag("exclusive", false)?, n.flag("reverse", false)?);
    Ok(vec![c.emit(Op::Cumulate { op, axis, exclusive, reverse }, &[x])?])
}
