//! Einsum: sums of products of any number of operands, by labels of their dimensions.

use lacuna_ir::op::{ContractMap, ReduceOp};
use lacuna_ir::{Op, Value};

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// An operand with the label of each dimension: letters by their code, dimensions of an ellipsis from the last one down from
/// 250.
type Side = (Value, Vec<u8>);

/// Labels above this are dimensions of an ellipsis.
const ELLIPSIS: u8 = 200;

/// Labels of a term; those of an ellipsis fill up to `rank`, and there are none where that is not given.
fn labels(equation: &str, term: &str, rank: Option<usize>) -> Result<Vec<u8>, Fail> {
    let letters = term.replacen("...", "", 1);
    if !letters.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(invalid(format!("equation {equation:?} is malformed")));
    }
    let Some(at) = term.find("...") else { return Ok(letters.into_bytes()) };
    let n_dots = match rank {
        Some(rank) => rank.checked_sub(letters.len()),
        None => Some(0),
    };
    let n_dots = n_dots.ok_or_else(|| invalid(format!("equation {equation:?} has too many labels")))?;
    let dots = (0..n_dots).map(|i| 250 - (n_dots - i) as u8);
    Ok(letters.bytes().take(at).chain(dots).chain(letters.bytes().skip(at)).collect())
}

/// Labels of the result: as the equation says, or those of the ellipsis and every letter that occurs once.
fn result_labels(equation: &str, out: Option<&str>, sides: &[Side]) -> Result<Vec<u8>, Fail> {
    let all = || sides.iter().flat_map(|(_, l)| l.iter().copied());
    let mut dots: Vec<u8> = all().filter(|&l| l > ELLIPSIS).collect();
    dots.sort_unstable();
    dots.dedup();
    let labels = match out {
        Some(out) => {
            let mut found = labels(equation, out, None)?;
            if let Some(at) = out.find("...") {
                found.splice(at..at, dots);
            }
            found
        }
        None => {
            let mut once: Vec<u8> = all().filter(|&l| l <= ELLIPSIS).collect();
            once.sort_unstable();
            let each = once.clone();
            once.retain(|l| each.iter().filter(|m| *m == l).count() == 1);
            dots.into_iter().chain(once).collect()
        }
    };
    match (1..labels.len()).any(|i| labels[..i].contains(&labels[i])) {
        true => Err(invalid(format!("equation {equation:?} repeats a label of the result"))),
        false => Ok(labels),
    }
}

