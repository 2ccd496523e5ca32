//! Rewriting until nothing new appears.
//!
//! The loop is ours and not egg's runner: it counts terms and rounds and never looks at a clock, checks the limit
//! after each application, and knows which terms a match consists of, so that provenance is recorded where a rule is
//! applied and not joined over a class.

use std::collections::HashSet;

use crate::graph::{Graph, Source};
use crate::pattern::Pattern;
use crate::report::Report;
use crate::rules::Rule;

/// Bounds of the rewriting, in counts only: results must not depend on the machine's speed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rounds.
    pub iterations: usize,
    /// Terms in the graph.
    pub terms: usize,
}

impl Limits {
    /// Limits for a function of `n` nodes: room for every node to be rewritten many times over.
    pub fn for_nodes(n: usize) -> Limits {
        Limits { iterations: 40, terms: 2_000 + 20 * n }
    }
}

/// An application made, used by the result or not.
#[derive(Clone, Debug)]
pub struct Made {
    /// Name of the rule.
    pub rule: &'static str,
    /// What was replaced.
    pub before: String,
    /// What replaced it.
    pub after: &'static str,
    /// Where the replaced terms came from; its applications built them.
    pub source: Source,
}

/// A rule with its pattern read.
pub struct Compiled {
    rule: Rule,
    pattern: Pattern,
}

/// Reads the patterns of rules.
///
/// # Errors
/// The name of a rule whose pattern is malformed.
pub fn compile(rules: &[Rule]) -> Result<Vec<Compiled>, &'static str> {
    rules
        .iter()
        .map(|&rule| Ok(Compiled { rule, pattern: Pattern::parse(rule.before).ok_or(rule.name)? }))
        .collect()
}

/// Applies rules until saturation or a limit; says whether it saturated. The graph is rebuilt.
pub fn saturate(
    g: &mut Graph,
    rules: &[Compiled],
    limits: Limits,
    made: &mut Vec<Made>,
    report: &mut Report,
) -> bool {
    g.rebuild();
    // What a rule was applied to. The same match can give more once other classes have grown, so nothing counts as
    // saturated before a round in which every match had its turn again.
    let mut done: HashSet<(usize, u64)> = HashSet::new();
    let mut thorough = false;
    for _ in 0..limits.iterations {
        report.n_iterations += 1;
        let size = (g.eg.total_size(), g.eg.number_of_classes());
        let matches: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut found = c.pattern.search(g);
                found.retain(|m| (thorough || !done.contains(&(i, m.key()))) && c.rule.holds(g, m));
                // More matches than terms are allowed would run into the limit anyway: memory stays bounded.
                found.truncate(limits.terms);
                found
            })
            .collect();
        for (i, (Compiled { rule, .. }, matches)) in rules.iter().zip(matches).enumerate() {
            for m in matches {
                let from = m.source(g);
                g.source = from.clone();
                g.source.applications.push(made.len() as u32);
                let terms = g.eg.total_size();
                let united = (rule.apply)(g, &m).map(|result| g.eg.union(m.root, result));
                if united.is_some() {
                    done.insert((i, m.key()));
                }
                // A rule that gave up may have made terms on the way: its number stays taken.
                if united == Some(true) || g.eg.total_size() > terms {
                    let before = format!("{} : {}", rule.before, g.ty(m.root));
                    made.push(Made { rule: rule.name, before, after: rule.after, source: from });
                    report.count_mut(rule.name).fired += usize::from(united.is_some());
                }
                if united == Some(true)
                    && g.eg.total_size() == terms
                    && let Some(term) = m.terms.first()
                {
                    // Nothing was built that could carry the origins: what was known before inherits them.
                    g.vanish(m.root, term.clone(), g.source.clone());
                }
                if g.eg.analysis.error.is_some() || g.eg.total_size() > limits.terms {
                    g.rebuild();
                    return false;
                }
            }
        }
        g.rebuild();
        let settled = size == (g.eg.total_size(), g.eg.number_of_classes());
        if settled && thorough {
            return true;
        }
        thorough = settled;
    }
    false
}
