//! `lacuna explain MODEL`: for each layer what was decided, by which rules, at what cost, and what the alternatives would have cost;
//! then the choices along the frontier of cycles and error.

use std::path::Path;

use lacuna_ir::OriginId;
use lacuna_isa::format::Format;
use lacuna_optimize::{Application, ParetoPoint, Precision, Site, Survey, WeightReport, sqnr_db};
use lacuna_runtime::profile::{LaunchProfile, Profile};
use serde_json::{Value, json};

use super::{Context, Model, Settings, verify};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::measure::Interpreter;
use lacuna_driver::pipeline::{self, Compiled};
use lacuna_driver::plot::{self, Kind, Mark};
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection::{self, decibels, drop_text, point_json};
use lacuna_driver::testset::TestSet;

/// Budgets along the frontier that the table shows.
const N_BUDGETS: usize = 7;
/// Rules that a layer's text names; the JSON names all.
const MAX_RULES: usize = 8;

/// Runs the command on a model or a test folder.
///
/// # Errors
/// Those of compiling the model, of measuring it, and of writing the plot.
pub fn run(path: &Path, args: &cli::Explain, context: &Context) -> Result<Report, Failed> {
    let mut settings = Settings::measuring(&args.options)?;
    let set = TestSet::find(path)?;
    let model = Model::read(&set.model)?;
    if let Some(svg) = &args.svg {
        files::keep_input(&set.model, svg)?;
    }
    if set.has_data() {
        let data = set.load()?;
        if let Some(first) = data.first() {
            settings = verify::bind(&model, &settings, first, context).0;
        }
        settings.calibrate_on(&data);
    }
    let compiled = settings.compile(&model, context, None)?;
    let request = settings.request(&model, context.threads);
    let mut interpreter = selection::interpreter(&compiled.optimized, &request, &context.progress)?;
    let mut warnings = compiled.warnings.clone();
    let mut own = None;
    let mut compiled = compiled;
    let chosen = compiled.selection.take();
    let price = chosen.as_ref().map(|c| c.verdict.price);
    let header = chosen.as_ref().map(|c| (selection::text(c), selection::json(c)));
    let (survey, choice) = match chosen {
        Some(chosen) => {
            let choice = chosen.verdict.point.choice.clone();
            (own.insert(chosen.survey), choice)
        }
        None => {
            // Alternatives are measured as plain rounding gives them, under the same scales.
            let mut options = pipeline::options(&settings.target, settings.precision);
            options.weights = settings.weights.plain();
            let survey = selection::survey(&compiled.optimized, &request, &options, &mut interpreter)?;
            warnings.extend(survey.warnings.iter().cloned());
            let choice = assigned(&survey, &compiled, settings.precision);
            (own.insert(survey), choice)
        }
    };
    if interpreter.is_random {
        let warning = "errors were measured on random inputs; --calibrate DIR measures them on real ones";
        warnings.extend((!warnings.iter().any(|w| w == warning)).then(|| warning.to_owned()));
    }
    let profile = lacuna_runtime::profile(&compiled.object, &settings.target, 0)
        .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
    let name = if price.is_some() { "chosen".to_owned() } else { settings.precision.to_string() };
    let points = pareto(survey, &choice, &name, &mut interpreter)?;
    let view = View { survey, choice: &choice, compiled: &compiled, profile: &profile, price };

    let mut text =
        format!("{} for {}, {}\n", compiled.imported.name, settings.target.name, settings.precision);
    text += &selection::weights_text(&compiled.weights);
    text += &header.as_ref().map_or_else(String::new, |h| h.0.clone());
    if let Some(price) = price.filter(|p| *p > 0.0) {
        text += &format!(
            "price: at the margin, noise of -20 dB more at the worst output would save {:.0} cycles; each layer has about the least \
             of cycles plus its noise at this price\n",
            price * 1e-2
        );
    } else if price.is_some() {
        text += "price: the budget does not bind; each layer has the fewest cycles\n";
    }
    let mut layers = Vec::new();
    for number in 0..survey.sites.len() {
        text += &view.layer_text(number);
        layers.push(view.layer_json(number));
    }
    text += &view.refined_text();
    text += "\nchoices by budget: of the frontier of modelled cycles and predicted error, and uniform precisions\n";
    text += &points_table(&points);
    text += "\nrewrites of the exact phase\n";
    text += &compiled.report.to_string();
    if let Some(path) = &args.svg {
        let title = format!("{} for {}", compiled.imported.name, settings.target.name);
        let drawn = plot::svg(&title, &marks(&points))
            .map_err(|e| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display())))?;
        files::write(path, drawn.as_bytes())?;
        text += &format!("plot: {}\n", path.display());
    }
    let json = json!({
        "ok": true,
        "target": settings.target.name,
        "precision": settings.precision.to_string(),
        "weights": selection::weights_json(&compiled.weights),
        "four_bit_weights": selection::four_bit_share(&compiled.weights),
        "selection": header.map(|h| h.1),
        "price": price,
        "layers": layers,
        "pareto": points.iter().map(|(name, _, point)| {
            let mut json = point_json(point);
            json["name"] = json!(name);
            json
        }).collect::<Vec<Value>>(),
        "svg": args.svg,
        "formats": view.formats_json(),
        "refined": view.refined_json(),
        "nodes_before": compiled.report.n_nodes.0,
        "nodes_after": compiled.report.n_nodes.1,
        "cost_before": compiled.report.cost.0,
        "cost_after": compiled.report.cost.1,
        "rewrites": compiled.report.applied.iter().map(|a| view.rewrite_json(a)).collect::<Vec<Value>>(),
    });
    Ok(Report { warnings, ..Report::new(text, json) })
}

