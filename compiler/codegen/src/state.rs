//! Inputs and outputs that are one tensor, which stays in memory between runs.
//!
//! The tensor lies at the same place of HBM in every run. Where the last kernel that reads the old value ends before the first that
//! writes the new one begins, both have that place; else the new value is copied there at the end. Of a value that differs in one row only
//! that is written ([`crate::kernels::update`]).

use lacuna_isa::object::{Access, Kernel};

use crate::lower::{LaunchDraft, Lowering};
pub use crate::place::State;
use crate::place::{StorageId, StorageKind};
use crate::refusal::{Lowered, Refusal};

/// Where the state of one input and output lies, and how the new value gets there.
pub(crate) struct Kept {
    /// The old value.
    pub old: StorageId,
    /// The new value, where it has the same place.
    pub new: Option<StorageId>,
}

/// Settles how each state is kept, adding copies at the end where they are needed; says which.
///
/// # Errors
/// When a state has no kernel that copies it.
pub(crate) fn keep(lowering: &mut Lowering<'_>, states: &[State]) -> Lowered<(Vec<Kept>, Vec<String>)> {
    let mut copied = Vec::new();
    let mut all = Vec::new();
    for state in states {
        let of = |lowering: &Lowering<'_>, kind: StorageKind| {
            lowering.storages.iter().find(|(_, storage)| storage.kind == kind).map(|(id, _)| id)
        };
        let old = of(lowering, StorageKind::Input(state.input))
            .ok_or(Refusal::Contradiction("an input without a place".into()))?;
        if lowering.updated.contains(&state.output) {
            all.push(Kept { old, new: None });
            continue;
        }
        let new = of(lowering, StorageKind::Output(state.output))
            .ok_or(Refusal::Contradiction("an output without a place".into()))?;
        let last_read = lowering.launches.iter().rposition(|launch| reads(lowering, launch, old));
        let first_write = lowering.launches.iter().position(|launch| writes(lowering, launch, new));
        let in_place = match (last_read, first_write) {
            (Some(read), Some(write)) => read < write,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if !in_place {
            lowering.store_state(new, state.input)?;
            copied.push(state.name.clone());
        }
        all.push(Kept { old, new: in_place.then_some(new) });
    }
    Ok((all, copied))
}

fn uses(lowering: &Lowering<'_>, launch: &LaunchDraft, storage: StorageId, how: fn(Access) -> bool) -> bool {
    let kernel: Option<&Kernel> = lowering.kernels.get_index(launch.kernel);
    let tensors = kernel.into_iter().flat_map(|kernel| &kernel.tensors);
    launch.bases.iter().zip(tensors).any(|(&(other, _), tensor)| other == storage && how(tensor.access))
}

fn reads(lowering: &Lowering<'_>, launch: &LaunchDraft, storage: StorageId) -> bool {
    uses(lowering, launch, storage, |access| access != Access::Out)
}

fn writes(lowering: &Lowering<'_>, launch: &LaunchDraft, storage: StorageId) -> bool {
    uses(lowering, launch, storage, |access| access != Access::In)
}
