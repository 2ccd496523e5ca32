//! The last passes: from a module with formats to an object whose streams are checked; and what is said when one fails.

use cranelift_entity::SecondaryMap;
use lacuna_codegen::{ProductZeros, State};
use lacuna_ir::Node;
use lacuna_isa::disasm::{Weights, print_object};
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::view::Pattern;
use lacuna_optimize::{Precision, Selected, TargetFeatures, WeightSparsity};

use crate::codes;
use crate::diagnostics::{Diagnostic, Exit, Failed};
use crate::request::{Stage, Watch};

/// Why there is no object.
#[derive(Debug)]
pub enum NotGenerated {
    /// Operators have no kernel, or the target's memory is too small.
    Refused(Vec<lacuna_codegen::Failure>),
    /// The streams are not legal.
    Contradiction(Failed),
}

impl From<NotGenerated> for Failed {
    fn from(error: NotGenerated) -> Failed {
        match error {
            NotGenerated::Refused(failures) => refused(failures),
            NotGenerated::Contradiction(found) => found,
        }
    }
}

/// The finding of a selection that failed: the user's, if it is about calibration data.
pub(crate) fn unselected(error: lacuna_optimize::Error) -> Failed {
    match error {
        lacuna_optimize::Error::Calibration { .. } => Diagnostic::new(codes::INPUT, error.to_string()).into(),
        other => contradiction("select", other),
    }
}

/// What the optimiser is told, but for techniques of weights.
pub fn options(target: &Target, precision: Precision) -> lacuna_optimize::Options {
    lacuna_optimize::Options { precision, features: features(target), ..lacuna_optimize::Options::default() }
}

/// The last passes: the object of a module with formats, and the independent check of its streams.
///
/// # Errors
/// Every operator without a kernel; L0090 with every finding when the streams are not legal.
pub fn generate(selected: &Selected, target: &Target, watch: &mut Watch<'_>) -> Result<Object, NotGenerated> {
    generate_with(selected, target, &[], watch).map(|generated| generated.object)
}

/// The same with states, and all that code generation says.
pub(crate) fn generate_with(
    selected: &Selected,
    target: &Target,
    states: &[State],
    watch: &mut Watch<'_>,
) -> Result<lacuna_codegen::Generated, NotGenerated> {
    watch.progress.step("generating code");
    let generated = unchecked(selected, target, states).map_err(NotGenerated::Refused)?;
    watch.progress.step("checking instruction streams");
    let findings = lacuna_codegen::check::check(&generated.object, target);
    if !findings.is_empty() {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        return Err(NotGenerated::Contradiction(contradiction("generate", all.join("\n"))));
    }
    watch.dump(Stage::Tiled, || generated.tiled.clone());
    watch.dump(Stage::Machine, || print_object(&generated.object, Weights::Elided));
    Ok(generated)
}

/// Code generation alone, without the check: for comparisons that nobody runs.
///
/// # Errors
/// Every operator without a kernel.
pub fn unchecked(
    selected: &Selected,
    target: &Target,
    states: &[State],
) -> Result<lacuna_codegen::Generated, Vec<lacuna_codegen::Failure>> {
    lacuna_codegen::generate_with(&selected.module, target, &zeros(selected, target), states)
}

/// The finding that a pass broke what it promises.
pub fn contradiction(pass: &str, what: impl std::fmt::Display) -> Failed {
    Diagnostic::new(codes::INTERNAL, format!("after `{pass}`: {what}")).into()
}

pub(crate) fn refused(failures: Vec<lacuna_codegen::Failure>) -> Failed {
    let title =
        |code: &str| lacuna_codegen::CODES.iter().find(|(c, ..)| *c == code).map_or("not supported", |c| c.1);
    let diagnostic = |f: lacuna_codegen::Failure| Diagnostic {
        file: None,
        code: f.code,
        title: title(f.code),
        node: (!f.nodes.is_empty()).then(|| f.nodes.join(", ")),
        op: (!f.op.is_empty()).then_some(f.op),
        reason: f.reason,
        hint: f.hint,
        inputs: Vec::new(),
        exit: Exit::Unsupported,
    };
    Failed(failures.into_iter().map(diagnostic).collect())
}

fn features(target: &Target) -> TargetFeatures {
    TargetFeatures {
        formats: target.macs_per_cycle.iter().map(|(format, _)| *format).collect(),
        sparse_2_4: target.patterns.iter().any(|(p, _)| *p == Pattern { n: 2, m: 4 }),
    }
}

/// What is known of the zeros of products: the best pattern of the target that a constant operand follows, and whether the
/// other one is probably zero in many places when the program runs.
pub(crate) fn zeros(selected: &Selected, target: &Target) -> SecondaryMap<Node, ProductZeros> {
    let mut zeros: SecondaryMap<Node, ProductZeros> = SecondaryMap::new();
    let module = &selected.module;
    let [entry] = &module.entries[..] else { return zeros };
    let func = &module.functions[entry.func];
    for (node, activity) in lacuna_optimize::activity_of(module, entry.func).iter() {
        zeros[node].active = activity.is_some();
    }
    let native: Vec<_> = target.patterns.iter().map(|(p, _)| WeightSparsity { n: p.n, m: p.m }).collect();
    for (node, sparse) in lacuna_optimize::compressed(selected, entry.func, &native).iter() {
        let followed: Vec<Pattern> = sparse.patterns.iter().map(|s| Pattern { n: s.n, m: s.m }).collect();
        if let [a, b] = func.nodes[node].args[..]
            && !followed.is_empty()
        {
            let formats = [a, b].map(|arg| func.ty(arg).elem.format());
            let (other, constant) = (formats[1 - sparse.operand.min(1)], formats[sparse.operand.min(1)]);
            zeros[node].pattern = target.best_pattern(other, constant, &followed);
        }
    }
    zeros
}
