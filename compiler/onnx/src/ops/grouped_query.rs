//! GroupQueryAttention of ONNX Runtime: causal attention whose caches of keys and values are buffers that it writes.
//!
//! A sequence of the batch has `seqlens_k + 1` tokens, those of this call last; right-padded prompts are the exception, whose rows begin
//! at position 0. The operands may be rotated on the way into the caches.

use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, Real, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::attention::{by_heads, rotate};
use super::loss::widened;
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Extents of an attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: u64,
    heads: u64,
    /// Heads of keys and values.
    groups: u64,
    /// Queries of a sequence.
    rows: u64,
    /// Elements of a head.
    size: u64,
    /// Tokens that the caches have room for.
    columns: u64,
}

/// Lowers the operator: the result, and the caches with this call's keys and values.
pub(super) fn attention(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    refuse(n)?;
    let [q, k, v] = operands(c, n)?;
    let (elem, sq, sk) = (c.elem(q), c.shape(q), c.shape(k));
    let (batch, heads, rows, size, groups) = (sq[0], sq[1], sq[2], sq[3], sk[1]);
    if rows == 0 || groups == 0 || heads % groups != 0 || sk[2] != rows || sk[3] != size {
        return Err(invalid(format!("queries {sq} over keys {sk}")));
    }
    let past = past_length(c, n)?;
    let total = match past {
        // The first tokens are all that there are.
        0 => {
            n.pass_over_operand(6);
            rows
        }
        _ => total(c, n)?,
    };
    if n.flag("sliding_window_cache", false)? && past > 0 && past < total {
        let reason =
            format!("caches of {past} rows forget some of {total} tokens (sliding_window_cache is 1)");
        return Err(unsupported(reason).hint("bind their length to that of total_sequence_length"));
    }
    let s = Sizes { batch, heads, groups, rows, size, columns: past.max(total) };
    if s.columns < rows {
        return Err(invalid(format!("{rows} tokens for a cache of {}", s.columns)));
    }
    let before = tokens_before(c, n, s, total == rows && (past == 0 || rows > 1))?;
    let (q, k) = (normed(c, n, q, 14)?, normed(c, n, k, 15)?);
    let (q, k) = match n.flag("do_rotary", false)? {
        true => rotated(c, n, s, [q, k], before)?,
        // Tables and positions stay behind where a model rotates on its own.
        false => {
            n.pass_over(&["rotary_interleaved"]);
            (7..10).for_each(|i| n.pass_over_operand(i));
            (q, k)
        }
    };
    let present_k = appended(c, n.opt(3).filter(|_| past > 0), k, before, s)?;
    let present_v = appended(c, n.opt(4).filter(|_| past > 0), v, before, s)?;
    let y = weighted(c, n, s, [q, present_k, present_v], before)?;
    Ok(vec![c.cast(y, elem)?, present_k, present_v])
}

/// Refuses what has no lowering.
fn refuse(n: &Call<'_>) -> Result<(), Fail> {
    if n.int("qk_output", 0)? != 0 || n.wants(3) {
        return Err(unsupported("qk_output is not 0"));
    }
    if n.opt(12).is_some() || n.opt(13).is_some() || n.int("kv_cache_bit_width", 0)? != 0 {
        return Err(unsupported("the caches are quantised"));
    }
    for name in ["k_quant_type", "v_quant_type"] {
        if n.string(name, "NONE")? != "NONE" {
            return Err(unsupported(format!("{name} is {:?}", n.string(name, "NONE")?)));
        }
    }
    if n.opt(16).is_some() {
        return Err(unsupported("query_seqlens is given"));
    }
    Ok(())
}

/// Queries or keys divided by the root of the mean square of each head and scaled by operand `weight`, if there is one.
fn normed(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, weight: usize) -> Result<Value, Fail> {
    let both = n.float("qk_norm_epsilon", 1e-6)? as f32;
    let eps = n.float(if weight == 14 { "q_norm_epsilon" } else { "k_norm_epsilon" }, both)?;
    let Some(scale) = n.opt(weight) else { return Ok(x) };
    let elem = c.elem(x);
    let (x, scale) = (widened(c, x)?, widened(c, scale)?);
    let y = c.emit(Op::Norm { axes: vec![3], centre: false, eps: Real(eps) }, &[x, scale])?;
    c.cast(y, elem)
}

