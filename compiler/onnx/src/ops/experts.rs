//! MoE and QMoE of ONNX Runtime: mixtures of experts, each two products with an activation between.
//!
//! Each token meets the experts that the router chose for it: their weights are picked by index, so that others need not be loaded.

use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::elementwise::gelu_of;
use super::loss::widened;
use super::n_bits;
use super::sorting::greatest;
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// A linear layer of all experts.
struct Layer {
    /// Weights `[experts, outputs, inputs]`.
    weight: Value,
    /// A bias `[experts, outputs]`.
    bias: Option<Value>,
}

impl Layer {
    /// The results `[tokens, k, outputs]` in f32 of the `best` experts `[tokens, k]`, of operands of a map like `"th,tkoh->tko"`.
    fn apply(&self, c: &mut Ctx<'_>, map: &str, x: Value, best: Value) -> Result<Value, Fail> {
        let pick = Op::Gather { axis: 0, batch: 0 };
        let x = c.cast(x, c.elem(self.weight))?;
        let weight = c.emit(pick.clone(), &[self.weight, best])?;
        let y = c.contract_as(map, x, weight, ScalarType::F32)?;
        let Some(bias) = self.bias else { return Ok(y) };
        let (bias, shape) = (widened(c, bias)?, c.shape(self.weight));
        if c.shape(bias)[..] != shape[..2] {
            return Err(invalid(format!("a bias {} of experts' weights {shape}", c.shape(bias))));
        }
        let bias = c.emit(pick, &[bias, best])?;
        c.binary(BinaryOp::Add, y, bias)
    }
}

/// Lowers MoE, whose weights are floats.
pub(super) fn moe(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let layer = |weight: Option<Value>, bias: usize| weight.map(|weight| Layer { weight, bias: n.opt(bias) });
    let layers = [layer(Some(n.input(2)?), 3), layer(Some(n.input(4)?), 5), layer(n.opt(6), 7)];
    mixture(c, n, layers)
}

/// Lowers QMoE, whose weights are codes of 2, 4 or 8 bits with a scale for each row or block of a row.
pub(super) fn quantised_moe(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let kind = n.string("quant_type", "int")?;
    if kind != "int" {
        return Err(unsupported(format!("quant_type is {kind:?}")).hint("quantise the experts to integers"));
    }
    if n.int("weights_prepacked", 0)? > 0 {
        return Err(unsupported("weights in the order of a GPU's kernels (weights_prepacked is 1)"));
    }
    if n.opt(14).is_some() {
        return Err(unsupported("router_weights, which are not what experts are chosen by"));
    }
    // How little precision is enough; all are met.
    n.pass_over(&["accuracy_level"]);
    let hidden = c.shape(n.input(0)?).last().copied().unwrap_or(0);
    let first = codes_of(c, n, 1, hidden)?;
    let third = codes_of(c, n, 3, hidden)?;
    let fused = n.string("activation_type", "relu")? == "swiglu" && n.int("swiglu_fusion", 0)? != 0;
    let rows = first.as_ref().map_or(0, |layer| c.shape(layer.weight)[1]);
    let second = codes_of(c, n, 2, if fused { rows / 2 } else { rows })?;
    mixture(c, n, [first, second, third])
}

/// Layer `number` of experts whose weights are codes, of rows of `inner` elements.
fn codes_of(c: &mut Ctx<'_>, n: &Call<'_>, number: usize, inner: u64) -> Result<Option<Layer>, Fail> {
    let bits = n.int(&format!("fc{number}_expert_weight_bits"), n.int("expert_weight_bits", 4)?)?;
    let (block, first) = (n.int("block_size", 0)?, 3 * number - 1);
    let (codes, scales, zeros) = (n.opt(first), n.opt(first + 1), n.opt(10 + number));
    let bias = n.opt(first + 2);
    let Some(codes) = codes else { return Ok(None) };
    let scales = scales.ok_or_else(|| invalid(format!("the scales of layer {number} are missing")))?;
    let weight =
        n_bits::rows_of_experts(c, (codes, scales, zeros), bits, [inner, u64::try_from(block).unwrap_or(0)])?;
    Ok(Some(Layer { weight, bias }))
}

/// The weighted sum of what the experts make of each token.
fn mixture(c: &mut Ctx<'_>, n: &Call<'_>, [first, second, third]: [Option<Layer>; 3]) -> Results {
    let (Some(first), Some(second)) = (first, second) else {
        return Err(invalid("weights of experts are missing"));
    };
    let x = n.input(0)?;
    let (elem, shape) = (c.elem(x), c.shape(x));
    let Some((&hidden, rows)) = shape.split_last() else { return Err(invalid("experts of a scalar")) };
    let tokens: u64 = rows.iter().product();
    for layer in [Some(&first), Some(&second), third.as_ref()].into_iter().flatten() {
        if c.rank(layer.weight) != 3 || c.shape(layer.weight)[0] != c.shape(first.weight)[0] {
            return Err(invalid(format!("weights of experts {}", c.b.ty(layer.weight))));
        }
    }
    let experts = c.shape(first.weight)[0];
    let (best, gates) = gates(c, n, tokens, experts)?;
    let x = c.reshape(x, vec![tokens, hidden])?;
    let inner = first.apply(c, "th,tkoh->tko", x, best)?;
    let beside = third.map(|layer| layer.apply(c, "th,tkoh->tko", x, best)).transpose()?;
    let inner = activated(c, n, inner, beside)?;
    let y = second.apply(c, "tki,tkoi->tko", inner, best)?;
    let k = c.shape(best)[1];
    let gates = c.reshape(gates, vec![tokens, k, 1])?;
    let y = c.binary(BinaryOp::Mul, y, gates)?;
    let y = c.reduce(ReduceOp::Sum, y, &[1], false)?;
    let y = c.reshape(y, shape)?;
    Ok(vec![c.cast(y, elem)?])
}

