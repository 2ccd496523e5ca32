//! What deserves attention in a compiled model besides what its passes say: layers that keep their formats, precisions that do not
//! pay, options without effect.

use std::collections::HashMap;

use lacuna_ir::{Module, OriginId};
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_optimize::weights::{Prune, PruneBy};
use lacuna_optimize::{Precision, WeightOptions, WeightSparsity};
use lacuna_runtime::ProfileOptions;

use crate::compiled::Compiled;
use crate::generation::{options, unchecked};
use crate::progress::Progress;
use crate::request::Request;

/// A model whose constants are larger is not compiled once more for a comparison.
const MAX_COMPARED_BYTES: u64 = 1 << 30;

/// A model with a longer launch (instructions and loop rounds of all PEs) is not replayed for a comparison.
const MAX_COMPARED_STEPS: u64 = 1 << 21;

/// Everything that deserves attention.
pub fn of(compiled: &Compiled, request: &Request<'_>, progress: &Progress) -> Vec<String> {
    let mut all = compiled.warnings.clone();
    let kept = compiled.assignments.iter().filter_map(|a| Some((a, a.kept?)));
    all.extend(
        kept.map(|(a, reason)| {
            format!("{} keeps its formats: {reason}", nodes(&compiled.imported, &a.origins))
        }),
    );
    all.extend(slower(compiled, request, progress));
    counted(&all)
}

/// Each warning once, in the order of the first, with how often it comes: one node of ONNX may be many steps of the program.
fn counted(warnings: &[String]) -> Vec<String> {
    let mut counts: Vec<(&String, usize)> = Vec::new();
    let mut places: HashMap<&String, usize> = HashMap::new();
    for warning in warnings {
        let at = *places.entry(warning).or_insert(counts.len());
        match counts.get_mut(at) {
            Some((_, count)) => *count += 1,
            None => counts.push((warning, 1)),
        }
    }
    let text = |(warning, count): (&String, usize)| match count {
        1 => warning.clone(),
        count => format!("{warning} ({count} times)"),
    };
    counts.into_iter().map(text).collect()
}

/// Names of ONNX nodes.
fn nodes(module: &Module, origins: &[OriginId]) -> String {
    let names: Vec<&str> = origins.iter().map(|&o| module.origins[o].node.as_str()).collect();
    names.join(", ")
}

/// That a precision takes more cycles than f32 would, if so. Where f32 does not run on the target, nothing can be said.
fn slower(compiled: &Compiled, request: &Request<'_>, progress: &Progress) -> Option<String> {
    match request.precision {
        Precision::F32 | Precision::Auto => return None,
        Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } => {}
    }
    let dense = compiled.optimized.constants.values().filter_map(|c| match c.data {
        lacuna_ir::ConstantData::Dense(_) => Some(c.ty.bytes()),
        lacuna_ir::ConstantData::Splat(_) => None,
    });
    if dense.fold(0, u64::saturating_add) > MAX_COMPARED_BYTES {
        return None;
    }
    progress.step("comparing with f32");
    let own = cycles(&compiled.object, request.target)?;
    let mut options = options(request.target, Precision::F32);
    // The same zeros; which weights they replace changes no cycle.
    let prune = request.weights.prune.map(|p| Prune { by: PruneBy::Magnitude, ..p });
    options.weights = WeightOptions { prune, ..WeightOptions::default() };
    let selected = lacuna_optimize::select(compiled.optimized.clone(), &options).ok()?;
    let wide = cycles(&unchecked(&selected, request.target, &[]).ok()?.object, request.target)?;
    let precision = request.precision;
    (own > wide).then(|| {
        format!(
            "{precision} makes this model slower than f32 on {}: {own} modelled cycles against {wide}",
            request.target.name
        )
    })
}

/// The cycles of an object; `None` where a comparison is not worth the replay.
fn cycles(object: &Object, target: &Target) -> Option<u64> {
    let options = ProfileOptions { walk_limit: MAX_COMPARED_STEPS, ..ProfileOptions::default() };
    lacuna_runtime::profile_with(object, target, 0, &options).ok().map(|profile| profile.cycles)
}

/// That the target has no instruction for a pattern that weights are pruned to, if so.
pub fn foreign_pattern(weights: &WeightOptions, target: &Target) -> Option<String> {
    let pattern = weights.prune?.pattern;
    let native: Vec<WeightSparsity> =
        target.patterns.iter().map(|(p, _)| WeightSparsity { n: p.n, m: p.m }).collect();
    if native.iter().any(|&has| implies(pattern, has)) {
        return None;
    }
    let has = match &native[..] {
        [] => "no patterns".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    Some(format!(
        "{} has no {pattern} pattern (it has {has}): weights become zero, and are stored and multiplied as dense ones",
        target.name
    ))
}

/// Whether weights with one pattern also have another. Groups of both begin at multiples of their sizes, which are powers of two.
fn implies(pattern: WeightSparsity, other: WeightSparsity) -> bool {
    let ratio = other.m / pattern.m.max(1);
    let most = if ratio > 0 { pattern.n * ratio } else { pattern.n.min(other.m) };
    most <= other.n
}

/// The products whose weights no technique touches because they are codes: the model's own in `optimized`, or those of the precision in
/// `selected`.
pub fn untouched(optimized: &Module, selected: &Module, weights: &WeightOptions) -> Vec<String> {
    if weights.is_plain() {
        return Vec::new();
    }
    let given = blocked(optimized);
    let (own, made): (Vec<String>, Vec<String>) =
        blocked(selected).into_iter().partition(|name| given.contains(name));
    let said = |names: Vec<String>, why: &str| {
        (!names.is_empty()).then(|| format!("the weights of {} {why}", names.join("; ")))
    };
    let kept = "are neither pruned nor rounded: they are codes with scales per block, which keep their bits";
    let nearest =
        "are not pruned, and rounded to nearest: codes of four bits with scales per block admit no technique";
    [said(own, kept), said(made, nearest)].into_iter().flatten().collect()
}

/// The products whose weights are codes with scales per block.
fn blocked(module: &Module) -> Vec<String> {
    let stored = module.functions.values().flat_map(|func| {
        let products = func.nodes.values().filter(|node| node.op.is_product());
        products.filter(|node| node.args.iter().any(|&arg| func.blocked(arg).is_some()))
    });
    let mut named: Vec<String> = stored.map(|node| nodes(module, &node.origins)).collect();
    named.dedup();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_from_stricter_ones() {
        let check = |a: &str, b: &str, expect: bool| {
            assert_eq!(implies(a.parse().unwrap(), b.parse().unwrap()), expect, "{a} {b}");
        };
        check("2:4", "2:4", true);
        check("1:4", "2:4", true);
        check("1:2", "2:4", true);
        check("2:8", "2:4", true);
        check("3:8", "2:4", false);
        check("4:8", "2:4", false);
        check("3:4", "2:4", false);
    }
}
