//! MoE and QMoE of ONNX Runtime: mixtures of experts, each two products with an activation between.
//!
//! Every expert is a batch of products over all tokens, and those that the router did not choose for a token have the
//! weight 0 there.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
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
    /// The results `[experts, tokens, outputs]` in f32, of operands of a map like `"th,eoh->eto"`.
    fn apply(&self, c: &mut Ctx<'_>, map: &str, x: Value) -> Result<Value, Fail> {
        let x = c.cast(x, c.elem(self.weight))?;
        let y = c.contract_as(map, x, self.weight, ScalarType::F32)?;
        let Some(bias) = self.bias else { return Ok(y) };
        let (bias, shape) = (widened(c, bias)?, c.shape(y));
        if c.shape(bias)[..] != [shape[0], shape[2]] {
            return Err(invalid(format!("a bias {} of experts' results {shape}", c.shape(bias))));
        }
        let bias = c.reshape(bias, vec![shape[0], 1, shape[2]])?;
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
        if c.rank(layer.weight) != 3 {
            return Err(invalid(format!("weights of experts {}", c.b.ty(layer.weight))));
        }
    }
    let experts = c.shape(first.weight)[0];
    let gates = gates(c, n, tokens, experts)?;
    let x = c.reshape(x, vec![tokens, hidden])?;
    let inner = first.apply(c, "th,eoh->eto", x)?;
    let beside = third.map(|layer| layer.apply(c, "th,eoh->eto", x)).transpose()?;
    let inner = activated(c, n, inner, beside)?;
    let y = second.apply(c, "eti,eoi->eto", inner)?;
    let gates = c.permute(gates, vec![1, 0])?;
    let gates = c.reshape(gates, vec![experts, tokens, 1])?;
    let y = c.binary(BinaryOp::Mul, y, gates)?;
    let y = c.reduce(ReduceOp::Sum, y, &[0], false)?;
    let y = c.reshape(y, shape)?;
    Ok(vec![c.cast(y, elem)?])
}

/// The weight of each expert for each token, `[tokens, experts]`: its probability where it is among the `k` most likely
/// ones, else zero.
fn gates(c: &mut Ctx<'_>, n: &Call<'_>, tokens: u64, experts: u64) -> Result<Value, Fail> {
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
    let places: Shape = vec![tokens, k, experts].into();
    let best = c.emit(Op::Broadcast { dims: vec![0, 1], shape: places.clone() }, &[best])?;
    let number = c.iota(ScalarType::I64, &places, 2)?;
    let here = c.compare(CompareOp::Eq, best, number)?;
    let here = c.cast(here, ScalarType::I32)?;
    let chosen = c.reduce(ReduceOp::Max, here, &[1], false)?;
    let chosen = c.compare_splat(CompareOp::Eq, chosen, 1.0)?;
    let likely = c.emit(Op::Softmax { axis: 1, log: false }, &[scores])?;
    let none = c.splat_like(likely, 0.0)?;
    let gates = c.select(chosen, likely, none)?;
    if !n.flag("normalize_routing_weights", false)? {
        return Ok(gates);
    }
    let total = c.reduce(ReduceOp::Sum, gates, &[1], true)?;
    c.binary(BinaryOp::Div, gates, total)
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
    let (experts, tokens, width) = (shape[0], shape[1], shape[2]);
    let fusion = n.int("swiglu_fusion", 0)?;
    let (mut g, mut l) = match (fusion, beside) {
        (0, Some(l)) => (x, l),
        (1 | 2, None) if width.is_multiple_of(2) => {
            let (split, axis) = if fusion == 1 {
                (vec![experts, tokens, width / 2, 2], 3)
            } else {
                (vec![experts, tokens, 2, width / 2], 2)
            };
            let both = c.reshape(x, split)?;
            let mut half = |i: u64| {
                let part = c.slice_axis(both, axis, i, 1)?;
                c.reshape(part, vec![experts, tokens, width / 2])
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
