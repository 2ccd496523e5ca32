//! Structural validity of what message engines move.

use super::Faults;
use crate::format::ScalarType;
use crate::inst::{Combine, Engine, InstKind};
use crate::object::{Address, EntryPoint, MemSpace, Object};
use crate::part::Item;

/// Most ranks of an entry.
const MAX_RANKS: u16 = 4096;

fn apart((a, n): (Address, u64), (b, m): (Address, u64)) -> bool {
    a.space != b.space || a.offset >= b.offset.saturating_add(m) || b.offset >= a.offset.saturating_add(n)
}

fn number(kind: &InstKind) -> Option<u16> {
    match *kind {
        InstKind::Allred { transfer }
        | InstKind::Allgath { transfer }
        | InstKind::Redscat { transfer }
        | InstKind::Alltoall { transfer }
        | InstKind::Send { transfer }
        | InstKind::Recv { transfer } => Some(transfer),
        _ => None,
    }
}

pub(super) fn validate_transfers(object: &Object, entry: &EntryPoint, faults: &mut Faults) {
    faults.check((1..=MAX_RANKS).contains(&entry.ranks), || format!("{} ranks", entry.ranks));
    for (pc, inst) in entry.code.iter().enumerate().filter(|(_, i)| i.kind.engine() == Engine::Me) {
        faults.at(Item::Inst, pc);
        let place = |message: String| format!("instruction {pc} (`{}`): {message}", inst.kind.mnemonic());
        let Some(transfer) = number(&inst.kind).and_then(|x| entry.transfers.get(usize::from(x))) else {
            faults.push(place("no such transfer".to_owned()));
            continue;
        };
        let ty = transfer.elem;
        faults.check(ty.bits() >= 8, || place(format!("{ty} is not of whole bytes")));
        let combines = matches!(inst.kind, InstKind::Allred { .. } | InstKind::Redscat { .. });
        let replaces = transfer.combine == Combine::Replace;
        faults.check(combines != replaces, || place(format!("it combines by {:?}", transfer.combine)));
        let numeric = !matches!(ty, ScalarType::Bool | ScalarType::E8M0);
        faults.check(!combines || numeric, || place(format!("{ty} does not combine")));
        let Some((read, written)) = transfer.bytes(&inst.kind, entry.ranks) else {
            faults.push(place(format!("{} elements", transfer.elements)));
            continue;
        };
        faults.check(object.holds(transfer.src, read), || place("the source leaves its memory".to_owned()));
        faults.check(object.holds(transfer.dst, written), || {
            place("the destination leaves its memory".to_owned())
        });
        faults.check(written == 0 || transfer.dst.space != MemSpace::Weights, || {
            place("it writes the weights".to_owned())
        });
        let in_place = matches!(inst.kind, InstKind::Allred { .. }) && transfer.src == transfer.dst;
        faults.check(in_place || apart((transfer.src, read), (transfer.dst, written)), || {
            place("source and destination share bytes".to_owned())
        });
    }
}