/// The candidates that a fixed precision amounts to.
fn assigned(survey: &Survey, compiled: &Compiled, precision: Precision) -> Vec<usize> {
    let of = |(i, site): (usize, &Site)| {
        let formats = compiled.assignments.get(i).map(|a| a.formats);
        let at = site.candidates.iter().position(|c| Some(c.formats) == formats && !c.dense);
        at.unwrap_or(0)
    };
    let narrows = match precision {
        Precision::Bf16 | Precision::Mx { .. } => true,
        Precision::F32 | Precision::Auto => false,
    };
    survey.with_attention(survey.sites.iter().enumerate().map(of).collect(), narrows)
}

/// Named choices, all of them run: the one that is explained, the frontier, and the uniform ones.
fn pareto(
    survey: &mut Survey,
    choice: &[usize],
    name: &str,
    interpreter: &mut Interpreter<'_>,
) -> Result<Vec<(String, Kind, ParetoPoint)>, Failed> {
    let mut named = vec![(name.to_owned(), Kind::Chosen, choice.to_vec())];
    for (i, choice) in survey.frontier_choices(N_BUDGETS).into_iter().enumerate() {
        named.push((format!("budget {}", i + 1), Kind::Frontier, choice));
    }
    let uniform = survey.uniform_choices().into_iter();
    named.extend(uniform.map(|(name, choice)| (name, Kind::Uniform, choice)));
    let mut points: Vec<(String, Kind, ParetoPoint)> = Vec::new();
    for (name, kind, choice) in named {
        match points.iter_mut().find(|(.., known)| known.choice == choice) {
            Some((known, ..)) if kind == Kind::Uniform && *known != name => *known += &format!(" = {name}"),
            Some(_) => {}
            None => {
                let point = survey.point(&choice, interpreter).map_err(selection::failed)?;
                points.push((name, kind, point));
            }
        }
    }
    Ok(points)
}

fn points_table(points: &[(String, Kind, ParetoPoint)]) -> String {
    let rows = points.iter().map(|(name, _, p)| {
        [
            name.clone(),
            format!("{:.0}", p.cycles),
            p.machine.cycles.to_string(),
            report::bytes(p.machine.weight_bytes),
            decibels(sqnr_db(p.error)),
            decibels(p.sqnr_db),
            drop_text(p),
        ]
    });
    let header = ["choice", "modelled", "cycles", "weights", "predicted", "SQNR", "points lost"];
    report::table(header, rows, &[1, 2, 3, 4, 5, 6])
}

