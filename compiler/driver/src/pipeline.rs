//! The passes, in order, from a model's bytes to an object.

use std::time::Instant;

use lacuna_ir::{Module, OriginId};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target::Target;
use lacuna_optimize::{Precision, Selected};

use crate::codes;
pub use crate::compiled::Compiled;
use crate::diagnostics::{Diagnostic, Failed};
use crate::expose::expose;
pub use crate::generation::{NotGenerated, contradiction, generate, options, unchecked};
use crate::generation::{generate_with, refused, unselected};
pub use crate::request::{Request, Stage, Watch};
use crate::selection::{self, Selection};
use crate::states;
use crate::warnings;

/// The module after each pass of the tensor IR.
pub struct Front {
    /// As imported.
    pub imported: Module,
    /// After exact rewriting.
    pub optimized: Module,
    /// After the choice of number formats: what code is generated for.
    pub selected: Selected,
    /// What the budget led to, with [`Precision::Auto`].
    pub selection: Option<Selection>,
    /// What the exact phase did.
    pub report: lacuna_optimize::Report,
    /// What deserves attention.
    pub warnings: Vec<String>,
    /// What the optimiser was told.
    pub options: lacuna_optimize::Options,
}

/// Compiles a model.
///
/// # Errors
/// Every finding of the pass that failed.
pub fn compile(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<Compiled, Failed> {
    let started = Instant::now();
    let mut front = front(request, watch)?;
    let states = states::resolve(request.states, &front.imported).map_err(|f| f.in_file(request.path))?;
    let generated = loop {
        match generate_with(&front.selected, request.target, &states, watch) {
            Ok(generated) => {
                front.warnings.extend(generated.copied.iter().map(|name| {
                    format!(
                        "state {name} is copied in each run: a kernel that reads it also makes its new value"
                    )
                }));
                break generated;
            }
            Err(NotGenerated::Contradiction(found)) => return Err(found.in_file(request.path)),
            Err(NotGenerated::Refused(failures)) => {
                if !widen(&mut front, request, &failures)? {
                    let failures = too_long(failures, &front.selected.module);
                    return Err(refused(failures).in_file(request.path));
                }
                watch.dump(Stage::Selected, || front.selected.module.to_string());
            }
        }
    };
    let stored = |constant| generated.constant_bytes[constant];
    Ok(Compiled {
        weights: lacuna_optimize::weight_shares(&front.selected.module, &stored),
        weight_bytes: lacuna_optimize::weight_bytes(&front.selected, &stored),
        object: generated.object,
        imported: front.imported,
        optimized: front.optimized,
        selection: front.selection,
        report: front.report,
        packing: front.selected.packing,
        assignments: front.selected.assignments,
        refined: front.selected.refined,
        warnings: front.warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Says of a node with a tensor of more elements than a view counts that this is why it has no kernel.
fn too_long(mut failures: Vec<lacuna_codegen::Failure>, module: &Module) -> Vec<lacuna_codegen::Failure> {
    for failure in &mut failures {
        let nodes = module.functions.values().flat_map(|f| f.nodes.values().map(move |node| (f, node)));
        let own = nodes.filter(|(_, node)| {
            node.origins.iter().any(|&o| failure.nodes.contains(&module.origins[o].node))
        });
        let values = own.flat_map(|(f, node)| node.args.iter().chain(&node.results).map(move |&v| f.ty(v)));
        let Some(longest) = values.max_by_key(|ty| ty.shape.elements()) else { continue };
        if longest.shape.elements() > u64::from(u32::MAX) {
            failure.reason = format!("{longest} has more elements than a view counts, 2^32");
            failure.hint = "choose smaller dimensions with --dim".to_owned();
        }
    }
    failures
}

/// Selects again where products that have no kernel in groups stay wider, and warns of each; `false` where that helps nobody.
///
/// # Errors
/// Every finding of the selection phase.
fn widen(
    front: &mut Front,
    request: &Request<'_>,
    failures: &[lacuna_codegen::Failure],
) -> Result<bool, Failed> {
    let named: Vec<&str> = failures.iter().flat_map(|f| f.nodes.iter().map(String::as_str)).collect();
    let is_grouped = |format: &Format| matches!(format, Format::Grouped(_) | Format::Scalar(ScalarType::I4));
    let grouped = front.selected.assignments.iter().filter(|a| a.formats.iter().any(is_grouped));
    let found: Vec<OriginId> = grouped
        .flat_map(|a| a.origins.iter().copied())
        .filter(|&o| named.contains(&front.optimized.origins[o].node.as_str()))
        .filter(|o| !front.options.ungrouped.contains(o))
        .collect();
    if found.is_empty() || request.precision == Precision::Auto {
        return Ok(false);
    }
    for &origin in &found {
        let node = &front.optimized.origins[origin].node;
        let reason = failures.iter().find(|f| f.nodes.contains(node)).map_or("", |f| f.reason.as_str());
        let precision = request.precision.without_groups();
        front.warnings.push(format!("{node} is computed in {precision}, with wider operands: {reason}"));
    }
    front.options.ungrouped.extend(found);
    front.selected = lacuna_optimize::select(front.optimized.clone(), &front.options).map_err(unselected)?;
    verify(&front.selected.module, "select")?;
    Ok(true)
}

/// The passes of the tensor IR.
///
/// # Errors
/// Every finding of the pass that failed.
pub fn front(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<Front, Failed> {
    let (mut imported, mut warnings) = import(request, watch)?;
    states::bound(request.states, &mut imported).map_err(|f| f.in_file(request.path))?;
    if request.exposes {
        expose(&mut imported);
    }
    let mut options = options(request.target, request.precision);
    options.weights = request.weights;
    options.relaxed = request.relaxed;
    options.extraction = request.extraction;
    if let Some(calibration) = request.calibration {
        options.calibration = calibration.batches(&imported)?;
    }
    verify(&imported, "import")?;
    fits(&imported, request.target).map_err(|f| f.in_file(request.path))?;
    watch.dump(Stage::Imported, || imported.to_string());

    watch.progress.step("optimizing");
    let lacuna_optimize::Optimized { module: optimized, report, .. } =
        lacuna_optimize::optimize(imported.clone(), &options).map_err(|e| contradiction("optimize", e))?;
    verify(&optimized, "optimize")?;
    watch.dump(Stage::Optimized, || optimized.to_string());

    watch.progress.step("selecting formats");
    let (selected, selection) = match request.precision {
        Precision::Auto => {
            let (selected, selection) = selection::choose(&optimized, request, &options, watch.progress)?;
            (selected, Some(selection))
        }
        Precision::F32 | Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } => {
            let selected = lacuna_optimize::select(optimized.clone(), &options).map_err(unselected)?;
            (selected, None)
        }
    };
    verify(&selected.module, "select")?;
    watch.dump(Stage::Selected, || selected.module.to_string());
    warnings.extend(warnings::foreign_pattern(&request.weights, request.target));
    warnings.extend(warnings::untouched(&optimized, &selected.module, &request.weights));
    warnings.extend(selected.warnings.iter().cloned());
    warnings.extend(selected.refined.iter().filter_map(|w| {
        let nodes: Vec<&str> = w.origins.iter().map(|&o| imported.origins[o].node.as_str()).collect();
        let notes = w.notes.join("; ");
        (!notes.is_empty()).then(|| format!("the weights of {} are {notes}", nodes.join(", ")))
    }));
    Ok(Front { imported, optimized, selected, selection, report, warnings, options })
}

/// The first pass alone: the module and its warnings.
///
/// # Errors
/// Every finding of the importer.
pub fn import(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<(Module, Vec<String>), Failed> {
    watch.progress.step("importing");
    let options = lacuna_onnx::Options { dims: request.dims.clone(), bindings: request.bindings.clone() };
    let imported = lacuna_onnx::import(request.model.clone(), request.external, &options)
        .map_err(|findings| Failed::from(findings).in_file(request.path))?;
    Ok((imported.module, imported.warnings))
}

fn verify(module: &Module, after: &str) -> Result<(), Failed> {
    lacuna_ir::verify::verify(module).map_err(|violations| {
        let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
        contradiction(after, all.join("\n"))
    })
}

/// Refuses a model whose inputs, outputs and weights alone exceed the target, before work is put into it.
fn fits(module: &Module, target: &Target) -> Result<(), Failed> {
    let ports = module.entries.iter().flat_map(|entry| {
        let func = &module.functions[entry.func];
        func.params.iter().chain(&func.results).map(|&v| func.ty(v).bytes())
    });
    let ports = ports.fold(0, u64::saturating_add);
    let weights = module.constants.values().map(|c| match c.data {
        lacuna_ir::ConstantData::Dense(_) => c.ty.bytes(),
        lacuna_ir::ConstantData::Splat(_) => 0,
    });
    let weights = weights.fold(0, u64::saturating_add);
    // Inputs and outputs keep their types. A narrower precision may shrink weights to a quarter of their f32 size and less, so only
    // what no choice of formats can make fit is refused here.
    if ports.saturating_add(weights / 8) <= target.hbm_bytes {
        return Ok(());
    }
    let reason = format!(
        "inputs and outputs take {}, weights {}, and {} has {} of HBM",
        crate::report::bytes(ports),
        crate::report::bytes(weights),
        target.name,
        crate::report::bytes(target.hbm_bytes)
    );
    Err(Diagnostic::new(codes::MEMORY, reason).hint("choose smaller dimensions with --dim").into())
}
