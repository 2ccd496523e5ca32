//! Counting sequences of tokens.

use std::collections::HashSet;

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::movement::take;
use crate::call::Call;
use crate::codes;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Sequences of one length, with the column of the result that each counts in and its weight.
struct Grams {
    length: usize,
    tokens: Vec<i64>,
    columns: Vec<i64>,
    weights: Vec<f32>,
}

/// The sequences of the attribute `pool_int64s`, by length. Of equal sequences the last counts, as in a dictionary.
fn grams(n: &Call<'_>) -> Result<Vec<Grams>, Fail> {
    if n.has("pool_strings") {
        return Err(Fail::new(codes::ELEMENT_TYPE, "the sequences are of strings"));
    }
    let list = |name: &str| Ok::<_, Fail>(n.ints(name)?.unwrap_or_default());
    let (pool, starts, columns) = (list("pool_int64s")?, list("ngram_counts")?, list("ngram_indexes")?);
    let weights = n.floats("weights")?.unwrap_or_default();
    let bad = || invalid("pool_int64s, ngram_counts, ngram_indexes and weights do not fit each other");
    let mut found = Vec::new();
    let mut number = 0;
    for (i, &start) in starts.iter().enumerate() {
        let length = i + 1;
        let end = starts.get(i + 1).copied().unwrap_or(pool.len() as i64);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let tokens = range.and_then(|(start, end)| pool.get(start..end)).ok_or_else(bad)?;
        let count = tokens.len() / length;
        let own = columns.get(number..number + count).ok_or_else(bad)?;
        let weights = match weights {
            [] => vec![1.0; count],
            given => given.get(number..number + count).ok_or_else(bad)?.to_vec(),
        };
        number += count;
        let mut grams = Grams { length, tokens: Vec::new(), columns: Vec::new(), weights: Vec::new() };
        let mut seen = HashSet::new();
        for (j, sequence) in tokens.chunks_exact(length).enumerate().rev() {
            if seen.insert(sequence) {
                grams.tokens.extend(sequence);
                grams.columns.push(own[j]);
                grams.weights.push(weights[j]);
            }
        }
        found.push(grams);
    }
    Ok(found)
}

/// How often each sequence occurs in the rows of `x`, whose elements stand `distance` apart: `[rows, sequences]` in f32.
fn occurrences(c: &mut Ctx<'_>, x: Value, grams: &Grams, distance: u64) -> Result<Option<Value>, Fail> {
    let shape = c.shape(x);
    let (rows, extent, length) = (shape[0], shape[1], grams.length as u64);
    let Some(starts) = extent.checked_sub((length - 1).saturating_mul(distance)).filter(|&s| s > 0) else {
        return Ok(None);
    };
    let count = grams.columns.len() as u64;
    let all: Shape = vec![rows, count, starts].into();
    let mut hit = None;
    for k in 0..grams.length {
        let tokens: Vec<i64> = grams.tokens.iter().skip(k).step_by(grams.length).copied().collect();
        let tokens = c.ints(vec![count], &tokens)?;
        let tokens = c.broadcast_along(tokens, 1, &all)?;
        let part = c.slice_axis(x, 1, k as u64 * distance, starts)?;
        let part = c.emit(Op::Broadcast { dims: vec![0, 2], shape: all.clone() }, &[part])?;
        let same = c.compare(CompareOp::Eq, part, tokens)?;
        hit = Some(match hit {
            None => same,
            Some(hit) => c.binary(BinaryOp::And, hit, same)?,
        });
    }
    let Some(hit) = hit else { return Ok(None) };
    let hit = c.cast(hit, ScalarType::F32)?;
    Ok(Some(c.reduce(ReduceOp::Sum, hit, &[2], false)?))
}

/// Counts of known sequences in each row (TF), whether they occur at all times a weight (IDF), or counts times weights.
pub(super) fn tf_idf(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let rows = match shape[..] {
        [] | [_] => 1,
        [rows, _] => rows,
        _ => return Err(invalid(format!("TfIdfVectorizer of {}", c.b.ty(x)))),
    };
    let extent = shape.last().copied().unwrap_or(1);
    let x = c.cast(x, ScalarType::I64)?;
    let x = c.reshape(x, vec![rows, extent])?;
    let (min, max) = (n.int("min_gram_length", 1)?, n.int("max_gram_length", 1)?);
    let skips = u64::try_from(n.int("max_skip_count", 0)?).ok().filter(|&s| s < 1 << 16);
    let skips = skips.ok_or_else(|| invalid("max_skip_count is negative or too large"))?;
    let mode = n.string("mode", "TF")?;
    let columns = n.ints("ngram_indexes")?.unwrap_or_default();
    let width = columns.iter().max().map_or(0, |&m| m + 1);
    if columns.iter().any(|&i| !(0..1 << 24).contains(&i)) {
        return Err(invalid("an index of ngram_indexes is negative or too large"));
    }
    // Weighted counts of all sequences side by side; a last column of zeros stands for columns that no sequence has.
    let (mut parts, mut owners) = (Vec::new(), vec![Vec::new(); width as usize]);
    let mut number = 0;
    for grams in grams(n)?.iter().filter(|g| (min..=max).contains(&(g.length as i64))) {
        let count = grams.columns.len() as u64;
        if count == 0 {
            continue;
        }
        let mut total = c.splat(ScalarType::F32, &vec![rows, count].into(), 0.0)?;
        // Sequences of one token are the same at every distance.
        for distance in 1..=if grams.length == 1 { 1 } else { skips + 1 } {
            if let Some(found) = occurrences(c, x, grams, distance)? {
                total = c.binary(BinaryOp::Add, total, found)?;
            }
        }
        let weights = c.b.const_f32(vec![count], &grams.weights).map_err(|e| invalid(e.to_string()))?;
        total = match mode {
            "TF" => total,
            "IDF" => {
                let one = c.splat_like(total, 1.0)?;
                let once = c.binary(BinaryOp::Min, total, one)?;
                c.binary(BinaryOp::Mul, once, weights)?
            }
            "TFIDF" => c.binary(BinaryOp::Mul, total, weights)?,
            other => return Err(invalid(format!("mode is {other:?}"))),
        };
        for (i, &column) in grams.columns.iter().enumerate() {
            owners[column as usize].push(number + i as i64);
        }
        number += count as i64;
        parts.push(total);
    }
    parts.push(c.splat(ScalarType::F32, &vec![rows, 1].into(), 0.0)?);
    let all = c.concat(&parts, 1)?;
    // Sequences that share a column add up.
    let most = owners.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut y = None;
    for i in 0..most {
        let from: Vec<i64> = owners.iter().map(|o| o.get(i).copied().unwrap_or(number)).collect();
        let part = take(c, all, 1, &from)?;
        y = Some(match y {
            None => part,
            Some(y) => c.binary(BinaryOp::Add, y, part)?,
        });
    }
    let y = y.ok_or_else(|| invalid("ngram_indexes is empty"))?;
    let shape = if shape.rank() == 2 { vec![rows, width as u64] } else { vec![width as u64] };
    Ok(vec![c.reshape(y, shape)?])
}
