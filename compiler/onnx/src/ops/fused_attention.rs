//! Attention as ONNX Runtime fuses it: Attention, QAttention and MultiHeadAttention, and the embeddings before them.

use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, Real, ReduceOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::attention::{by_heads, cache};
use super::contraction::product;
use super::indexing::non_negative;
use super::loss::widened;
use super::quantized::{Codes, centred_rows, scaled_product};
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Query, key and value, `[batch, heads, rows, size]` each; the first `past` keys are from a cache.
struct Heads {
    q: Value,
    k: Value,
    v: Value,
    past: u64,
}

impl Heads {
    /// Keys and values behind those of a cache.
    fn after(self, c: &mut Ctx<'_>, past_k: Value, past_v: Value) -> Result<Heads, Fail> {
        let past = c.shape(past_k).get(2).copied().unwrap_or(0);
        let (k, v) = (c.concat(&[past_k, self.k], 2)?, c.concat(&[past_v, self.v], 2)?);
        Ok(Heads { k, v, past, ..self })
    }

    /// The weighted values, `[batch, rows, heads * size]`. Masked scores get the attribute `mask_filter_value` added.
    fn attend(
        &self,
        c: &mut Ctx<'_>,
        n: &Call<'_>,
        mask: Option<Value>,
        bias: Option<Value>,
    ) -> Result<Value, Fail> {
        let (sq, sk, sv) = (c.shape(self.q), c.shape(self.k), c.shape(self.v));
        let ([batch, heads, rows, size], [_, _, columns, _]) = (&sq[..], &sk[..]) else {
            return Err(invalid(format!("attention of {sq} over {sk}")));
        };
        let (batch, heads, rows, columns) = (*batch, *heads, *rows, *columns);
        if sk[..] != [batch, heads, columns, *size] || sv[..3] != [batch, heads, columns] {
            return Err(invalid(format!("attention of {sq} over keys {sk} and values {sv}")));
        }
        let elem = c.elem(self.q);
        let scale = match n.float("scale", 0.0)? {
            0.0 => 1.0 / (*size as f64).sqrt(),
            scale => scale,
        };
        let map = |text: &str| ContractMap::parse(text).ok_or_else(|| invalid("map"));
        let scores = c.contract(map("bhqd,bhkd->bhqk")?, self.q, self.k)?;
        let mut scores = c.binary_splat(BinaryOp::Mul, scores, scale)?;
        if let Some(bias) = bias {
            scores = c.binary(BinaryOp::Add, scores, bias)?;
        }
        let filler = n.float("mask_filter_value", -10_000.0)?;
        if let Some(given) = mask {
            let keep = kept(c, given, [batch, rows, columns], self.past)?;
            scores = masked(c, scores, keep, filler)?;
        }
        if n.flag("unidirectional", false)? {
            let matrix: Shape = vec![rows, columns].into();
            let (row, column) = (c.iota(ScalarType::I64, &matrix, 0)?, c.iota(ScalarType::I64, &matrix, 1)?);
            let position = c.binary_splat(BinaryOp::Add, row, self.past as f64)?;
            let keep = c.compare(CompareOp::Le, column, position)?;
            scores = masked(c, scores, keep, f64::NEG_INFINITY)?;
        }
        if c.shape(scores)[..] != [batch, heads, rows, columns] {
            let full = Shape(vec![batch, heads, rows, columns]);
            return Err(invalid(format!("the bias of attention does not broadcast to {full}")));
        }
        let weights = c.emit(Op::Softmax { axis: 3, log: false }, &[scores])?;
        let y = c.contract_to(map("bhqk,bhkd->bhqd")?, elem, weights, self.v)?;
        let y = c.permute(y, vec![0, 2, 1, 3])?;
        c.reshape(y, vec![batch, rows, heads * sv[3]])
    }
}

/// `x` with `fill` added where `keep` is false.
fn masked(c: &mut Ctx<'_>, x: Value, keep: Value, fill: f64) -> Result<Value, Fail> {
    let (elem, shape) = (c.elem(x), c.shape(keep));
    let (zero, fill) = (c.splat(elem, &shape, 0.0)?, c.splat(elem, &shape, fill)?);
    let mask = c.select(keep, zero, fill)?;
    c.binary(BinaryOp::Add, x, mask)
}

