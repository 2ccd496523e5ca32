//! Entries: what is resolved and checked of them when an object is loaded.

use lacuna_isa::inst::{Combine, InstKind};
use lacuna_isa::object::{Access, EntryPoint, MemSpace, Object, Transfer};

use crate::illegal::Illegal;
use crate::plan::is_compressed;
use crate::trap::LoadError;

/// Most ranks of an entry.
const MAX_RANKS: u16 = 4096;

/// An instruction of an entry stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryStep {
    /// A launch.
    Launch {
        /// Its number.
        number: usize,
        /// Whether its PEs go on from the one before.
        chained: bool,
    },
    /// What message engines do with a transfer.
    Message(InstKind, Transfer),
}

/// Checks an entry: its launches, ports and transfers stay within memory. Returns the stream without its `halt`.
pub(crate) fn plan_entry(object: &Object, entry: &EntryPoint) -> Result<Vec<EntryStep>, LoadError> {
    let fail = |reason: Illegal| LoadError::Entry { entry: entry.name.clone(), reason };
    if !(1..=MAX_RANKS).contains(&entry.ranks) {
        return Err(fail(Illegal::Limit(format!("{} ranks", entry.ranks))));
    }
    for port in entry.inputs.iter().chain(&entry.outputs) {
        let end = port.bytes().and_then(|bytes| port.address.offset.checked_add(bytes));
        if port.address.space == MemSpace::Weights
            || end.is_none_or(|end| end > size_of(object, port.address.space))
        {
            return Err(fail(Illegal::Limit(format!("port {} lies outside memory", port.name))));
        }
    }
    for state in &object.states {
        let end = state.bytes().and_then(|bytes| state.address.offset.checked_add(bytes));
        if state.address.space != MemSpace::Hbm || end.is_none_or(|end| end > object.hbm_bytes) {
            return Err(fail(Illegal::Operand(format!("state {} does not lie in HBM", state.name))));
        }
        let (from, end) = (state.address.offset, end.unwrap_or(0));
        let shared =
            entry.inputs.iter().chain(&entry.outputs).find(|port| {
                port.address.offset < end && from < port.address.offset + port.bytes().unwrap_or(0)
            });
        if let Some(port) = shared {
            return Err(fail(Illegal::Operand(format!(
                "state {} shares bytes with port {}",
                state.name, port.name
            ))));
        }
    }
    for idx in 0..entry.launches.len() {
        check_launch(object, entry, idx).map_err(&fail)?;
    }
    let mut steps = Vec::new();
    for (pc, inst) in entry.code.iter().enumerate() {
        match inst.kind {
            InstKind::Launch { launch } | InstKind::Chain { launch }
                if usize::from(launch) < entry.launches.len() =>
            {
                let chained = matches!(inst.kind, InstKind::Chain { .. });
                if chained && !matches!(steps.last(), Some(EntryStep::Launch { .. })) {
                    return Err(fail(Illegal::Control(format!(
                        "instruction {pc}: `chain` behind no launch"
                    ))));
                }
                steps.push(EntryStep::Launch { number: usize::from(launch), chained });
            }
            InstKind::Allred { transfer }
            | InstKind::Allgath { transfer }
            | InstKind::Redscat { transfer }
            | InstKind::Alltoall { transfer }
            | InstKind::Send { transfer }
            | InstKind::Recv { transfer } => {
                let known = entry.transfers.get(usize::from(transfer));
                let known = known.ok_or_else(|| {
                    fail(Illegal::Missing(format!("instruction {pc}: no transfer {transfer}")))
                })?;
                check_transfer(object, entry, &inst.kind, known)
                    .map_err(|reason| fail(reason.at(format_args!("instruction {pc}"))))?;
                steps.push(EntryStep::Message(inst.kind, *known));
            }
            InstKind::Halt {} if pc + 1 == entry.code.len() => return Ok(steps),
            other => return Err(fail(Illegal::Control(format!("instruction {pc} is {other:?}")))),
        }
    }
    Err(fail(Illegal::Control("the stream does not end in halt".into())))
}

fn size_of(object: &Object, space: MemSpace) -> u64 {
    match space {
        MemSpace::Weights => object.weights.bytes().len() as u64,
        MemSpace::Hbm => object.hbm_bytes,
        MemSpace::Sram => object.sram_bytes,
    }
}

fn check_launch(object: &Object, entry: &EntryPoint, idx: usize) -> Result<(), Illegal> {
    let launch = &entry.launches[idx];
    let Some(kernel) = object.kernels.get(launch.kernel as usize) else {
        return Err(Illegal::Missing(format!(
            "launch {idx} names kernel {}, which does not exist",
            launch.kernel
        )));
    };
    if launch.bases.len() != kernel.tensors.len() {
        let (found, wanted) = (launch.bases.len(), kernel.tensors.len());
        return Err(Illegal::Missing(format!(
            "launch {idx} sets {found} of {wanted} base registers of {}",
            kernel.name
        )));
    }
    let in_range = |(value, param): (&i32, &lacuna_isa::object::Param)| (param.lo..=param.hi).contains(value);
    if launch.params.len() != kernel.params.len() || !launch.params.iter().zip(&kernel.params).all(in_range) {
        return Err(Illegal::Operand(format!(
            "launch {idx} gives {} {:?} as parameters",
            kernel.name, launch.params
        )));
    }
    for (number, (base, tensor)) in launch.bases.iter().zip(&kernel.tensors).enumerate() {
        let end = base.offset.checked_add(tensor.bytes);
        if end.is_none_or(|end| end > size_of(object, base.space)) {
            return Err(Illegal::Limit(format!(
                "launch {idx} of {}: {base:?} lies outside memory",
                kernel.name
            )));
        }
        if base.space != MemSpace::Weights && is_compressed(kernel, number) {
            return Err(Illegal::Operand(format!(
                "launch {idx} of {}: {base:?} is not constant",
                kernel.name
            )));
        }
        if base.space == MemSpace::Weights && tensor.access != Access::In {
            return Err(Illegal::Operand(format!("launch {idx} of {} writes weights", kernel.name)));
        }
    }
    Ok(())
}

fn check_transfer(
    object: &Object,
    entry: &EntryPoint,
    kind: &InstKind,
    transfer: &Transfer,
) -> Result<(), Illegal> {
    let Transfer { src, dst, elem, elements, combine, peer: _ } = *transfer;
    if elem.bits() < 8 {
        return Err(Illegal::Format(format!("{elem} is not of whole bytes")));
    }
    let combines = matches!(kind, InstKind::Allred { .. } | InstKind::Redscat { .. });
    if combines == (combine == Combine::Replace) {
        return Err(Illegal::Format(format!("`{}` combines by {combine:?}", kind.mnemonic())));
    }
    let Some((read, written)) = transfer.bytes(kind, entry.ranks) else {
        return Err(Illegal::Limit(format!("{elements} elements")));
    };
    for (at, bytes) in [(src, read), (dst, written)] {
        if at.offset.checked_add(bytes).is_none_or(|end| end > size_of(object, at.space)) {
            return Err(Illegal::Limit(format!("{at:?} lies outside memory")));
        }
    }
    if written > 0 && dst.space == MemSpace::Weights {
        return Err(Illegal::Operand("it writes weights".into()));
    }
    let in_place = matches!(kind, InstKind::Allred { .. }) && src == dst;
    let touch = src.space == dst.space && src.offset < dst.offset + written && dst.offset < src.offset + read;
    if touch && !in_place {
        return Err(Illegal::Operand("source and destination share bytes".into()));
    }
    Ok(())
}