/// Any number of operands, multiplied from the first to the last; a label is summed over as soon as nothing behind needs it.
pub(super) fn einsum(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let equation: String = n.string("equation", "")?.chars().filter(|ch| !ch.is_whitespace()).collect();
    let operands = n.all()?;
    let (ins, out) = match equation.split_once("->") {
        Some((ins, out)) => (ins, Some(out)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = ins.split(',').collect();
    if terms.len() != operands.len() {
        return Err(invalid(format!("equation {equation:?} has {} terms", terms.len())));
    }
    let mut sides: Vec<Side> = Vec::new();
    for (&v, term) in operands.iter().zip(&terms) {
        let l = labels(&equation, term, Some(c.rank(v)))?;
        if l.len() != c.rank(v) {
            return Err(invalid(format!("equation {equation:?} does not fit {}", c.b.ty(v))));
        }
        sides.push((v, l));
    }
    let malformed = || invalid(format!("equation {equation:?} is malformed"));
    let out = result_labels(&equation, out, &sides)?;
    // A label that the equation gives to one operand twice stands for its diagonal.
    let mut rest =
        sides.into_iter().map(|side| diagonal(c, side)).collect::<Result<Vec<_>, Fail>>()?.into_iter();
    let mut left = rest.next().ok_or_else(malformed)?;
    while let Some(right) = rest.next() {
        let later: Vec<u8> = rest.as_slice().iter().flat_map(|(_, l)| l.iter().copied()).collect();
        left = multiply(c, left, right, |l| out.contains(&l) || later.contains(&l))?;
    }
    let (v, l) = sum_out(c, left.0, left.1, |l| out.contains(&l))?;
    let perm: Option<Vec<u8>> = out.iter().map(|o| l.iter().position(|m| m == o).map(|p| p as u8)).collect();
    Ok(vec![c.permute(v, perm.ok_or_else(malformed)?)?])
}

/// The operand with each label once: where a label repeats, the elements whose indices there are equal.
fn diagonal(c: &mut Ctx<'_>, (mut v, mut labels): Side) -> Result<Side, Fail> {
    while let Some(second) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
        let first = labels.iter().position(|&l| l == labels[second]).unwrap_or(0);
        let shape = c.shape(v);
        let size = shape[first];
        if shape[second] != size {
            return Err(invalid(format!("a label with the sizes {size} and {}", shape[second])));
        }
        let others: Vec<usize> = (0..labels.len()).filter(|&d| d != first && d != second).collect();
        let perm = others.iter().chain([&first, &second]).map(|&d| d as u8).collect();
        v = c.permute(v, perm)?;
        let mut flat: Vec<u64> = others.iter().map(|&d| shape[d]).collect();
        flat.push(size * size);
        v = c.reshape(v, flat.clone())?;
        // Every (size + 1)-th element of the two dimensions as one.
        let mut steps = vec![1; flat.len()];
        if let (Some(step), Some(last)) = (steps.last_mut(), flat.last_mut()) {
            (*step, *last) = (size as i64 + 1, size);
        }
        v = c.emit(Op::Slice { starts: vec![0; flat.len()], shape: flat.into(), steps }, &[v])?;
        let label = labels[first];
        labels = others.iter().map(|&d| labels[d]).chain([label]).collect();
    }
    Ok((v, labels))
}

/// The product of two operands, summed over the labels that `keep` rejects.
fn multiply(c: &mut Ctx<'_>, (a, la): Side, (b, lb): Side, keep: impl Fn(u8) -> bool) -> Result<Side, Fail> {
    let (a, la) = drop_units(c, a, la, b, &lb)?;
    let (b, lb) = drop_units(c, b, lb, a, &la)?;
    let (a, la) = sum_out(c, a, la, |l| keep(l) || lb.contains(&l))?;
    let (b, lb) = sum_out(c, b, lb, |l| keep(l) || la.contains(&l))?;
    // Labels of the IR are small numbers: those of the operands in order.
    let mut names = la.clone();
    names.extend(lb.iter().filter(|l| !la.contains(l)));
    let out: Vec<u8> = names.iter().copied().filter(|&l| keep(l)).collect();
    let small = |labels: &[u8]| -> Vec<u8> {
        labels.iter().filter_map(|l| names.iter().position(|m| m == l).map(|p| p as u8)).collect()
    };
    let map = ContractMap { a: small(&la), b: small(&lb), out: small(&out) };
    Ok((c.contract(map, a, b)?, out))
}

/// Sums over the labels that `keep` rejects.
fn sum_out(
    c: &mut Ctx<'_>,
    v: Value,
    labels: Vec<u8>,
    keep: impl Fn(u8) -> bool,
) -> Result<(Value, Vec<u8>), Fail> {
    let axes: Vec<u8> = (0..labels.len()).filter(|&d| !keep(labels[d])).map(|d| d as u8).collect();
    let v = c.reduce(ReduceOp::Sum, v, &axes, false)?;
    Ok((v, labels.into_iter().filter(|&l| keep(l)).collect()))
}

/// Removes dimensions of size 1 whose label has another size in the other operand: they broadcast.
fn drop_units(
    c: &mut Ctx<'_>,
    v: Value,
    labels: Vec<u8>,
    other: Value,
    other_labels: &[u8],
) -> Result<(Value, Vec<u8>), Fail> {
    let (own, opposite) = (c.shape(v), c.shape(other));
    let stays = |d: &usize| {
        let there = other_labels.iter().position(|&l| l == labels[*d]);
        !(own[*d] == 1 && there.is_some_and(|i| opposite[i] != 1))
    };
    let kept: Vec<usize> = (0..labels.len()).filter(stays).collect();
    let v = c.reshape(v, kept.iter().map(|&d| own[d]).collect::<Vec<u64>>())?;
    Ok((v, kept.into_iter().map(|d| labels[d]).collect()))
}