/// Which keys the operand of a mask keeps, as flags that broadcast to `[batch, heads, rows, columns]`.
///
/// It has a length for each sequence, or ends and then starts, or a flag for each key, for each pair of query and key,
/// or for each pair of positions.
fn kept(c: &mut Ctx<'_>, mask: Value, [batch, rows, columns]: [u64; 3], past: u64) -> Result<Value, Fail> {
    let shape = c.shape(mask);
    let flags = |c: &mut Ctx<'_>, mask: Value, dims: Vec<u64>| {
        let mask = c.reshape(mask, dims)?;
        if c.elem(mask) == ScalarType::Bool {
            return Ok(mask);
        }
        let zero = c.splat_like(mask, 0.0)?;
        c.compare(CompareOp::Lt, zero, mask)
    };
    match shape[..] {
        [n] if n == batch || n == 2 * batch => {
            let each: Shape = vec![batch, 1, 1, columns].into();
            let key = c.iota(c.elem(mask), &each, 3)?;
            let bound = |c: &mut Ctx<'_>, first: u64| {
                let bound = c.slice_axis(mask, 0, first, batch)?;
                c.reshape(bound, vec![batch, 1, 1, 1])
            };
            let end = bound(c, 0)?;
            let keep = c.compare(CompareOp::Lt, key, end)?;
            if n == batch {
                return Ok(keep);
            }
            let start = bound(c, batch)?;
            let behind = c.compare(CompareOp::Le, start, key)?;
            c.binary(BinaryOp::And, keep, behind)
        }
        [b, t] if b == batch && t == columns => flags(c, mask, vec![batch, 1, 1, columns]),
        [b, s, t] if [b, s, t] == [batch, rows, columns] => flags(c, mask, vec![batch, 1, rows, columns]),
        [b, 1, s, t] if b == batch && s >= past + rows && t >= columns => {
            let mask = c.slice_axis(mask, 2, past, rows)?;
            let mask = c.slice_axis(mask, 3, 0, columns)?;
            flags(c, mask, vec![batch, 1, rows, columns])
        }
        _ => Err(unsupported(format!(
            "a mask {shape} for {batch} sequences of {rows} queries and {columns} keys"
        ))),
    }
}

/// Refuses caches that are longer than what they hold, and rotation, of which ONNX Runtime's CPU knows nothing either.
fn check_plain(n: &Call<'_>, lengths: &[usize]) -> Result<(), Fail> {
    for name in ["do_rotary", "past_present_share_buffer"] {
        if n.flag(name, false)? {
            return Err(unsupported(format!("{name} is 1")).hint("export the model without it"));
        }
    }
    // Says how much of a head is rotated where it is.
    n.pass_over(&["rotary_embedding_dim"]);
    match lengths.iter().find(|&&i| n.opt(i).is_some()) {
        Some(i) => Err(unsupported(format!("operand {i}, which says how much of a cache is in use"))
            .hint("export the model with caches that grow")),
        None => Ok(()),
    }
}

/// Heads of the joint projection `[batch, rows, sizes]` of query, key and value.
fn split_projection(c: &mut Ctx<'_>, n: &Call<'_>, joint: Value) -> Result<Heads, Fail> {
    let shape = c.shape(joint);
    let [_, _, width] = shape[..] else { return Err(invalid(format!("the projection is {shape}"))) };
    let sizes: Vec<u64> = match n.ints("qkv_hidden_sizes")? {
        Some(sizes) => sizes.iter().map(|&s| u64::try_from(s).unwrap_or(0)).collect(),
        None => vec![width / 3; 3],
    };
    if sizes.len() != 3 || sizes.iter().try_fold(0u64, |sum, &s| sum.checked_add(s)) != Some(width) {
        return Err(invalid(format!("qkv_hidden_sizes {sizes:?} of a projection to {width}")));
    }
    let heads = n.int("num_heads", 0)?;
    let mut first = 0;
    let mut parts = [joint; 3];
    for (part, size) in parts.iter_mut().zip(sizes) {
        *part = c.slice_axis(joint, 2, first, size)?;
        *part = by_heads(c, *part, heads, "the projection")?;
        first += size;
    }
    Ok(Heads { q: parts[0], k: parts[1], v: parts[2], past: 0 })
}

