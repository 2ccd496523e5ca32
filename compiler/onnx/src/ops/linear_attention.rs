//! Attention with a state of fixed size, and causal convolution with the inputs before.

use lacuna_ir::op::{BinaryOp, ConvAttrs, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::control::{MAX_STEPS, too_long};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Sizes of linear attention.
struct Sizes {
    batch: u64,
    steps: u64,
    heads: u64,
    groups: u64,
    /// Width of a key and of a query.
    key: u64,
    /// Width of a value.
    value: u64,
}

/// Operands of the recurrence in the type that it is computed in.
struct Streams {
    /// `[batch, steps, groups, key]`.
    k: Value,
    /// `[batch, steps, groups, value]`.
    v: Value,
    /// `[batch, steps, groups, heads of the group, key]`, scaled.
    q: Value,
    /// The exponentials of the decay: `[batch, steps, groups, key or 1]`.
    decay: Option<Value>,
    /// `[batch, steps, groups or 1, 1]`.
    beta: Option<Value>,
}

/// The state `[batch, groups, key, value]` goes from step to step: it decays, takes in the outer product of key and
/// value (or of key and what the value differs from what the key retrieves), and is read with the query.
pub(super) fn linear_attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    // A hint for implementations that take steps in chunks.
    n.pass_over(&["chunk_size"]);
    let (decays, corrects) = match n.string("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(invalid(format!("update_rule is {other:?}"))),
    };
    if n.opt(4).is_some() != decays || n.opt(5).is_some() != corrects {
        return Err(invalid("decay and beta do not fit the update_rule"));
    }
    let sizes = Sizes::of(c, n)?;
    let Sizes { batch, steps, heads, groups, key, value } = sizes;
    let elem = c.elem(n.input(0)?);
    let wide = if elem == ScalarType::F64 { elem } else { ScalarType::F32 };
    let streams = Streams::of(c, n, &sizes, wide)?;
    let (mut state, state_elem) = match n.opt(3) {
        Some(past) if c.shape(past)[..] != [batch, groups, key, value] => {
            return Err(invalid(format!("the past state is {}", c.b.ty(past))));
        }
        Some(past) => (c.cast(past, wide)?, c.elem(past)),
        None => (c.splat(wide, &vec![batch, groups, key, value].into(), 0.0)?, elem),
    };
    let mut rows = Vec::new();
    for t in 0..steps {
        state = streams.update(c, state, t)?;
        let q = step(c, streams.q, t)?;
        let row = c.contract_as("bgsd,bgdm->bgsm", q, state, wide)?;
        rows.push(c.reshape(row, vec![batch, 1, heads * value])?);
    }
    let y = match rows.is_empty() {
        true => c.splat(wide, &vec![batch, 0, heads * value].into(), 0.0)?,
        false => c.concat(&rows, 1)?,
    };
    Ok(vec![c.cast(y, elem)?, c.cast(state, state_elem)?])
}

/// A step of a stream: `[batch, steps, ..]` without the steps.
fn step(c: &mut Ctx<'_>, v: Value, t: u64) -> Result<Value, Fail> {
    let mut shape = c.shape(v);
    let part = c.slice_axis(v, 1, t, 1)?;
    shape.0.remove(1);
    c.reshape(part, shape)
}

impl Sizes {
    fn of(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Sizes, Fail> {
        let number = |name: &str| -> Result<u64, Fail> {
            let given = n.int(name, 0)?;
            let count = u64::try_from(given).ok().filter(|&h| h > 0);
            count.ok_or_else(|| invalid(format!("{name} is {given}")))
        };
        let (heads, groups) = (number("q_num_heads")?, number("kv_num_heads")?);
        let (q, k, v) = (c.shape(n.input(0)?), c.shape(n.input(1)?), c.shape(n.input(2)?));
        let wrong = || invalid(format!("{heads} heads over {groups} groups of {q}, {k} and {v}"));
        let (&[batch, steps, q_width], &[.., k_width], &[.., v_width]) = (&q[..], &k[..], &v[..]) else {
            return Err(wrong());
        };
        let fits = k[..k.rank() - 1] == [batch, steps]
            && v[..v.rank() - 1] == [batch, steps]
            && heads.is_multiple_of(groups)
            && q_width.is_multiple_of(heads)
            && v_width.is_multiple_of(groups)
            && Some(k_width) == (q_width / heads).checked_mul(groups);
        if !fits {
            return Err(wrong());
        }
        if steps > MAX_STEPS {
            return Err(too_long(steps));
        }
        Ok(Sizes { batch, steps, heads, groups, key: q_width / heads, value: v_width / groups })
    }
}

impl Streams {
    fn of(c: &mut Ctx<'_>, n: &Call<'_>, s: &Sizes, wide: ScalarType) -> Result<Streams, Fail> {
        let Sizes { batch, steps, heads, groups, key, value } = *s;
        let lift = |c: &mut Ctx<'_>, v: Value, shape: Vec<u64>| {
            let v = c.cast(v, wide)?;
            c.reshape(v, shape)
        };
        let scale = match n.float("scale", 0.0)? {
            0.0 => 1.0 / (key as f64).sqrt(),
            scale => scale,
        };
        let q = lift(c, n.input(0)?, vec![batch, steps, groups, heads / groups, key])?;
        let q = c.binary_splat(BinaryOp::Mul, q, scale)?;
        let k = lift(c, n.input(1)?, vec![batch, steps, groups, key])?;
        let v = lift(c, n.input(2)?, vec![batch, steps, groups, value])?;
        let width = |c: &Ctx<'_>, v: Value| c.shape(v).last().copied().unwrap_or(0);
        let decay = match n.opt(4) {
            None => None,
            Some(d) => {
                let each = if width(c, d) == groups { 1 } else { key };
                let d = lift(c, d, vec![batch, steps, groups, each])?;
                Some(c.unary(UnaryOp::Exp, d)?)
            }
        };
        let beta = match n.opt(5) {
            None => None,
            Some(b) => {
                let shared = width(c, b);
                if shared != 1 && shared != groups {
                    return Err(invalid(format!("beta is {} for {groups} groups", c.b.ty(b))));
                }
                Some(lift(c, b, vec![batch, steps, shared, 1])?)
            }
        };
        Ok(Streams { k, v, q, decay, beta })
    }

