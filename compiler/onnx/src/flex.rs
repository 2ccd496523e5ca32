//! FlexAttention: attention whose scores and weights pass through subgraphs.

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;
use crate::importer::Importer;
use crate::slot::Slot;
use crate::tensor::scalar_type;

/// Scores of query heads that share a key head, weights, values: scores and weights as `[batch, heads, rows, keys]` are
/// what the subgraphs get.
pub(crate) fn attention(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Result<Vec<Slot>, Fail> {
    let (q, k, v) = (n.value(0)?, n.value(1)?, n.value(2)?);
    let c = &mut im.ctx;
    let (sq, sk, sv) = (c.shape(q), c.shape(k), c.shape(v));
    let (&[batch, heads, rows, size], &[_, groups, keys, _], &[.., width]) = (&sq[..], &sk[..], &sv[..])
    else {
        return Err(invalid(format!("attention of {sq} over {sk} and {sv}")));
    };
    let fits = sk[..] == [batch, groups, keys, size]
        && sv[..] == [batch, groups, keys, width]
        && groups > 0
        && heads.is_multiple_of(groups);
    if !fits {
        return Err(invalid(format!("attention of {sq} over {sk} and {sv}")));
    }
    let elem = c.elem(q);
    let wide = match n.int("softmax_precision", 0)? {
        0 if matches!(elem, ScalarType::F16 | ScalarType::Bf16) => ScalarType::F32,
        0 => elem,
        code => scalar_type(i32::try_from(code).unwrap_or(-1)).map_err(invalid)?,
    };
    let scale = match n.has("scale") {
        true => n.float("scale", 1.0)?,
        false => 1.0 / (size as f64).sqrt(),
    };
    let q = c.reshape(q, vec![batch, groups, heads / groups, rows, size])?;
    let scores = c.contract_as("abgqd,abkd->abgqk", q, k, wide)?;
    let scores = c.binary_splat(BinaryOp::Mul, scores, scale)?;
    let full = vec![batch, heads, rows, keys];
    let scores = c.reshape(scores, full.clone())?;
    let scores = modified(im, n, "score_mod", scores)?;
    let Some(scores) = scores else { return Ok(vec![Slot::Poisoned]) };
    let weights = im.ctx.emit(Op::Softmax { axis: 3, log: false }, &[scores])?;
    let Some(weights) = modified(im, n, "prob_mod", weights)? else { return Ok(vec![Slot::Poisoned]) };
    let c = &mut im.ctx;
    let weights = c.reshape(weights, vec![batch, groups, heads / groups, rows, keys])?;
    let y = c.contract_as("abgqk,abkd->abgqd", weights, v, wide)?;
    let y = c.reshape(y, vec![batch, heads, rows, width])?;
    Ok(vec![Slot::Value(c.cast(y, elem)?)])
}

/// What a subgraph makes of `x`; `x` itself without one. `None` when the subgraph is refused.
fn modified(im: &mut Importer<'_>, n: &Call<'_, Slot>, name: &str, x: Value) -> Result<Option<Value>, Fail> {
    let Some(graph) = n.graph(name)? else { return Ok(Some(x)) };
    let results = im.with_body(graph, |im| im.expand(n, graph, vec![Slot::Value(x)]))?;
    let ty = |c: &Ctx<'_>, v: Value| c.b.ty(v).clone();
    match results[..] {
        [Slot::Value(y)] if ty(&im.ctx, y) == ty(&im.ctx, x) => Ok(Some(y)),
        [Slot::Value(y)] => Err(invalid(format!("`{name}` makes {} of {}", ty(&im.ctx, y), ty(&im.ctx, x)))),
        [Slot::Poisoned] => Ok(None),
        _ => Err(invalid(format!("`{name}` has not one tensor as its result"))),
    }
}
