//! Instructions at which PEs meet.

use lacuna_isa::inst::InstKind;

use crate::illegal::Illegal;

/// Whether an instruction orders accesses of different PEs.
pub(crate) fn orders(kind: &InstKind) -> bool {
    matches!(kind, InstKind::Post { .. } | InstKind::Wait { .. } | InstKind::Bar { .. })
}

/// Most PEs of a kernel with instructions that several PEs take part in.
const MAX_MEETING: usize = 1024;

/// Checks that a kernel's PEs are few enough to meet.
pub(crate) fn check_meeting(n_pes: usize, code: &[lacuna_isa::inst::Inst]) -> Result<(), Illegal> {
    let met = code.iter().any(|inst| meets(&inst.kind) || orders(&inst.kind));
    if met && n_pes > MAX_MEETING {
        return Err(Illegal::Limit(format!("{n_pes} PEs meet, at most {MAX_MEETING} can")));
    }
    Ok(())
}

/// Whether an instruction needs other PEs.
pub(crate) fn meets(kind: &InstKind) -> bool {
    matches!(
        kind,
        InstKind::Wait { .. } | InstKind::Bar { .. } | InstKind::Xchg { .. } | InstKind::Xred { .. }
    )
}
