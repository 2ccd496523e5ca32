//! Attention and rotary embeddings that the model states as one operator, spelled out in the IR.

use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// `[batch, heads, length, size]` of an operand that may be `[batch, length, heads * size]`.
pub(super) fn by_heads(c: &mut Ctx<'_>, x: Value, heads: i64, what: &str) -> Result<Value, Fail> {
    let shape = c.shape(x);
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [batch, length, width] => {
            let heads = u64::try_from(heads).ok().filter(|&h| h > 0 && width.is_multiple_of(h));
            let heads = heads.ok_or_else(|| invalid(format!("{what} {shape} without a number of heads")))?;
            let x = c.reshape(x, vec![batch, length, heads, width / heads])?;
            c.permute(x, vec![0, 2, 1, 3])
        }
        _ => Err(invalid(format!("{what} is {}", c.b.ty(x)))),
    }
}

/// The cache of keys at operand `first` and that of values behind it, of which a node has both or neither.
pub(super) fn cache(n: &Call<'_>, first: usize) -> Result<Option<(Value, Value)>, Fail> {
    match (n.opt(first), n.opt(first + 1)) {
        (Some(keys), Some(values)) => Ok(Some((keys, values))),
        (None, None) => Ok(None),
        _ => Err(invalid("of the caches of keys and values one is missing")),
    }
}

/// Scaled dot-product attention, with a cache that grows by the new keys and values.
///
/// Query heads that share a key and value head are a dimension of their own: nothing is repeated.
pub(super) fn attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (mut q, mut k, mut v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (flat, elem) = (c.rank(q) == 3, c.elem(q));
    let (q_heads, kv_heads) = (n.int("q_num_heads", 0)?, n.int("kv_num_heads", 0)?);
    q = by_heads(c, q, q_heads, "the query")?;
    k = by_heads(c, k, kv_heads, "the key")?;
    v = by_heads(c, v, kv_heads, "the value")?;
    let mut past = 0;
    if let Some((past_k, past_v)) = cache(n, 4)? {
        past = c.shape(past_k).get(2).copied().unwrap_or(0);
        k = c.concat(&[past_k, k], 2)?;
        v = c.concat(&[past_v, v], 2)?;
    }
    let (present_k, present_v) = (k, v);
    let (sq, sk, sv) = (c.shape(q), c.shape(k), c.shape(v));
    let ([batch, heads, rows, size], [_, groups, columns, _]) = (&sq[..], &sk[..]) else {
        return Err(invalid(format!("attention of {sq} over {sk}")));
    };
    let (batch, heads, rows, size, groups, columns) = (*batch, *heads, *rows, *size, *groups, *columns);
    if groups == 0 || !heads.is_multiple_of(groups) || sv.rank() != 4 {
        return Err(invalid(format!("{heads} query heads over {groups} key heads")));
    }
    let share = heads / groups;

    // As the specification's function: the square root of the scale on both sides.
    let scale = match n.has("scale") {
        true => n.float("scale", 1.0)?,
        false => 1.0 / (size as f64).sqrt(),
    };
    q = c.binary_splat(BinaryOp::Mul, q, scale.sqrt())?;
    k = c.binary_splat(BinaryOp::Mul, k, scale.sqrt())?;
    let q = c.reshape(q, vec![batch, groups, share, rows, size])?;
    let map = |text: &str| ContractMap::parse(text).ok_or_else(|| invalid("map"));
    let scores = c.contract(map("abgqd,abkd->abgqk")?, q, k)?;
    let full: Shape = vec![batch, heads, rows, columns].into();
    let mut scores = c.reshape(scores, full.clone())?;
    let mode = n.int("qk_matmul_output_mode", 0)?;
    let mut shown = [scores; 4];

    let mut mask = None;
    if let Some(given) = n.opt(3) {
        mask = Some(additive(c, given, elem, columns)?);
    }
    let band = Band::of(n)?;
    mask = band.restrict(c, mask, n.opt(6), [batch, rows, columns, past], elem)?;
    if let Some(valid) = n.opt(6) {
        let four: Shape = vec![batch, 1, rows, columns].into();
        let valid = c.broadcast_along(valid, 0, &four)?;
        let column = c.iota(ScalarType::I64, &four, 3)?;
        let keep = c.compare(CompareOp::Lt, column, valid)?;
        mask = Some(join(c, mask, keep, elem)?);
    }
    let softcap = n.float("softcap", 0.0)?;
    if softcap > 0.0 {
        let scaled = c.binary_splat(BinaryOp::Div, scores, softcap)?;
        let bent = c.unary(UnaryOp::Tanh, scaled)?;
        scores = c.binary_splat(BinaryOp::Mul, bent, softcap)?;
    }
    shown[1] = scores;
    if let Some(mask) = mask {
        scores = c.binary(BinaryOp::Add, scores, mask)?;
        if c.shape(scores) != full {
            return Err(invalid(format!("the mask does not broadcast to {full}")));
        }
    }
    shown[2] = scores;
    let precise = n.data_type("softmax_precision")?.unwrap_or(c.elem(scores));
    let wide = c.cast(scores, precise)?;
    let mut weights = c.emit(Op::Softmax { axis: 3, log: false }, &[wide])?;
    // A causal mask alone leaves every row a key.
    let alone = band.is_causal_alone() && n.opt(3).is_none() && n.opt(6).is_none();
    if let Some(mask) = mask.filter(|_| !alone) {
        weights = zero_empty_rows(c, mask, weights)?;
    }
    let weights = c.cast(weights, elem)?;
    shown[3] = weights;
    let weights = c.reshape(weights, vec![batch, groups, share, rows, columns])?;
    let y = c.contract(map("abgqk,abkd->abgqd")?, weights, v)?;
    let mut y = c.reshape(y, vec![batch, heads, rows, sv[3]])?;
    if flat {
        y = c.permute(y, vec![0, 2, 1, 3])?;
        y = c.reshape(y, vec![batch, rows, heads * sv[3]])?;
    }
    let shown = usize::try_from(mode).ok().and_then(|m| shown.get(m).copied());
    Ok(vec![
        y,
        present_k,
        present_v,
        shown.ok_or_else(|| invalid(format!("qk_matmul_output_mode is {mode}")))?,
    ])
}