fn marks(points: &[(String, Kind, ParetoPoint)]) -> Vec<Mark> {
    let mark = |(name, kind, p): &(String, Kind, ParetoPoint)| Mark {
        name: name.clone(),
        cycles: p.machine.cycles as f64,
        sqnr_db: p.sqnr_db,
        weight_bytes: p.machine.weight_bytes,
        kind: *kind,
    };
    points.iter().map(mark).collect()
}

struct View<'a> {
    survey: &'a Survey,
    choice: &'a [usize],
    compiled: &'a Compiled,
    profile: &'a Profile,
    price: Option<f64>,
}

impl View<'_> {
    fn nodes(&self, origins: &[OriginId]) -> Vec<&str> {
        origins.iter().map(|&o| self.compiled.imported.origins[o].node.as_str()).collect()
    }

    /// What techniques did to weights.
    fn refined_text(&self) -> String {
        let refined = &self.compiled.refined;
        let mut text = if refined.is_empty() { String::new() } else { "\nweights by technique\n".to_owned() };
        for w in refined {
            let rotated = if w.rotated { ", rotated" } else { "" };
            let note = w.note.map_or_else(String::new, |note| format!(", {note}"));
            let (db, density, nodes) =
                (decibels(w.sqnr_db), w.density_percent, self.nodes(&w.origins).join(", "));
            text += &format!("  {db}, {density:.1}% non-zero{rotated}  [{nodes}]{note}\n");
        }
        text
    }

    fn refined_json(&self) -> Vec<Value> {
        let json = |w: &WeightReport| {
            json!({
                "nodes": self.nodes(&w.origins),
                "sqnr_db": w.sqnr_db,
                "density_percent": w.density_percent,
                "rotated": w.rotated,
                "note": w.note,
            })
        };
        self.compiled.refined.iter().map(json).collect()
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

    fn rules<'s>(&'s self, site: &'s Site) -> Vec<(&'static str, usize)> {
        let touches = |a: &&Application| a.origins.iter().any(|o| site.origins.contains(o));
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for a in self.compiled.report.applied.iter().filter(touches) {
            match counts.iter_mut().find(|(rule, _)| *rule == a.rule) {
                Some((_, n)) => *n += 1,
                None => counts.push((a.rule, 1)),
            }
        }
        counts
    }

    /// Why the layer got its candidate, in terms of the others.
    fn reason(&self, site: &Site, chosen: usize) -> String {
        let own = &site.candidates[chosen];
        if let Some(reason) = site.kept
            && site.candidates.len() == 1
        {
            return format!("no other candidate: {reason}");
        }
        let faster = site.candidates.iter().filter(|c| c.cycles < own.cycles - 0.5);
        let faster: Vec<f64> = faster.map(|c| c.error).collect();
        let closest = faster.iter().copied().fold(f64::INFINITY, f64::min);
        let better = site
            .candidates
            .iter()
            .filter(|c| c.error < own.error)
            .min_by(|a, b| a.cycles.total_cmp(&b.cycles));
        let mut reason = match (faster.len(), self.price) {
            (0, _) => "the fastest candidate".to_owned(),
            (n, Some(_)) => {
                format!(
                    "{n} faster, of which the best adds noise of {} instead of {}",
                    noise(closest),
                    noise(own.error)
                )
            }
            (n, None) => format!("as --precision says; {n} would be faster"),
        };
        if let Some(better) = better {
            let more = better.cycles - own.cycles;
            if more > 0.5 {
                let formats = selection::pair_text(better.formats, site.constant);
                reason += &format!(
                    "; less noise ({}) costs {more:.0} cycles more as {formats}",
                    noise(better.error)
                );
            } else {
                reason += &format!(
                    "; {} has less noise at no more cycles",
                    selection::pair_text(better.formats, site.constant)
                );
            }
        }
        reason
    }

    fn layer_text(&self, number: usize) -> String {
        let site = &self.survey.sites[number];
        let chosen = self.choice[number];
        let mut text = format!(
            "\nlayer {}  [{}]\n  {}, {} MACs, {} weights\n",
            number + 1,
            self.nodes(&site.origins).join(", "),
            site.text,
            site.macs,
            site.weight_elements
        );
        let kernels: Vec<String> =
            self.launches(site).map(|l| format!("{} {} cycles", l.kernel, l.end - l.start)).collect();
        text +=
            &format!("  kernels: {}\n", if kernels.is_empty() { "-".to_owned() } else { kernels.join(", ") });
        let rules = self.rules(site);
        let mut names: Vec<String> = rules
            .iter()
            .take(MAX_RULES)
            .map(|&(rule, n)| if n > 1 { format!("{rule} x{n}") } else { rule.to_owned() })
            .collect();
        if rules.len() > MAX_RULES {
            names.push(format!("{} more", rules.len() - MAX_RULES));
        }
        text += &format!("  rules: {}\n", if names.is_empty() { "-".to_owned() } else { names.join(", ") });
        text += &format!("  why: {}\n", self.reason(site, chosen));
        if let Some(kept) = site.kept.filter(|_| site.candidates.len() > 1) {
            text += &format!("  no groups: {kept}\n");
        }
        text += &format!("  gain {:.3}: the share of local noise that reaches the worst output\n", site.gain);
        let has_price = self.price.is_some_and(|p| p > 0.0);
        let rows = site.candidates.iter().enumerate().map(|(i, c)| {
            [
                if i == chosen { "  ->" } else { "" }.to_owned(),
                selection::pair_text(c.formats, site.constant),
                c.pattern.map_or_else(|| "dense".to_owned(), |p| p.to_string()),
                format!("{:.0}", c.cycles),
                report::bytes(c.bytes),
                noise(c.local_error),
                noise(c.error),
                self.price
                    .filter(|_| has_price)
                    .map_or_else(String::new, |p| format!("{:.0}", c.cycles + p * c.error)),
            ]
        });
        let last = if has_price { "cycles + noise at price" } else { "" };
        let header =
            ["    ", "weights x activations", "form", "cycles", "bytes", "local noise", "at output", last];
        let table = report::table(header, rows, &[3, 4, 5, 6, 7]);
        text + &table.lines().map(|line| format!("  {}\n", line.trim_end())).collect::<String>()
    }

    fn layer_json(&self, number: usize) -> Value {
        let site = &self.survey.sites[number];
        let chosen = self.choice[number];
        let candidates = site.candidates.iter().enumerate().map(|(i, c)| {
            json!({
                "formats": c.formats.map(|f| f.to_string()),
                "pattern": c.pattern.map(|p| p.to_string()),
                "modelled_cycles": c.cycles,
                "weight_bytes": c.bytes,
                "local_sqnr_db": sqnr_db(c.local_error),
                "output_sqnr_db": sqnr_db(c.error),
                "output_noise": c.error,
                "chosen": i == chosen,
            })
        });
        let kernels = self.launches(site).map(|l| {
            json!({ "name": l.kernel, "cycles": l.end - l.start, "hbm_bytes": l.hbm_bytes, "sram_bytes": l.sram_bytes })
        });
        let own = &site.candidates[chosen];
        json!({
            "nodes": self.nodes(&site.origins),
            "op": site.text,
            "macs": site.macs,
            "weights": site.weight_elements,
            "formats": own.formats.map(|f| f.to_string()),
            "pattern": own.pattern.map(|p| p.to_string()),
            "kept": site.kept,
            "gain": site.gain,
            "reason": self.reason(site, chosen),
            "rules": self.rules(site).into_iter().map(|(rule, n)| json!({ "rule": rule, "times": n })).collect::<Vec<_>>(),
            "kernels": kernels.collect::<Vec<_>>(),
            "candidates": candidates.collect::<Vec<_>>(),
        })
    }

    fn formats_json(&self) -> Vec<Value> {
        let one = |a: &lacuna_optimize::Assignment| {
            let formats = a.formats.map(|f: Format| f.to_string());
            json!({ "nodes": self.nodes(&a.origins), "formats": formats, "kept": a.kept })
        };
        self.compiled.assignments.iter().map(one).collect()
    }

    fn rewrite_json(&self, a: &Application) -> Value {
        json!({ "rule": a.rule, "before": a.before, "after": a.after, "nodes": self.nodes(&a.origins) })
    }
}

/// Noise in dB relative to the signal.
fn noise(ratio: f64) -> String {
    if ratio == 0.0 { "none".to_owned() } else { format!("{:.1} dB", 10.0 * ratio.log10()) }
}
