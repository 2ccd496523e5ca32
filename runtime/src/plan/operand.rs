//! The load check of one operand.

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Action, Operand, Use};
use lacuna_isa::object::{BufferKind, Kernel};
use lacuna_isa::view::Space;

use crate::illegal::Illegal;

/// Checks that an operand's buffer and local view exist and that its action fits its use.
pub(crate) fn check_operand(kernel: &Kernel, operand: &Operand, how: Use) -> Result<(), Illegal> {
    let buffer = kernel
        .buffers
        .get(usize::from(operand.buffer))
        .ok_or_else(|| Illegal::Missing(format!("there is no buffer {}", operand.buffer)))?;
    let view = kernel
        .views
        .get(usize::from(operand.view))
        .ok_or_else(|| Illegal::Missing(format!("there is no view {}", operand.view)))?;
    if view.space != Space::Local {
        return Err(Illegal::Operand(format!(
            "view {} is global, the operand on {} needs a local one",
            operand.view, buffer.name
        )));
    }
    if buffer.kind == BufferKind::Bank && (view.format != Format::F32 || view.pattern.is_some()) {
        return Err(Illegal::Operand(format!(
            "bank {} holds f32, view {} has {}",
            buffer.name, operand.view, view.format
        )));
    }
    let fits = match operand.action {
        Action::Read => how == Use::Source,
        Action::Pop => how == Use::Source && operand.delta == 0,
        Action::Push => matches!(how, Use::Dest | Use::Fresh) && operand.delta == 0,
        Action::Update => matches!(how, Use::Dest | Use::Change),
    };
    if !fits {
        let Operand { action, delta, .. } = operand;
        return Err(Illegal::Operand(format!(
            "action {action:?} with delta {delta} on buffer {} does not fit",
            buffer.name
        )));
    }
    Ok(())
}