/// Which keys a query sees by their positions.
struct Band {
    causal: bool,
    /// Numbers of keys before and behind the query's own position; all where negative.
    left: i64,
    right: i64,
}

impl Band {
    fn of(n: &Call<'_>) -> Result<Band, Fail> {
        // Sums of positions with a window that no model has must not overflow.
        let window = |name: &str| n.int(name, -1).map(|w| w.min(crate::limits::MAX_ELEMENTS as i64));
        let (left, right) = (window("left_window_size")?, window("right_window_size")?);
        Ok(Band { causal: n.flag("is_causal", false)?, left, right })
    }

    fn is_causal_alone(&self) -> bool {
        self.causal && self.left < 0 && self.right < 0
    }

    /// The mask without the keys that the band leaves out; `valid` says how many keys each sequence has.
    fn restrict(
        &self,
        c: &mut Ctx<'_>,
        mut mask: Option<Value>,
        valid: Option<Value>,
        [batch, rows, columns, past]: [u64; 4],
        elem: ScalarType,
    ) -> Result<Option<Value>, Fail> {
        if !self.causal && self.left < 0 && self.right < 0 {
            return Ok(mask);
        }
        let matrix: Shape = vec![rows, columns].into();
        let row = c.iota(ScalarType::I64, &matrix, 0)?;
        // The position of each query among the keys.
        let position = match valid {
            // Queries are the last of each sequence's valid keys.
            Some(valid) => {
                let before = c.binary_splat(BinaryOp::Sub, valid, rows as f64)?;
                let four: Shape = vec![batch, 1, rows, columns].into();
                let before = c.broadcast_along(before, 0, &four)?;
                c.binary(BinaryOp::Add, before, row)?
            }
            None => c.binary_splat(BinaryOp::Add, row, past as f64)?,
        };
        let column = c.iota(ScalarType::I64, &matrix, 1)?;
        if self.causal {
            let keep = c.compare(CompareOp::Le, column, position)?;
            mask = Some(join(c, mask, keep, elem)?);
        }
        if self.left >= 0 {
            let first = c.binary_splat(BinaryOp::Sub, position, self.left as f64)?;
            let keep = c.compare(CompareOp::Le, first, column)?;
            mask = Some(join(c, mask, keep, elem)?);
        }
        if self.right >= 0 {
            let last = c.binary_splat(BinaryOp::Add, position, self.right as f64)?;
            let keep = c.compare(CompareOp::Le, column, last)?;
            mask = Some(join(c, mask, keep, elem)?);
        }
        Ok(mask)
    }
}

/// A mask to add: that of the model, where false becomes minus infinity, padded to all keys.
fn additive(c: &mut Ctx<'_>, mask: Value, elem: ScalarType, columns: u64) -> Result<Value, Fail> {
    let is_bool = c.elem(mask) == ScalarType::Bool;
    let mut mask = if is_bool { join(c, None, mask, elem)? } else { c.cast(mask, elem)? };
    let shape = c.shape(mask);
    let Some(&width) = shape.last() else { return Ok(mask) };
    if width < columns && width != 1 {
        let mut high = vec![0; shape.rank()];
        high[shape.rank() - 1] = columns - width;
        let fill = c.splat(elem, &Shape::default(), f64::NEG_INFINITY)?;
        mask = c.emit(Op::Pad { low: vec![0; shape.rank()], high }, &[mask, fill])?;
    }
    Ok(mask)
}

/// A mask with minus infinity where `keep` is false.
fn join(c: &mut Ctx<'_>, mask: Option<Value>, keep: Value, elem: ScalarType) -> Result<Value, Fail> {
    let shape = c.shape(keep);
    let zero = match mask {
        Some(mask) => mask,
        None => c.splat(elem, &shape, 0.0)?,
    };
    let low = c.splat(elem, &Shape::default(), f64::NEG_INFINITY)?;
    c.select(keep, zero, low)
}

