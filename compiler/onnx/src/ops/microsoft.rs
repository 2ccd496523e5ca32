//! Operators of ONNX Runtime's domain that exporters and optimisers emit.

use lacuna_ir::op::{BinaryOp, Real, UnaryOp};
use lacuna_ir::{Op, Shape, Value};

use super::attention::rotary_of;
use super::contraction::product;
use super::elementwise::gelu_of;
use super::loss::widened;
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Gelu, BiasGelu and FastGelu: the bias, if any, is the second operand.
pub(super) fn gelu(c: &mut Ctx<'_>, n: &Call<'_>, tanh: bool) -> Results {
    let x = n.input(0)?;
    let mut wide = widened(c, x)?;
    if let Some(bias) = n.opt(1) {
        let bias = widened(c, bias)?;
        wide = c.binary(BinaryOp::Add, wide, bias)?;
    }
    let y = gelu_of(c, wide, tanh)?;
    Ok(vec![c.cast(y, c.elem(x))?])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn quick_gelu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let wide = widened(c, x)?;
    let scaled = c.binary_splat(BinaryOp::Mul, wide, n.float("alpha", 1.702)?)?;
    let gate = c.unary(UnaryOp::Sigmoid, scaled)?;
    let y = c.binary(BinaryOp::Mul, wide, gate)?;
    Ok(vec![c.cast(y, c.elem(x))?])
}

/// `alpha * a b`, of either operand the first dimension moved behind the batch on demand, then the last two exchanged.
pub(super) fn fused_mat_mul(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut operand = |i: usize, flag: &str, batch: &str| {
        let x = n.input(i)?;
        let rank = c.rank(x);
        if rank < 2 {
            return Ok(x);
        }
        let mut perm: Vec<u8> = (0..rank as u8).collect();
        if n.flag(batch, false)? {
            perm[..rank - 1].rotate_left(1);
        }
        if n.flag(flag, false)? {
            perm.swap(rank - 2, rank - 1);
        }
        c.permute(x, perm)
    };
    let (a, b) = (operand(0, "transA", "transBatchA")?, operand(1, "transB", "transBatchB")?);
    let y = product(c, a, b)?;
    let alpha = n.float("alpha", 1.0)?;
    Ok(vec![if alpha == 1.0 { y } else { c.binary_splat(BinaryOp::Mul, y, alpha)? }])
}

/// The normalised sum of two operands, and the sum itself as the fourth result; without `centre` the mean stays.
pub(super) fn skip_layer_norm(c: &mut Ctx<'_>, n: &Call<'_>, centre: bool) -> Results {
    let (x, skip) = (n.input(0)?, n.input(1)?);
    if n.wants(1) || n.wants(2) {
        return Err(unsupported("the results mean and inv_std_var, which are for training"));
    }
    let (elem, shape) = (c.elem(x), c.shape(x));
    let Some(&width) = shape.last() else { return Err(invalid("an operand without dimensions")) };
    let (x, skip) = (widened(c, x)?, widened(c, skip)?);
    let mut sum = c.binary(BinaryOp::Add, x, skip)?;
    // The bias follows beta, which is only there where means are subtracted.
    if let Some(bias) = n.opt(if centre { 4 } else { 3 }) {
        let bias = widened(c, bias)?;
        sum = c.binary(BinaryOp::Add, sum, bias)?;
    }
    let mut operands = vec![sum];
    for i in 2..if centre { 4 } else { 3 } {
        if let Some(p) = n.opt(i) {
            let p = widened(c, p)?;
            operands.push(c.broadcast_to(p, &vec![width].into())?);
        }
    }
    let eps = Real(n.float("epsilon", 1e-12)?);
    let axes = vec![shape.rank() as u8 - 1];
    let y = c.emit(Op::Norm { axes, centre, eps }, &operands)?;
    let (y, sum) = (c.cast(y, elem)?, c.cast(sum, elem)?);
    Ok(vec![y, sum, sum, sum])
}

/// RotaryEmbedding with positions as the second operand: one for each row, or the position of the first row.
pub(super) fn rotary_embedding(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, positions, cos, sin) = (n.input(0)?, n.input(1)?, n.input(2)?, n.input(3)?);
    if n.float("scale", 1.0)? != 1.0 {
        return Err(unsupported("scale is not 1"));
    }
    if n.flag("is_packed_batching", false)? {
        return Err(unsupported("sequences packed without padding (is_packed_batching is 1)"));
    }
    let shape = c.shape(x);
    let (batch, rows) = match shape[..] {
        [batch, rows, _] => (batch, rows),
        [batch, _, rows, _] => (batch, rows),
        _ => return Err(invalid(format!("RotaryEmbedding of {shape}"))),
    };
    let places: Shape = vec![batch, rows].into();
    let positions = match c.shape(positions)[..] {
        [1] => {
            let first = c.reshape(positions, vec![])?;
            let first = c.broadcast_to(first, &places)?;
            let row = c.iota(c.elem(first), &places, 1)?;
            c.binary(BinaryOp::Add, first, row)?
        }
        _ => c.broadcast_to(positions, &places)?,
    };
    // Without a number of heads each is as wide as the tables say.
    let heads = match (n.int("num_heads", 0)?, &shape[..]) {
        (0, [_, _, width]) => (*width / (2 * c.shape(cos).last().copied().unwrap_or(0)).max(1)) as i64,
        (heads, _) => heads,
    };
    rotary_of(c, &n.on(vec![Some(x), Some(cos), Some(sin), Some(positions)]), heads)
}
