//! `lacuna explain MODEL`: for each layer what was decided, by which rules, at what cost, and what the alternatives would have cost;
//! then the choices along the frontier of cycles and error.

mod layer;
mod points;
mod worst;

use std::path::Path;

use lacuna_optimize::{Precision, Report as Rewrites, RuleClass, RuleInfo, Site, Survey, rule_table};
use serde_json::{Value, json};

use super::{Context, Model, Settings, verify};
use crate::cli::{self, SortLayers};
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::pipeline::{self, Compiled};
use lacuna_driver::plot;
use lacuna_driver::report::Report;
use lacuna_driver::selection::{self, point_json};
use lacuna_driver::testset::TestSet;
use layer::View;

/// Runs the command on a model or a test folder.
///
/// # Errors
/// Those of compiling the model, of measuring it, and of writing the plot.
pub fn run(path: &Path, args: &cli::Explain, context: &Context) -> Result<Report, Failed> {
    let (settings, model) = opened(path, args, context)?;
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
    let named = points::pareto(survey, &choice, &name, &mut interpreter)?;
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
    let key = args.sort.unwrap_or_else(|| worst::default_key(&view));
    text += &worst::table(&view, key, args.top);
    // Every layer in order of execution, unless some or another order are asked for.
    let listed = if args.top.is_some() { key } else { args.sort.unwrap_or(SortLayers::Order) };
    let mut layers = Vec::new();
    for number in worst::order(&view, listed).into_iter().take(args.top.unwrap_or(usize::MAX)) {
        text += &view.text(number);
        layers.push(view.json(number));
    }
    text += &view.refined_text();
    text += "\nchoices by budget: of the frontier of modelled cycles and predicted error, and uniform precisions\n";
    text += &points::table(&named);
    text += "\nrewrites of the exact phase\n";
    text += &compiled.report.to_string();
    if !compiled.packing.rules.is_empty() {
        text += "\nconversions moved after selection\n";
        text += &compiled.packing.counts();
    }
    text += &changes(&[&compiled.report, &compiled.packing]);
    if let Some(path) = &args.svg {
        text += &draw(path, &format!("{} for {}", compiled.imported.name, settings.target.name), &named)?;
    }
    let json = json(&view, &settings, args, &named, layers, header.map(|h| h.1));
    Ok(Report { warnings, ..Report::new(text, json) })
}

/// The model, and the settings with what its data binds and measures.
fn opened(path: &Path, args: &cli::Explain, context: &Context) -> Result<(Settings, Model), Failed> {
    crate::commands::stateless(&args.options, "explain")?;
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
    Ok((settings, model))
}

/// Writes the plot, and says where.
fn draw(path: &Path, title: &str, named: &[points::Named]) -> Result<String, Failed> {
    let drawn = plot::svg(title, points::AXES, &points::marks(named))
        .map_err(|e| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display())))?;
    files::write(path, drawn.as_bytes())?;
    Ok(format!("plot: {}\n", path.display()))
}

/// The report for programs.
fn json(
    view: &View<'_>,
    settings: &Settings,
    args: &cli::Explain,
    named: &[points::Named],
    layers: Vec<Value>,
    selection: Option<Value>,
) -> Value {
    let compiled = view.compiled;
    json!({
        "ok": true,
        "target": settings.target.name,
        "precision": settings.precision.to_string(),
        "weights": selection::weights_json(&compiled.weights),
        "four_bit_weights": selection::four_bit_share(&compiled.weights),
        "selection": selection,
        "price": view.price,
        "layers": layers,
        "pareto": named.iter().map(|(name, _, point)| {
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
        "rules": rules_json(&[&compiled.report, &compiled.packing]),
        "saturated": compiled.report.limited.is_empty() && compiled.packing.limited.is_empty(),
        "proven": compiled.report.unproven.is_empty(),
        "rewrites": compiled
            .report
            .applied
            .iter()
            .chain(&compiled.packing.applied)
            .map(|a| view.rewrite_json(a))
            .collect::<Vec<Value>>(),
    })
}

/// How often each rule fired, and how often the result uses it.
fn rules_json(reports: &[&Rewrites]) -> Vec<Value> {
    let sum = |rule, get: fn(lacuna_optimize::RuleCount) -> usize| {
        reports.iter().map(|r| get(r.count(rule))).sum::<usize>()
    };
    let one = |rule: RuleInfo| {
        let (fired, used) = (sum(rule.name, |c| c.fired), sum(rule.name, |c| c.used));
        json!({
            "rule": rule.name,
            "class": rule.class.to_string(),
            "may_change": rule.may_change,
            "fired": fired,
            "used": used,
        })
    };
    rule_table().into_iter().map(one).collect()
}

/// What the rules that the result uses may change in its numbers; nothing where all of them keep the bits.
fn changes(reports: &[&Rewrites]) -> String {
    let used = |rule: &RuleInfo| reports.iter().any(|r| r.count(rule.name).used > 0);
    let rules: Vec<RuleInfo> =
        rule_table().into_iter().filter(|r| r.class != RuleClass::E0 && used(r)).collect();
    if rules.is_empty() {
        return "\nno rewrite changes a bit of what the model computes\n".to_owned();
    }
    let mut text = "\nwhat rewrites may change, on top of rounding to the chosen formats\n".to_owned();
    for class in RuleClass::ALL {
        let own: Vec<&RuleInfo> = rules.iter().filter(|r| r.class == class).collect();
        if let [first, ..] = own[..] {
            text += &format!("{}: {}\n", first.class, class.promise());
        }
        for rule in own {
            text += &format!("  {}: {}\n", rule.name, rule.may_change);
        }
    }
    text
}

/// The candidates that a fixed precision amounts to.
fn assigned(survey: &Survey, compiled: &Compiled, precision: Precision) -> Vec<usize> {
    let of = |(i, site): (usize, &Site)| {
        let formats = compiled.assignments.get(i).map(|a| a.formats);
        let at = site.candidates.iter().position(|c| Some(c.formats) == formats && !c.dense);
        at.unwrap_or(0)
    };
    let narrows = match precision {
        Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } => true,
        Precision::F32 | Precision::Auto => false,
    };
    survey.with_attention(survey.sites.iter().enumerate().map(of).collect(), narrows)
}