/// Queries, keys and values, `[batch, heads, rows, size]`: three operands, or one that has all of them.
fn operands(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<[Value; 3], Fail> {
    let (heads, groups) = (n.int("num_heads", 0)?, n.int("kv_num_heads", 0)?);
    if heads < 1 || groups < 1 {
        return Err(invalid(format!("num_heads is {heads} and kv_num_heads {groups}")));
    }
    let q = n.input(0)?;
    match (n.opt(1), n.opt(2)) {
        (Some(k), Some(v)) => Ok([
            by_heads(c, q, heads, "the query")?,
            by_heads(c, k, groups, "the key")?,
            by_heads(c, v, groups, "the value")?,
        ]),
        (None, None) => {
            let all = by_heads(c, q, heads + 2 * groups, "the packed query, key and value")?;
            let sizes = [heads, groups, groups].map(i64::unsigned_abs);
            let starts = [0, sizes[0], sizes[0] + sizes[1]];
            let mut part = |i: usize| c.slice_axis(all, 1, starts[i], sizes[i]);
            Ok([part(0)?, part(1)?, part(2)?])
        }
        _ => Err(invalid("of key and value one is missing")),
    }
}

/// Tokens that the caches given have room for.
fn past_length(c: &Ctx<'_>, n: &Call<'_>) -> Result<u64, Fail> {
    match (n.opt(3), n.opt(4)) {
        (Some(k), Some(v)) if c.rank(k) == 4 && c.shape(k) == c.shape(v) => Ok(c.shape(k)[2]),
        (None, None) => Ok(0),
        (k, v) => {
            let shape = |x: Option<Value>| x.map_or("nothing".to_owned(), |x| c.shape(x).to_string());
            Err(invalid(format!("caches {} and {}", shape(k), shape(v))))
        }
    }
}

/// The number of tokens of the longest sequence, on which the shape of the caches depends.
fn total(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<u64, Fail> {
    let total = c.const_scalar(n.input(6)?, "total_sequence_length")?;
    if total >= 1.0 { Ok(total as u64) } else { Err(invalid(format!("total_sequence_length is {total}"))) }
}

/// The tokens of each sequence that came before this call's, `[batch]`: none for the `first` call.
fn tokens_before(c: &mut Ctx<'_>, n: &Call<'_>, s: Sizes, first: bool) -> Result<Value, Fail> {
    let (last, flat) = (n.input(5)?, Shape::from(vec![s.batch]));
    if c.shape(last).elements() != s.batch {
        return Err(invalid(format!("seqlens_k is {} for a batch of {}", c.b.ty(last), s.batch)));
    }
    let last = c.reshape(last, flat.clone())?;
    match (first, s.rows) {
        (true, _) => c.splat(c.elem(last), &flat, 0.0),
        (false, 1) => Ok(last),
        (false, rows) => c.binary_splat(BinaryOp::Sub, last, (rows - 1) as f64),
    }
}

/// Positions of the rows, `[batch, rows]`.
fn positions(c: &mut Ctx<'_>, s: Sizes, before: Value) -> Result<Value, Fail> {
    let places: Shape = vec![s.batch, s.rows].into();
    let first = c.broadcast_along(before, 0, &places)?;
    let row = c.iota(c.elem(before), &places, 1)?;
    c.binary(BinaryOp::Add, first, row)
}

/// Queries and keys rotated by their positions.
fn rotated(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    s: Sizes,
    [q, k]: [Value; 2],
    before: Value,
) -> Result<(Value, Value), Fail> {
    let at = match n.opt(9) {
        Some(given) => c.broadcast_to(given, &vec![s.batch, s.rows].into())?,
        None => positions(c, s, before)?,
    };
    let mut tables = Vec::new();
    for i in [7, 8] {
        let table = n.input(i)?;
        let shape = c.shape(table);
        let [known, half] = shape[..] else { return Err(invalid(format!("a table of angles {shape}"))) };
        if 2 * half > s.size {
            return Err(invalid(format!("{half} angles for heads of {} elements", s.size)));
        }
        // A padded row may have any position.
        let last = c.splat_like(at, known.saturating_sub(1) as f64)?;
        let zero = c.splat_like(at, 0.0)?;
        let inside = c.binary(BinaryOp::Min, at, last)?;
        let inside = c.binary(BinaryOp::Max, inside, zero)?;
        let table = widened(c, table)?;
        let rows = c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, inside])?;
        tables.push(c.reshape(rows, vec![s.batch, 1, s.rows, half])?);
    }
    let interleaved = n.flag("rotary_interleaved", false)?;
    let mut turn = |x: Value| {
        let (elem, heads) = (c.elem(x), c.shape(x)[1]);
        let wide: Shape = vec![s.batch, heads, s.rows, c.shape(tables[0])[3]].into();
        let angles = [c.broadcast_to(tables[0], &wide)?, c.broadcast_to(tables[1], &wide)?];
        let x = widened(c, x)?;
        let y = rotate(c, x, angles, interleaved)?;
        c.cast(y, elem)
    };
    Ok((turn(q)?, turn(k)?))
}