/// The rest of Attention and QAttention behind their projection; caches of keys and values are one tensor.
fn attend_projected(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    joint: Value,
    [mask, past, bias]: [Option<Value>; 3],
) -> Results {
    let mut heads = split_projection(c, n, joint)?;
    if let Some(past) = past {
        let shape = c.shape(past);
        if shape.rank() != 5 || shape[0] != 2 {
            return Err(invalid(format!("the cache is {shape}")));
        }
        let mut half = |i: u64| {
            let part = c.slice_axis(past, 0, i, 1)?;
            c.reshape(part, shape[1..].to_vec())
        };
        let (k, v) = (half(0)?, half(1)?);
        heads = heads.after(c, k, v)?;
    }
    let mut results = vec![heads.attend(c, n, mask, bias)?];
    if n.wants(1) {
        let mut lift = |v: Value| {
            let shape = [&[1], &c.shape(v)[..]].concat();
            c.reshape(v, shape)
        };
        let (k, v) = (lift(heads.k)?, lift(heads.v)?);
        results.push(c.concat(&[k, v], 0)?);
    }
    Ok(results)
}

/// Attention of an operand that is projected to query, key and value first.
pub(super) fn attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    check_plain(n, &[6])?;
    let (x, w) = (n.input(0)?, n.input(1)?);
    let elem = c.elem(x);
    let mut joint = product(c, x, w)?;
    if let Some(bias) = n.opt(2) {
        let (wide, bias) = (widened(c, joint)?, widened(c, bias)?);
        let sum = c.binary(BinaryOp::Add, wide, bias)?;
        joint = c.cast(sum, elem)?;
    }
    attend_projected(c, n, joint, [n.opt(3), n.opt(4), n.opt(5)])
}

/// Attention whose operand and weights are codes.
pub(super) fn quantised_attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    check_plain(n, &[])?;
    let x: Codes = (n.input(0)?, n.input(3)?, n.opt(6));
    let w: Codes = (n.input(1)?, n.input(4)?, n.opt(7));
    let joint = scaled_product(c, x, w)?;
    let joint = c.binary(BinaryOp::Add, joint, n.input(2)?)?;
    attend_projected(c, n, joint, [n.opt(5), n.opt(8), None])
}

/// Query, key and value of MultiHeadAttention: apart, or packed in one operand or two.
fn unpack(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Heads, Fail> {
    let q = n.input(0)?;
    let heads = n.int("num_heads", 0)?;
    let mut part = |packed: Value, i: u64, count: u64| {
        let shape = c.shape(packed);
        if shape.rank() != 5 || shape[3] != count {
            return Err(invalid(format!("{shape} is not a packed operand of {count} parts")));
        }
        let one = c.slice_axis(packed, 3, i, 1)?;
        let one = c.reshape(one, vec![shape[0], shape[1], shape[2], shape[4]])?;
        c.permute(one, vec![0, 2, 1, 3])
    };
    match (n.opt(1), n.opt(2)) {
        (None, None) => Ok(Heads { q: part(q, 0, 3)?, k: part(q, 1, 3)?, v: part(q, 2, 3)?, past: 0 }),
        (Some(kv), None) => {
            let (k, v) = (part(kv, 0, 2)?, part(kv, 1, 2)?);
            Ok(Heads { q: with_bias(c, n, q, 0, heads)?, k, v, past: 0 })
        }
        (k, v) => {
            let (k, v) = (k.ok_or_else(|| invalid("the key is missing"))?, v.unwrap_or(q));
            Ok(Heads {
                q: with_bias(c, n, q, 0, heads)?,
                k: with_bias(c, n, k, 1, heads)?,
                v: with_bias(c, n, v, 2, heads)?,
                past: 0,
            })
        }
    }
}

/// Operand `which` of query, key and value by heads, its part of the joint bias added; what comes by heads has none.
fn with_bias(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, which: u64, heads: i64) -> Result<Value, Fail> {
    let shape = c.shape(x);
    let Some(bias) = n.opt(3).filter(|_| shape.rank() == 3) else {
        return by_heads(c, x, heads, "an operand");
    };
    let (total, own, hidden) = (c.shape(bias).elements(), shape[2], c.shape(n.input(0)?)[2]);
    let first = which * hidden;
    if first + own > total {
        return Err(invalid(format!("a bias of {total} for {shape}")));
    }
    let part = c.slice_axis(bias, 0, first, own)?;
    let (wide, part) = (widened(c, x)?, widened(c, part)?);
    let sum = c.binary(BinaryOp::Add, wide, part)?;
    let sum = c.cast(sum, c.elem(x))?;
    by_heads(c, sum, heads, "an operand")
}

/// Attention of operands that are projected already.
pub(super) fn multi_head_attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    check_plain(n, &[8, 9])?;
    if n.wants(3) {
        return Err(unsupported("the result qk"));
    }
    if n.opt(3).is_some() && c.rank(n.input(0)?) == 5 {
        return Err(unsupported("a bias of packed operands"));
    }
    let mut heads = unpack(c, n)?;
    if let Some((k, v)) = cache(n, 6)? {
        heads = heads.after(c, k, v)?;
    }
    let y = heads.attend(c, n, n.opt(4), n.opt(5))?;
    Ok(vec![y, heads.k, heads.v])
}