/// The `k` most likely experts of each token, and what each of them weighs there, both `[tokens, k]`.
fn gates(c: &mut Ctx<'_>, n: &Call<'_>, tokens: u64, experts: u64) -> Result<(Value, Value), Fail> {
    if n.flag("use_sparse_mixer", false)? {
        return Err(unsupported("use_sparse_mixer is 1"));
    }
    let scores = widened(c, n.input(1)?)?;
    if c.shape(scores)[..] != [tokens, experts] {
        let reason = format!("router_probs {} of {tokens} tokens and {experts} experts", c.shape(scores));
        return Err(invalid(reason));
    }
    let k = n.int("k", 1)?;
    let k = u64::try_from(k).ok().filter(|k| (1..=experts).contains(k));
    let k =
        k.ok_or_else(|| invalid(format!("the best {} of {experts} experts", n.int("k", 1).unwrap_or(0))))?;
    let best = greatest(c, scores, k)?;
    let likely = c.emit(Op::Softmax { axis: 1, log: false }, &[scores])?;
    let gates = c.emit(Op::Gather { axis: 1, batch: 1 }, &[likely, best])?;
    if !n.flag("normalize_routing_weights", false)? {
        return Ok((best, gates));
    }
    let total = c.reduce(ReduceOp::Sum, gates, &[1], true)?;
    Ok((best, c.binary(BinaryOp::Div, gates, total)?))
}

/// The activation of the first layer's results, multiplied by those of the third where there is one.
fn activated(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, beside: Option<Value>) -> Result<Value, Fail> {
    let kind = n.string("activation_type", "relu")?;
    if kind == "swiglu" {
        return swiglu(c, n, x, beside);
    }
    n.pass_over(&["swiglu_fusion", "swiglu_limit", "activation_alpha", "activation_beta"]);
    let y = match kind {
        "identity" => x,
        "relu" => c.binary_splat(BinaryOp::Max, x, 0.0)?,
        "gelu" => gelu_of(c, x, true)?,
        "silu" => {
            let gate = c.unary(UnaryOp::Sigmoid, x)?;
            c.binary(BinaryOp::Mul, x, gate)?
        }
        other => return Err(unsupported(format!("activation_type is {other:?}"))),
    };
    match beside {
        Some(other) => c.binary(BinaryOp::Mul, y, other),
        None => Ok(y),
    }
}

/// `g * sigmoid(alpha * g) * (l + beta)` of limited `g` and `l`, which are two layers, or alternate in one, or are its
/// halves.
fn swiglu(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, beside: Option<Value>) -> Result<Value, Fail> {
    if n.flag("swiglu_limit_after_activation", false)? {
        return Err(unsupported("swiglu_limit_after_activation is 1"));
    }
    let shape = c.shape(x);
    let (tokens, k, width) = (shape[0], shape[1], shape[2]);
    let fusion = n.int("swiglu_fusion", 0)?;
    let (mut g, mut l) = match (fusion, beside) {
        (0, Some(l)) => (x, l),
        (1 | 2, None) if width.is_multiple_of(2) => {
            let (split, axis) = if fusion == 1 {
                (vec![tokens, k, width / 2, 2], 3)
            } else {
                (vec![tokens, k, 2, width / 2], 2)
            };
            let both = c.reshape(x, split)?;
            let mut half = |i: u64| {
                let part = c.slice_axis(both, axis, i, 1)?;
                c.reshape(part, vec![tokens, k, width / 2])
            };
            (half(0)?, half(1)?)
        }
        _ => {
            let third = if beside.is_some() { "with" } else { "without" };
            return Err(invalid(format!("swiglu_fusion is {fusion} {third} a third layer")));
        }
    };
    if n.has("swiglu_limit") {
        let limit = n.float("swiglu_limit", 0.0)?;
        g = c.binary_splat(BinaryOp::Min, g, limit)?;
        l = c.binary_splat(BinaryOp::Min, l, limit)?;
        l = c.binary_splat(BinaryOp::Max, l, -limit)?;
    }
    let scaled = c.binary_splat(BinaryOp::Mul, g, n.float("activation_alpha", 1.0)?)?;
    let gate = c.unary(UnaryOp::Sigmoid, scaled)?;
    let y = c.binary(BinaryOp::Mul, g, gate)?;
    let l = c.binary_splat(BinaryOp::Add, l, n.float("activation_beta", 0.0)?)?;
    c.binary(BinaryOp::Mul, y, l)
}