/// A cache, `[batch, groups, columns, size]`, with these rows behind those that it has.
fn appended(
    c: &mut Ctx<'_>,
    past: Option<Value>,
    new: Value,
    before: Value,
    s: Sizes,
) -> Result<Value, Fail> {
    let Some(mut past) = past else { return Ok(new) };
    let full: Shape = vec![s.batch, s.groups, s.columns, s.size].into();
    let room = s.columns - c.shape(past)[2];
    if room > 0 {
        let fill = c.splat(c.elem(past), &Shape::default(), 0.0)?;
        past = c.emit(Op::Pad { low: vec![0; 4], high: vec![0, 0, room, 0] }, &[past, fill])?;
    }
    if c.shape(past) != full {
        return Err(invalid(format!("a cache {}, not {full}", c.shape(past))));
    }
    let places: Shape = vec![s.batch, 1, s.columns, 1].into();
    let column = c.iota(c.elem(before), &places, 2)?;
    let first = c.broadcast_along(before, 0, &places)?;
    if s.rows == 1 {
        let here = c.compare(CompareOp::Eq, column, first)?;
        return c.select(here, new, past);
    }
    let row = c.binary(BinaryOp::Sub, column, first)?;
    let (zero, last) = (c.splat_like(row, 0.0)?, c.splat_like(row, (s.rows - 1) as f64)?);
    let (from, to) = (c.compare(CompareOp::Le, zero, row)?, c.compare(CompareOp::Le, row, last)?);
    let here = c.binary(BinaryOp::And, from, to)?;
    let inside = c.binary(BinaryOp::Min, row, last)?;
    let inside = c.binary(BinaryOp::Max, inside, zero)?;
    let inside = c.reshape(inside, vec![s.batch, s.columns])?;
    let rows = c.permute(new, vec![0, 2, 1, 3])?;
    let rows = c.emit(Op::Gather { axis: 1, batch: 1 }, &[rows, inside])?;
    let rows = c.permute(rows, vec![0, 2, 1, 3])?;
    c.select(here, rows, past)
}

/// Which keys the rows see, `[batch, 1, rows, columns]`.
fn visible(c: &mut Ctx<'_>, n: &Call<'_>, s: Sizes, before: Value) -> Result<Value, Fail> {
    let at = positions(c, s, before)?;
    let at = c.reshape(at, vec![s.batch, 1, s.rows, 1])?;
    let column = c.iota(c.elem(at), &vec![1, 1, 1, s.columns].into(), 3)?;
    let window = n.int("local_window_size", -1)?;
    if !n.flag("causal", true)? {
        if window > 0 {
            return Err(unsupported(format!("local_window_size is {window} where causal is 0")));
        }
        let last = n.input(5)?;
        let last = c.reshape(last, vec![s.batch, 1, 1, 1])?;
        let seen = c.compare(CompareOp::Le, column, last)?;
        return c.broadcast_to(seen, &vec![s.batch, 1, s.rows, s.columns].into());
    }
    let seen = c.compare(CompareOp::Le, column, at)?;
    match window {
        window if window > 0 => {
            let first = c.binary_splat(BinaryOp::Sub, at, window as f64)?;
            let near = c.compare(CompareOp::Lt, first, column)?;
            c.binary(BinaryOp::And, seen, near)
        }
        _ => Ok(seen),
    }
}