/// The normalised sum of the embeddings of words, positions and segments, and how many tokens the mask keeps.
pub(super) fn embeddings(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    // Only the inference of shapes looks at the type of the second result.
    n.pass_over(&["mask_index_type"]);
    let tables = [Some(n.input(2)?), Some(n.input(3)?), n.opt(4)];
    let places = [Some(n.input(0)?), n.opt(8), n.opt(1)];
    let sum = embedded(c, tables, places, |_, rows, _| Ok(rows))?;
    let affine = [n.input(5)?, n.input(6)?];
    finish_embeddings(c, n, sum, affine, n.opt(7))
}

/// [`embeddings`] whose tables and parameters are codes with a scale and a zero point each.
pub(super) fn quantised_embeddings(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let tables = [Some(n.input(2)?), Some(n.input(3)?), n.opt(4)];
    let places = [Some(n.input(0)?), None, n.opt(1)];
    let widen = |c: &mut Ctx<'_>, x: Value, i: usize| {
        let codes = centred_rows(c, x, n.opt(13 + i))?;
        let scale = c.reshape(n.input(8 + i)?, vec![])?;
        c.binary(BinaryOp::Mul, codes, scale)
    };
    let sum = embedded(c, tables, places, widen)?;
    let affine = [widen(c, n.input(5)?, 3)?, widen(c, n.input(6)?, 4)?];
    finish_embeddings(c, n, sum, affine, n.opt(7))
}

/// The sum of a row of each table, in the type that composites are computed in; positions count from 0 where none are
/// given.
fn embedded(
    c: &mut Ctx<'_>,
    tables: [Option<Value>; 3],
    places: [Option<Value>; 3],
    widen: impl Fn(&mut Ctx<'_>, Value, usize) -> Result<Value, Fail>,
) -> Result<Value, Fail> {
    let ids = places[0].ok_or_else(|| invalid("the token ids are missing"))?;
    let shape = c.shape(ids);
    if shape.rank() != 2 {
        return Err(invalid(format!("the token ids are {shape}, not [batch, tokens]")));
    }
    let mut sum: Option<Value> = None;
    for (i, (table, place)) in tables.into_iter().zip(places).enumerate() {
        let place = match (place, i) {
            (None, 1) => Some(c.iota(ScalarType::I64, &vec![shape[1]].into(), 0)?),
            _ => place,
        };
        let (Some(table), Some(place)) = (table, place) else { continue };
        let rows = c.shape(table).first().copied().unwrap_or(0);
        let place = non_negative(c, place, &[rows])?;
        let row = c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, place])?;
        let row = widen(c, row, i)?;
        let row = widened(c, row)?;
        sum = Some(match sum {
            Some(sum) => c.binary(BinaryOp::Add, sum, row)?,
            None => row,
        });
    }
    sum.ok_or_else(|| invalid("no table of embeddings"))
}

fn finish_embeddings(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    sum: Value,
    affine: [Value; 2],
    mask: Option<Value>,
) -> Results {
    let shape = c.shape(sum);
    let elem = c.elem(affine[0]);
    let mut operands = vec![sum];
    for p in affine {
        let p = widened(c, p)?;
        operands.push(c.broadcast_to(p, &vec![shape[2]].into())?);
    }
    let eps = Real(n.float("epsilon", 1e-12)?);
    let y = c.emit(Op::Norm { axes: vec![2], centre: true, eps }, &operands)?;
    let counts = match mask {
        Some(mask) => {
            let kept = c.compare_splat(CompareOp::Eq, mask, 1.0)?;
            let kept = c.cast(kept, ScalarType::I32)?;
            c.reduce(ReduceOp::Sum, kept, &[1], false)?
        }
        None => c.splat(ScalarType::I32, &vec![shape[0]].into(), 0.0)?,
    };
    Ok(vec![c.cast(y, elem)?, counts, c.cast(sum, elem)?])
}
