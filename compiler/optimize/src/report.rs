//! What the exact phase did.

use std::fmt;

use lacuna_ir::OriginId;

/// One application of a rule that the result uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Application {
    /// Name of the rule.
    pub rule: &'static str,
    /// What was replaced, with its type.
    pub before: String,
    /// What replaced it.
    pub after: String,
    /// ONNX nodes that the replaced terms came from.
    pub origins: Vec<OriginId>,
}

/// Counts of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleCount {
    /// Name of the rule.
    pub rule: &'static str,
    /// Applications that added something to the e-graph, for each of the equal places that are rewritten as one.
    pub fired: usize,
    /// Applications that the result uses.
    pub used: usize,
}

/// What the exact phase did to all functions of a module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Counts of the rules that fired, in the rules' order.
    pub rules: Vec<RuleCount>,
    /// Applications that the result uses, in the order in which they were made.
    pub applied: Vec<Application>,
    /// Terms in the e-graphs at the end.
    pub n_terms: usize,
    /// Classes in the e-graphs at the end.
    pub n_classes: usize,
    /// Rounds of rewriting.
    pub n_iterations: usize,
    /// Nodes before and after.
    pub n_nodes: (usize, usize),
    /// Modelled cost before and after.
    pub cost: (u64, u64),
    /// Names of functions whose e-graph reached a limit before it was saturated.
    pub limited: Vec<String>,
    /// Names of functions for which the choice of terms is not proven to be the best: large ones.
    pub unproven: Vec<String>,
}

impl Report {
    /// The counts of a rule: zero where it never fired.
    pub fn count(&self, rule: &'static str) -> RuleCount {
        self.rules.iter().find(|r| r.rule == rule).cloned().unwrap_or(RuleCount { rule, fired: 0, used: 0 })
    }

    /// Adds what was done to a part of a function, once for each occurrence of the part; `origins` maps where things
    /// come from.
    pub(crate) fn add(&mut self, part: &Report, origins: impl Fn(&[OriginId]) -> Vec<OriginId>) {
        for count in &part.rules {
            self.count_mut(count.rule).used += count.used;
        }
        self.applied
            .extend(part.applied.iter().map(|a| Application { origins: origins(&a.origins), ..a.clone() }));
        self.cost = (self.cost.0 + part.cost.0, self.cost.1 + part.cost.1);
    }

    /// Adds what rewriting a part took, which happens once.
    pub(crate) fn add_effort(&mut self, part: &Report) {
        self.n_terms += part.n_terms;
        self.n_classes += part.n_classes;
        self.n_iterations += part.n_iterations;
        for (all, own) in [(&mut self.limited, &part.limited), (&mut self.unproven, &part.unproven)] {
            all.extend(own.iter().cloned());
            all.dedup();
        }
    }

    /// A table of how often each rule fired, and how often the result uses it.
    pub fn counts(&self) -> String {
        let line = |rule: &str, fired: &str, used: &str| format!("{rule:<36}{fired:>8}{used:>8}\n");
        let rows = self.rules.iter().map(|r| line(r.rule, &r.fired.to_string(), &r.used.to_string()));
        let header = (!self.rules.is_empty()).then(|| line("rule", "fired", "used"));
        header.into_iter().chain(rows).collect()
    }

    /// The counts of a rule, to add to.
    pub(crate) fn count_mut(&mut self, rule: &'static str) -> &mut RuleCount {
        let at = self.rules.iter().position(|r| r.rule == rule).unwrap_or_else(|| {
            self.rules.push(RuleCount { rule, fired: 0, used: 0 });
            self.rules.len() - 1
        });
        &mut self.rules[at]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nodes      {} -> {}", self.n_nodes.0, self.n_nodes.1)?;
        writeln!(f, "cost       {} -> {}", self.cost.0, self.cost.1)?;
        writeln!(f, "e-graph    {} terms in {} classes", self.n_terms, self.n_classes)?;
        writeln!(f, "iterations {}", self.n_iterations)?;
        for name in &self.limited {
            writeln!(f, "limited    {name}")?;
        }
        for name in &self.unproven {
            writeln!(f, "unproven   {name}")?;
        }
        f.write_str(&self.counts())
    }
}
