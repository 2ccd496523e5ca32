//! Structural validity of parameters: their ranges, the values of launches, and `ldp`.

use super::Faults;
use crate::format::{Format, ScalarType};
use crate::inst::{InstKind, Operand};
use crate::object::{Access, Kernel};
use crate::part::Item;
use crate::view::{MAX_PARAMS, Space, View};

/// Least and greatest `factor * value` of a parameter.
pub(super) fn reach(kernel: &Kernel, param: u8, factor: i32) -> (i128, i128) {
    let Some(param) = kernel.params.get(usize::from(param)) else { return (0, 0) };
    let ends = [param.lo, param.hi].map(|value| i128::from(value) * i128::from(factor));
    (ends[0].min(ends[1]), ends[0].max(ends[1]))
}

pub(super) fn validate_params(kernel: &Kernel, faults: &mut Faults) {
    faults.check(kernel.params.len() <= MAX_PARAMS, || format!("{} parameters", kernel.params.len()));
    for (i, param) in kernel.params.iter().enumerate() {
        faults.at(Item::Param, i);
        faults.check(param.lo <= param.hi, || {
            format!("parameter q{i} ranges from {} to {}", param.lo, param.hi)
        });
    }
    for (i, term) in kernel.trips.iter().enumerate().filter_map(|(i, trip)| Some((i, trip.param?))) {
        faults.at(Item::Trip, i);
        let known = usize::from(term.param) < kernel.params.len() && term.divisor > 0;
        faults.check(known, || format!("trip t{i} follows q{} / {}", term.param, term.divisor));
    }
    // Positions of the last load of each parameter, and the depth of loops.
    let mut depth = 0usize;
    let mut last = [None; MAX_PARAMS];
    for (pc, inst) in kernel.code.iter().enumerate() {
        match inst.kind {
            InstKind::Loop { .. } => depth += 1,
            InstKind::End {} => depth = depth.saturating_sub(1),
            InstKind::Ldp { param, .. } => {
                faults.at(Item::Inst, pc);
                faults.check(depth == 0, || format!("instruction {pc}: `ldp` in a loop"));
                last[usize::from(param) % MAX_PARAMS] = Some(pc);
            }
            _ => {}
        }
    }
    for (pc, inst) in kernel.code.iter().enumerate() {
        for param in used(kernel, &inst.kind) {
            let later = last.get(usize::from(param)).copied().flatten().filter(|&load| load >= pc);
            faults.at(Item::Inst, pc);
            faults.check(later.is_none(), || {
                format!("instruction {pc} depends on q{param}, which a later `ldp` sets")
            });
        }
    }
    faults.at_whole();
}

/// The parameters that an instruction depends on.
fn used(kernel: &Kernel, kind: &InstKind) -> Vec<u8> {
    let view = |number: u16| kernel.views.get(usize::from(number));
    let mut views: Vec<Option<&View>> = kind.operands().map(|field| view(field.operand.view)).collect();
    views.extend(kind.global().map(|field| view(field.view)));
    let mut params = Vec::new();
    match *kind {
        InstKind::Loop { trip, .. } => {
            params.extend(kernel.trips.get(usize::from(trip)).and_then(|t| t.param).map(|t| t.param));
        }
        InstKind::Run { program } => {
            if let Some(program) = kernel.programs.get(usize::from(program)) {
                views.push(view(program.domain));
                views.extend(program.streams.iter().map(|s| {
                    let Operand { view: number, .. } = s.operand;
                    view(number)
                }));
            }
        }
        _ => {}
    }
    params.extend(views.into_iter().flatten().filter_map(|view| Some(view.shift?.param)));
    params
}

pub(super) fn validate_values(values: &[i32], kernel: &Kernel, faults: &mut Faults) {
    if values.len() != kernel.params.len() {
        faults.push(format!(
            "{} values for {} parameters of `{}`",
            values.len(),
            kernel.params.len(),
            kernel.name
        ));
    }
    for (i, (value, param)) in values.iter().zip(&kernel.params).enumerate() {
        faults.check((param.lo..=param.hi).contains(value), || {
            format!("parameter q{i} is {value}, not from {} to {}", param.lo, param.hi)
        });
    }
}

/// Why an `ldp` does not give every PE the same value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NotShared {
    #[error("no parameter q{0}")]
    NoParameter(u8),
    #[error("r{0} is not an `in` tensor")]
    Written(u8),
    #[error("{0} is not i32 or i64")]
    Format(Format),
    #[error("v{0} is not one element in one place")]
    Moving(u16),
}

/// Checks that `ldp` gives every PE the same value.
pub(super) fn validate_load(kernel: &Kernel, param: u8, src: u16) -> Result<(), NotShared> {
    if usize::from(param) >= kernel.params.len() {
        return Err(NotShared::NoParameter(param));
    }
    let Some(view) = kernel.views.get(usize::from(src)) else { return Ok(()) };
    if let Space::Global(register) = view.space
        && kernel.tensors.get(usize::from(register)).is_some_and(|t| t.access != Access::In)
    {
        return Err(NotShared::Written(register));
    }
    match view.format {
        Format::Scalar(ScalarType::I32 | ScalarType::I64) => {}
        Format::Scalar(_) | Format::Grouped(_) => return Err(NotShared::Format(view.format)),
    }
    let moves = view.levels.iter().chain(&view.coords).any(Option::is_some) || view.shift.is_some();
    let inside = view.dims.iter().all(|d| d.size == 1 && d.origin >= 0 && d.origin.unsigned_abs() < d.bound);
    if moves || !inside || view.pattern.is_some() {
        return Err(NotShared::Moving(src));
    }
    Ok(())
}