/// The values weighted by the softmax of the scores, `[batch, rows, heads * size]`, in f32.
fn weighted(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    s: Sizes,
    [q, k, v]: [Value; 3],
    before: Value,
) -> Result<Value, Fail> {
    let map = |text: &str| ContractMap::parse(text).ok_or_else(|| invalid("map"));
    let Sizes { batch, heads, groups, rows, size, columns } = s;
    let (q, k, v) = (widened(c, q)?, widened(c, k)?, widened(c, v)?);
    let q = c.reshape(q, vec![batch, groups, heads / groups, rows, size])?;
    let scores = c.contract(map("abgqd,abkd->abgqk")?, q, k)?;
    let full: Shape = vec![batch, heads, rows, columns].into();
    let mut scores = c.reshape(scores, full.clone())?;
    let scale = match n.float("scale", 0.0)? {
        0.0 => 1.0 / (size as f64).sqrt(),
        scale => scale,
    };
    scores = c.binary_splat(BinaryOp::Mul, scores, scale)?;
    let softcap = n.float("softcap", 0.0)?;
    if softcap > 0.0 {
        let scaled = c.binary_splat(BinaryOp::Div, scores, softcap)?;
        let bent = c.unary(UnaryOp::Tanh, scaled)?;
        scores = c.binary_splat(BinaryOp::Mul, bent, softcap)?;
    }
    if let Some(bias) = n.opt(10) {
        let mut bias = widened(c, bias)?;
        let (rank, given) = (c.rank(bias), c.shape(bias).last().copied().unwrap_or(1));
        if given > 1 && given < columns {
            let fill = c.splat(ScalarType::F32, &Shape::default(), 0.0)?;
            let mut high = vec![0; rank];
            high[rank - 1] = columns - given;
            bias = c.emit(Op::Pad { low: vec![0; rank], high }, &[bias, fill])?;
        }
        scores = c.binary(BinaryOp::Add, scores, bias)?;
    }
    let seen = visible(c, n, s, before)?;
    let low = c.splat(ScalarType::F32, &Shape::default(), f64::NEG_INFINITY)?;
    scores = c.select(seen, scores, low)?;
    if c.shape(scores) != full {
        return Err(invalid(format!("the attention bias does not broadcast to {full}")));
    }
    let weights = match sink(c, n, s)? {
        None => c.emit(Op::Softmax { axis: 3, log: false }, &[scores])?,
        Some(sink) => {
            let all = c.concat(&[scores, sink], 3)?;
            let weights = c.emit(Op::Softmax { axis: 3, log: false }, &[all])?;
            c.slice_axis(weights, 3, 0, columns)?
        }
    };
    let weights = c.reshape(weights, vec![batch, groups, heads / groups, rows, columns])?;
    let y = c.contract(map("abgqk,abkd->abgqd")?, weights, v)?;
    let y = c.reshape(y, vec![batch, heads, rows, size])?;
    let y = c.permute(y, vec![0, 2, 1, 3])?;
    c.reshape(y, vec![batch, rows, heads * size])
}

/// The score of a token that takes weight from all others and has no value, `[batch, heads, rows, 1]`.
fn sink(c: &mut Ctx<'_>, n: &Call<'_>, s: Sizes) -> Result<Option<Value>, Fail> {
    let full: Shape = vec![s.batch, s.heads, s.rows, 1].into();
    let smooth = n.int("smooth_softmax", 0)? > 0;
    if let Some(given) = n.opt(11) {
        let given = widened(c, given)?;
        let given = c.reshape(given, vec![s.heads])?;
        return c.broadcast_along(given, 1, &full).map(Some);
    }
    smooth.then(|| c.splat(ScalarType::F32, &full, 0.0)).transpose()
}
