//! One contraction: what it got, which rewrites shaped it, and why each alternative lost.

use std::collections::BTreeMap;

use lacuna_ir::OriginId;
use lacuna_isa::format::Format;
use lacuna_optimize::{Application, Candidate, Site, Survey, WeightReport, sqnr_db};
use lacuna_runtime::profile::{LaunchProfile, Profile};
use serde_json::{Value, json};

use lacuna_driver::pipeline::Compiled;
use lacuna_driver::report::{self, decibels};
use lacuna_driver::selection;

/// Rules that a layer's text names, and nodes that it names of each; the JSON names all.
const MAX_RULES: usize = 8;
const MAX_NODES: usize = 3;
/// Cycles that are no difference.
const SAME_CYCLES: f64 = 0.5;

/// The choice and what it was made from.
pub struct View<'a> {
    /// The candidates.
    pub survey: &'a Survey,
    /// The one of each contraction.
    pub choice: &'a [usize],
    /// What was compiled.
    pub compiled: &'a Compiled,
    /// What the machine model says of it.
    pub profile: &'a Profile,
    /// What noise is worth, if a budget was given: 0 where it does not bind.
    pub price: Option<f64>,
}

impl View<'_> {
    /// Names of ONNX nodes.
    pub fn nodes(&self, origins: &[OriginId]) -> Vec<&str> {
        origins.iter().map(|&o| self.compiled.imported.origins[o].node.as_str()).collect()
    }

    /// What techniques did to weights.
    pub fn refined_text(&self) -> String {
        let refined = &self.compiled.refined;
        let mut text = if refined.is_empty() { String::new() } else { "\nweights by technique\n".to_owned() };
        for w in refined {
            let rotated = if w.rotated { ", rotated" } else { "" };
            let note: String = w.notes.iter().map(|note| format!(", {note}")).collect();
            let (db, density, nodes) =
                (decibels(w.sqnr_db), w.density_percent, self.nodes(&w.origins).join(", "));
            text += &format!("  {db}, {density:.1}% non-zero{rotated}  [{nodes}]{note}\n");
        }
        text
    }

    /// The same for programs.
    pub fn refined_json(&self) -> Vec<Value> {
        let json = |w: &WeightReport| {
            json!({
                "nodes": self.nodes(&w.origins),
                "sqnr_db": w.sqnr_db,
                "density_percent": w.density_percent,
                "rotated": w.rotated,
                "note": (!w.notes.is_empty()).then(|| w.notes.join("; ")),
            })
        };
        self.compiled.refined.iter().map(json).collect()
    }

    /// Bytes of a layer's weights as a candidate stores them: of the chosen one those in the object, of others what the model of
    /// the machine expects.
    pub fn weight_bytes(&self, number: usize, candidate: usize) -> u64 {
        let stored = self.compiled.weight_bytes.get(number).filter(|_| candidate == self.choice[number]);
        stored.copied().unwrap_or(self.survey.sites[number].candidates[candidate].bytes)
    }

    /// Launches whose kernels compute a layer or convert its operands.
    fn launches<'s>(&'s self, site: &'s Site) -> impl Iterator<Item = &'s LaunchProfile> {
        let has = |launch: &LaunchProfile| {
            let origins = &launch.origins;
            !site.origins.is_empty()
                && site.origins.iter().all(|o| {
                    origins.contains(&cranelift_entity::EntityRef::index(*o).try_into().unwrap_or(u32::MAX))
                })
        };
        self.profile.launches.iter().filter(move |l| has(l))
    }

    /// The rules that rewrote something of a layer, of both phases: how often, and the ONNX nodes that they replaced.
    fn rules(&self, site: &Site) -> Vec<(&'static str, usize, Vec<&str>)> {
        let applied = self.compiled.report.applied.iter().chain(&self.compiled.packing.applied);
        let mut found: BTreeMap<&'static str, (usize, Vec<OriginId>)> = BTreeMap::new();
        for a in applied.filter(|a| a.origins.iter().any(|o| site.origins.contains(o))) {
            let (n, origins) = found.entry(a.rule).or_default();
            *n += 1;
            origins.extend(&a.origins);
            origins.sort_unstable();
            origins.dedup();
        }
        let named = found.into_iter().map(|(rule, (n, origins))| (rule, n, self.nodes(&origins)));
        let mut named: Vec<_> = named.collect();
        // What took part in fewer nodes says more of this layer.
        named.sort_by_key(|(_, _, nodes)| nodes.len());
        named
    }

    fn rules_text(&self, site: &Site) -> String {
        let rules = self.rules(site);
        if rules.is_empty() {
            return "  rules: -\n".to_owned();
        }
        let mut text = "  rules\n".to_owned();
        for (rule, n, nodes) in rules.iter().take(MAX_RULES) {
            let times = if *n > 1 { format!(" x{n}") } else { String::new() };
            let more = nodes.len().saturating_sub(MAX_NODES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = nodes[..nodes.len().min(MAX_NODES)].join(", ");
            text += &format!("    {rule}{times}  [{named}{more}]\n");
        }
        if rules.len() > MAX_RULES {
            text += &format!("    and {} more\n", rules.len() - MAX_RULES);
        }
        text
    }

    /// Why the layer got its candidate.
    fn reason(&self, site: &Site, chosen: usize) -> String {
        let own = &site.candidates[chosen];
        if let Some(reason) = site.kept
            && site.candidates.len() == 1
        {
            return format!("no other candidate: {reason}");
        }
        let n_faster = site.candidates.iter().filter(|c| c.cycles < own.cycles - SAME_CYCLES).count();
        match (n_faster, self.price) {
            (0, _) if site.candidates.iter().any(|c| c.error < own.error && same_cycles(c, own)) => {
                "no candidate is faster, and of the fastest it takes the fewest bytes".to_owned()
            }
            (0, Some(0.0)) => "the fastest candidate, and the budget asks for no less noise".to_owned(),
            (0, _) => "the fastest candidate".to_owned(),
            (n, Some(_)) => {
                format!("{n} would be faster, but their noise costs more elsewhere than they save")
            }
            (n, None) => format!("as --precision says; {n} would be faster"),
        }
    }

    /// Why a candidate lost against the chosen one.
    fn loss(&self, number: usize, candidate: usize) -> String {
        let (site, chosen) = (&self.survey.sites[number], self.choice[number]);
        let (c, own) = (&site.candidates[candidate], &site.candidates[chosen]);
        let (more, noisier) = (c.cycles - own.cycles, c.error > own.error);
        let shared = || match self.survey.n_sharing(number) {
            0 => String::new(),
            n => format!(", but {n} others read its operands and share conversions"),
        };
        if candidate == chosen {
            return "chosen".to_owned();
        }
        let Some(price) = self.price else { return "not what --precision says".to_owned() };
        match (same_cycles(c, own), more > 0.0, noisier) {
            (true, _, true) => "as fast, with more noise".to_owned(),
            (true, ..) if c.bytes > own.bytes => "as fast, in more bytes".to_owned(),
            (true, ..) => format!("as fast{}", shared()),
            (false, true, _) if c.error >= own.error => "slower, with no less noise".to_owned(),
            (false, true, _) if price == 0.0 => {
                format!("{more:.0} cycles more; the budget asks for no less noise")
            }
            (false, true, _) => {
                let worth = price * (own.error - c.error);
                if worth < more {
                    format!("{more:.0} cycles more for noise that is worth {worth:.0}")
                } else {
                    format!("{more:.0} cycles more, and the budget holds without{}", shared())
                }
            }
            (false, false, _) => {
                let worth = price * (c.error - own.error);
                if worth > -more {
                    format!("saves {:.0} cycles for noise that is worth {worth:.0}", -more)
                } else {
                    format!("saves {:.0} cycles, but the budget has no room for its noise{}", -more, shared())
                }
            }
        }
    }

    /// Candidates that no other one beats in cycles, bytes and noise at once, and the chosen one.
    fn contenders(site: &Site, chosen: usize) -> Vec<usize> {
        let beats = |a: &Candidate, b: &Candidate| {
            let no_worse = a.cycles <= b.cycles + SAME_CYCLES && a.bytes <= b.bytes && a.error <= b.error;
            no_worse && (a.cycles < b.cycles - SAME_CYCLES || a.bytes < b.bytes || a.error < b.error)
        };
        let all = site.candidates.iter().enumerate();
        let kept = all.filter(|(i, c)| *i == chosen || !site.candidates.iter().any(|a| beats(a, c)));
        kept.map(|(i, _)| i).collect()
    }

    /// What a layer got, and why.
    pub fn text(&self, number: usize) -> String {
        let site = &self.survey.sites[number];
        let chosen = self.choice[number];
        let own = &site.candidates[chosen];
        let [weights, activations] =
            selection::weights_first(own.formats, site.constant).map(|f| f.to_string());
        let mut text = format!(
            "\nlayer {}  [{}]\n  {}, {} MACs, {} weights\n",
            number + 1,
            self.nodes(&site.origins).join(", "),
            site.text,
            site.macs,
            site.weight_elements
        );
        text += &format!(
            "  got: {} {weights}, {}, {} {activations}; {:.0} modelled cycles, {} of weights; noise {} here, {} at the worst output\n",
            if site.weight_elements > 0 { "weights" } else { "first operand" },
            form(own),
            if site.weight_elements > 0 { "activations" } else { "second operand" },
            own.cycles,
            report::bytes(self.weight_bytes(number, chosen)),
            noise(own.local_error),
            noise(own.error),
        );
        text += &format!("  why: {}\n", self.reason(site, chosen));
        if let Some(kept) = site.kept.filter(|_| site.candidates.len() > 1) {
            text += &format!("  no groups: {kept}\n");
        }
        text += &format!("  gain {:.3}: the share of local noise that reaches the worst output\n", site.gain);
        let kernel = |l: &LaunchProfile| {
            let (hbm, sram) = (report::bytes(l.hbm_bytes), report::bytes(l.sram_bytes));
            let sparse = match &l.sparse[..] {
                [] => String::new(),
                some => format!(" with {}", some.join(" and ")),
            };
            format!("{}{sparse} {} cycles ({hbm} HBM, {sram} SRAM)", l.kernel, l.end - l.start)
        };
        let kernels: Vec<String> = self.launches(site).map(kernel).collect();
        text +=
            &format!("  kernels: {}\n", if kernels.is_empty() { "-".to_owned() } else { kernels.join(", ") });
        text += &self.rules_text(site);
        let contenders = View::contenders(site, chosen);
        let rows = contenders.iter().map(|&i| {
            let c = &site.candidates[i];
            let [weights, activations] = selection::weights_first(c.formats, site.constant);
            [
                if i == chosen { "  ->" } else { "" }.to_owned(),
                weights.to_string(),
                activations.to_string(),
                form(c),
                format!("{:.0}", c.cycles),
                report::bytes(self.weight_bytes(number, i)),
                noise(c.local_error),
                noise(c.error),
                self.loss(number, i),
            ]
        });
        let header = if site.weight_elements > 0 { ["weights", "activations"] } else { ["first", "second"] };
        let header =
            ["    ", header[0], header[1], "form", "cycles", "bytes", "local noise", "at output", "outcome"];
        let table = report::table(header, rows, &[4, 5, 6, 7]);
        text += &table.lines().map(|line| format!("  {}\n", line.trim_end())).collect::<String>();
        let beaten = site.candidates.len() - contenders.len();
        if beaten > 0 {
            text += &format!("    {beaten} more are no better than one of these in cycles, bytes or noise\n");
        }
        text
    }

    /// The same for programs.
    pub fn json(&self, number: usize) -> Value {
        let site = &self.survey.sites[number];
        let chosen = self.choice[number];
        let candidates = site.candidates.iter().enumerate().map(|(i, c)| {
            json!({
                "formats": c.formats.map(|f| f.to_string()),
                "pattern": c.pattern.map(|p| p.to_string()),
                "modelled_cycles": c.cycles,
                "weight_bytes": self.weight_bytes(number, i),
                "local_sqnr_db": sqnr_db(c.local_error),
                "output_sqnr_db": sqnr_db(c.error),
                "output_noise": c.error,
                "chosen": i == chosen,
                "outcome": self.loss(number, i),
            })
        });
        let kernels = self.launches(site).map(|l| {
            json!({ "name": l.kernel, "sparse": l.sparse, "cycles": l.end - l.start, "hbm_bytes": l.hbm_bytes, "sram_bytes": l.sram_bytes })
        });
        let own = &site.candidates[chosen];
        let [weights, activations] = selection::weights_first(own.formats, site.constant);
        json!({
            "number": number + 1,
            "nodes": self.nodes(&site.origins),
            "op": site.text,
            "weight_format": weights.to_string(),
            "activation_format": activations.to_string(),
            "modelled_cycles": own.cycles,
            "weight_bytes": self.weight_bytes(number, chosen),
            "output_sqnr_db": sqnr_db(own.error),
            "macs": site.macs,
            "weights": site.weight_elements,
            "formats": own.formats.map(|f| f.to_string()),
            "pattern": own.pattern.map(|p| p.to_string()),
            "kept": site.kept,
            "gain": site.gain,
            "reason": self.reason(site, chosen),
            "rules": self.rules(site).into_iter().map(|(rule, n, nodes)| json!({ "rule": rule, "times": n, "nodes": nodes })).collect::<Vec<_>>(),
            "kernels": kernels.collect::<Vec<_>>(),
            "candidates": candidates.collect::<Vec<_>>(),
        })
    }

    /// What every contraction of every function got.
    pub fn formats_json(&self) -> Vec<Value> {
        let one = |a: &lacuna_optimize::Assignment| {
            let formats = a.formats.map(|f: Format| f.to_string());
            json!({ "nodes": self.nodes(&a.origins), "formats": formats, "kept": a.kept })
        };
        self.compiled.assignments.iter().map(one).collect()
    }

    /// A rewrite with its ONNX nodes.
    pub fn rewrite_json(&self, a: &Application) -> Value {
        json!({ "rule": a.rule, "before": a.before, "after": a.after, "nodes": self.nodes(&a.origins) })
    }
}

/// Noise in dB relative to the signal.
pub fn noise(ratio: f64) -> String {
    if ratio == 0.0 { "none".to_owned() } else { format!("{:.1} dB", 10.0 * ratio.log10()) }
}

/// How a candidate stores its weights.
pub fn form(c: &Candidate) -> String {
    c.pattern.map_or_else(|| "dense".to_owned(), |p| p.to_string())
}

fn same_cycles(a: &Candidate, b: &Candidate) -> bool {
    (a.cycles - b.cycles).abs() <= SAME_CYCLES
}