/// Zero weights for rows in which the mask rejects every key.
fn zero_empty_rows(c: &mut Ctx<'_>, mask: Value, weights: Value) -> Result<Value, Fail> {
    let (shape, full) = (c.shape(mask), c.shape(weights));
    if shape.rank() == 0 || shape.contains(&0) {
        return Ok(weights);
    }
    let best = c.reduce(ReduceOp::Max, mask, &[shape.rank() as u8 - 1], true)?;
    let empty = c.compare_splat(CompareOp::Eq, best, f64::NEG_INFINITY)?;
    let empty = c.broadcast_to(empty, &full)?;
    let zero = c.splat_like(weights, 0.0)?;
    c.select(empty, zero, weights)
}

/// Rotates pairs of elements by angles whose cosine and sine are tables over positions.
pub(super) fn rotary(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    rotary_of(c, n, n.int("num_heads", 0)?)
}

/// [`rotary`] of a number of heads.
pub(super) fn rotary_of(c: &mut Ctx<'_>, n: &Call<'_>, heads: i64) -> Results {
    let x = n.input(0)?;
    let original = c.shape(x);
    let x = by_heads(c, x, heads, "the operand")?;
    let shape = c.shape(x);
    let (batch, rows, size) = (shape[0], shape[2], shape[3]);
    let rotated = match n.int("rotary_embedding_dim", 0)? {
        0 => size,
        r => u64::try_from(r).unwrap_or(u64::MAX),
    };
    if rotated > size || rotated % 2 != 0 {
        return Err(invalid(format!("rotation of {rotated} of {size} elements")));
    }
    let half = rotated / 2;
    let tables: Shape = vec![batch, 1, rows, half].into();
    let mut table = |i: usize| -> Result<Value, Fail> {
        let t = n.input(i)?;
        let t = match n.opt(3) {
            Some(positions) => c.emit(Op::Gather { axis: 0, batch: 0 }, &[t, positions])?,
            None => t,
        };
        let shape = c.shape(t);
        let [b, r, width] = shape[..] else { return Err(invalid(format!("the table is {shape}"))) };
        let t = c.slice_axis(t, 2, 0, half.min(width))?;
        let t = c.reshape(t, vec![b, 1, r, half.min(width)])?;
        let full = tables.clone();
        let t = c.broadcast_to(t, &full)?;
        let wide: Shape = vec![batch, shape_heads(c, x), rows, half].into();
        c.broadcast_to(t, &wide)
    };
    let (cos, sin) = (table(1)?, table(2)?);
    let mut y = rotate(c, x, [cos, sin], n.flag("interleaved", false)?)?;
    if original.rank() == 3 {
        y = c.permute(y, vec![0, 2, 1, 3])?;
        y = c.reshape(y, original)?;
    }
    Ok(vec![y])
}

/// Rotates the first elements of `x`, `[batch, heads, rows, size]`, by angles with these cosines and sines, `[batch, heads, rows, half]`:
/// elements 2i and 2i + 1 are a pair where they are interleaved, else elements i and half + i.
pub(super) fn rotate(
    c: &mut Ctx<'_>,
    x: Value,
    [cos, sin]: [Value; 2],
    interleaved: bool,
) -> Result<Value, Fail> {
    let (shape, half) = (c.shape(x), c.shape(cos)[3]);
    let (batch, heads, rows, size, rotated) = (shape[0], shape[1], shape[2], shape[3], 2 * half);
    let inner = c.slice_axis(x, 3, 0, rotated)?;
    let (first, second) = if interleaved {
        let pairs = c.reshape(inner, vec![batch, heads, rows, half, 2])?;
        let mut part = |i| {
            let p = c.slice_axis(pairs, 4, i, 1)?;
            c.reshape(p, vec![batch, heads, rows, half])
        };
        (part(0)?, part(1)?)
    } else {
        (c.slice_axis(inner, 3, 0, half)?, c.slice_axis(inner, 3, half, half)?)
    };
    let mut product = |a, b| c.binary(BinaryOp::Mul, a, b);
    let (ac, bs, as_, bc) =
        (product(first, cos)?, product(second, sin)?, product(first, sin)?, product(second, cos)?);
    let real = c.binary(BinaryOp::Sub, ac, bs)?;
    let imaginary = c.binary(BinaryOp::Add, as_, bc)?;
    let y = if interleaved {
        let mut lift = |v| c.reshape(v, vec![batch, heads, rows, half, 1]);
        let (a, b) = (lift(real)?, lift(imaginary)?);
        let pairs = c.concat(&[a, b], 4)?;
        c.reshape(pairs, vec![batch, heads, rows, rotated])?
    } else {
        c.concat(&[real, imaginary], 3)?
    };
    if rotated == size {
        return Ok(y);
    }
    let rest = c.slice_axis(x, 3, rotated, size - rotated)?;
    c.concat(&[y, rest], 3)
}

fn shape_heads(c: &Ctx<'_>, x: Value) -> u64 {
    c.shape(x)[1]
}