    /// The state after step `t`.
    fn update(&self, c: &mut Ctx<'_>, mut state: Value, t: u64) -> Result<Value, Fail> {
        let shape = c.shape(state);
        let wide = c.elem(state);
        if let Some(decay) = self.decay {
            let factor = step(c, decay, t)?;
            let mut unit = c.shape(factor);
            unit.0.push(1);
            let factor = c.reshape(factor, unit)?;
            state = c.binary(BinaryOp::Mul, state, factor)?;
        }
        let k = step(c, self.k, t)?;
        let mut v = step(c, self.v, t)?;
        if let Some(beta) = self.beta {
            let retrieved = c.contract_as("bgd,bgdm->bgm", k, state, wide)?;
            let beta = step(c, beta, t)?;
            let missing = c.binary(BinaryOp::Sub, v, retrieved)?;
            v = c.binary(BinaryOp::Mul, beta, missing)?;
        }
        let k = c.reshape(k, vec![shape[0], shape[1], shape[2], 1])?;
        let v = c.reshape(v, vec![shape[0], shape[1], 1, shape[3]])?;
        let outer = c.binary(BinaryOp::Mul, k, v)?;
        c.binary(BinaryOp::Add, state, outer)
    }
}

/// A depthwise convolution along the last axis, of the inputs before and the new ones.
pub(super) fn causal_conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let (shape, kernel) = (c.shape(x), c.shape(w));
    let (&[batch, channels, length], &[filters, 1, size]) = (&shape[..], &kernel[..]) else {
        return Err(invalid(format!("a causal convolution of {shape} with {kernel}")));
    };
    if filters != channels || size == 0 {
        return Err(invalid(format!("a causal convolution of {shape} with {kernel}")));
    }
    let gated = match n.string("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(invalid(format!("activation is {other:?}"))),
    };
    let elem = c.elem(x);
    let past = match n.opt(3) {
        Some(past) if c.shape(past)[..] != [batch, channels, size - 1] => {
            return Err(invalid(format!("the past state is {} for a kernel of {size}", c.b.ty(past))));
        }
        Some(past) => past,
        None => c.splat(elem, &vec![batch, channels, size - 1].into(), 0.0)?,
    };
    let padded = if size > 1 { c.concat(&[past, x], 2)? } else { x };
    let present = c.slice_axis(padded, 2, length, size - 1)?;
    let wide = if elem == ScalarType::F64 { elem } else { ScalarType::F32 };
    let attrs = ConvAttrs {
        x: vec![0, 1, 2],
        w: vec![0, 1, 2],
        out: vec![0, 1, 2],
        strides: vec![1],
        dilations: vec![1],
        x_dilations: vec![1],
        low: vec![0],
        high: vec![0],
        groups: channels,
    };
    let mut y = c.emit(Op::Conv { attrs, elem: wide }, &[padded, w])?;
    if let Some(bias) = n.opt(2) {
        let bias = c.cast(bias, wide)?;
        let bias = c.reshape(bias, vec![channels, 1])?;
        y = c.binary(BinaryOp::Add, y, bias)?;
    }
    if gated {
        let gate = c.unary(UnaryOp::Sigmoid, y)?;
        y = c.binary(BinaryOp::Mul, y, gate)?;
    }
    Ok(vec![c.cast(y, elem)?, present])
}
