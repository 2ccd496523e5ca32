//! Every rule fires on a micro-graph, builds what it says, and is sound on random shapes and inputs.

mod absorb;
mod algebra;
mod attention;
mod epilogue;
mod folding;
mod fusion;
mod layout;
mod packing;
mod refusals;
mod relaxed;
mod zeros;

use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Rule, RuleClass, all};
use crate::testing::{
    Lab, Numbers, assert_equally_finite, assert_sound, conv1d, module, module_of, saturated, show,
};

struct Case {
    rule: &'static str,
    /// Rules that must run first to make what the rule matches.
    with: &'static [&'static str],
    build: fn(&mut Lab) -> Value,
    /// Terms of the result's class that the rule adds, on fixed shapes.
    after: &'static str,
}

const fn case(rule: &'static str, build: fn(&mut Lab) -> Value, after: &'static str) -> Case {
    Case { rule, with: &[], build, after }
}

fn conv_parts(l: &mut Lab, groups: u64) -> (Value, Value, Op) {
    let (n, c, o, k) = (l.dim(), l.dim(), l.dim(), 1 + l.random(3));
    let length = k + l.random(4);
    let x = l.param(&[n, c * groups, length]);
    let w = l.konst(&[o * groups, c, k]);
    (x, w, conv1d(l.random(3) as i64, l.random(2) as i64, groups))
}

fn product(l: &mut Lab) -> (Value, Value, Vec<u64>) {
    let d = l.dims(3);
    (l.param(&[d[0], d[1]]), l.konst(&[d[1], d[2]]), d)
}

fn cases() -> Vec<Case> {
    let themes = [
        algebra::cases(),
        layout::cases(),
        absorb::cases(),
        folding::cases(),
        epilogue::cases(),
        fusion::cases(),
        attention::cases(),
        zeros::cases(),
        packing::cases(),
        relaxed::cases(),
    ];
    themes.into_iter().flatten().collect()
}

/// The rules of both phases.
fn everything() -> Vec<Rule> {
    [all(), super::packing::RULES.to_vec()].concat()
}

fn rules_of(names: &[&str]) -> Vec<Rule> {
    everything().into_iter().filter(|r| names.contains(&r.name)).collect()
}

/// Types in which rules that keep every bit are tested.
const TYPES: [ScalarType; 7] = [
    ScalarType::F32,
    ScalarType::F16,
    ScalarType::Bf16,
    ScalarType::F64,
    ScalarType::I32,
    ScalarType::I8,
    ScalarType::U8,
];

/// How many of them are of floats.
const FLOATS: usize = 4;

/// Seeds whose shapes let every rule fire are common; the first few suffice.
const SEEDS: u64 = 64;

#[test]
fn every_rule_has_a_case() {
    let cases = cases();
    let missing: Vec<_> =
        everything().into_iter().filter(|r| cases.iter().all(|c| c.rule != r.name)).map(|r| r.name).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn every_rule_builds_what_it_says() {
    let mut wrong = Vec::new();
    for case in cases() {
        let rules = rules_of(&[case.with, &[case.rule]].concat());
        let found: Vec<String> = (0..SEEDS)
            .flat_map(|seed| {
                let (module, _) = module(seed, false, |l| vec![(case.build)(l)]);
                let (g, roots, _, report) = saturated(module, &rules);
                let fired = report.count(case.rule).fired > 0;
                let terms = g.eg[roots[0]].nodes.clone();
                terms.into_iter().filter(move |_| fired).map(|t| show(&g, &t, 1)).collect::<Vec<_>>()
            })
            .collect();
        if !found.iter().any(|f| like(f, case.after)) {
            wrong.push(format!(
                "{}: no {} in {:?}",
                case.rule,
                case.after,
                found.iter().take(4).collect::<Vec<_>>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether text is as expected, where `[..]` stands for any list of numbers.
fn like(text: &str, expect: &str) -> bool {
    let mut rest = text;
    for (i, part) in expect.split("[..]").enumerate() {
        if i > 0 {
            let Some((_, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) else {
                return false;
            };
            rest = after;
        }
        let Some(after) = rest.strip_prefix(part) else { return false };
        rest = after;
    }
    rest.is_empty()
}

fn for_all(test: impl Fn(u64)) {
    let mut runner = TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            test(seed);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_rule_is_sound() {
    for case in cases() {
        let rules = rules_of(&[case.with, &[case.rule]].concat());
        let class = rules.iter().map(|r| r.class).max().unwrap();
        for_all(|seed| {
            let exact = class == RuleClass::E0;
            let elem = if exact { TYPES[(seed % TYPES.len() as u64) as usize] } else { ScalarType::F32 };
            let numbers = Numbers { elem, specials: exact, extremes: false };
            let (module, inputs) = module_of(seed, numbers, |l| vec![(case.build)(l)]);
            let (g, ..) = saturated(module, &rules);
            assert_sound(&g, &inputs, class);
        });
    }
}

/// Rules that move factors and biases between constants and sums leave those alone with which infinity or NaN would come or go.
#[test]
fn sums_stay_finite_where_they_are() {
    for case in cases() {
        let rules = rules_of(&[case.with, &[case.rule]].concat());
        if rules.iter().map(|r| r.class).max() != Some(RuleClass::E1) {
            continue;
        }
        for_all(|seed| {
            let numbers = Numbers { extremes: true, ..Numbers::PLAIN };
            let (module, inputs) = module_of(seed, numbers, |l| vec![(case.build)(l)]);
            let (g, ..) = saturated(module, &rules);
            assert_equally_finite(&g, &inputs);
        });
    }
}

#[test]
fn all_rules_together_are_sound() {
    let exact: Vec<Rule> = everything().into_iter().filter(|r| r.class == RuleClass::E0).collect();
    for case in cases() {
        for_all(|seed| {
            let build = |l: &mut Lab| vec![(case.build)(l)];
            let (m, inputs) = module(seed, false, build);
            let (g, _, _, report) = saturated(m, &all());
            assert!(report.rules.iter().all(|r| r.fired < 100), "{}: {report}", case.rule);
            assert_sound(&g, &inputs, RuleClass::Relaxed);
            let elem = TYPES[(seed % FLOATS as u64) as usize];
            let (m, inputs) = module_of(seed, Numbers { elem, specials: true, extremes: false }, build);
            let (g, ..) = saturated(m, &exact);
            assert_sound(&g, &inputs, RuleClass::E0);
        });
    }
}
