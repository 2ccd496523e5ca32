//! The launches of an entry in order: addresses, and which bytes of the memories hold something.

use std::collections::VecDeque;

use lacuna_isa::inst::{Engine, Inst, InstKind};
use lacuna_isa::object::{Access, Address, EntryPoint, Kernel, MemSpace, Object, Port};
use lacuna_isa::part::Item;

use super::access::{Summary, first_undefined, summarize};
use super::control::{Control, MAX_LENGTH};
use super::marks::Intervals;
use super::records::{self, Known};
use super::{Fault, Finding, MAX_FINDINGS, Reason, Rule, blank, buffers, entry_part, forms, place, text};

/// Checks the entries of a valid object within the limits of its target.
pub(super) fn check_entries(object: &Object, findings: &mut Vec<Finding>) {
    let mut examined: Vec<Option<Examined<'_>>> = object.kernels.iter().map(|_| None).collect();
    let mut known = Known::default();
    for entry in &object.entries {
        check_entry(object, entry, (&mut examined, &mut known), findings);
    }
}

struct Examined<'o> {
    kernel: &'o Kernel,
    control: Control<'o>,
    summary: Summary,
}

impl<'o> Examined<'o> {
    fn new(kernel: &'o Kernel, faults: &mut Vec<Fault>) -> Examined<'o> {
        let mut control = Control::new(kernel);
        forms::check(kernel, faults);
        let mut summary = Summary::default();
        if control.longest() > MAX_LENGTH {
            let message = format!("up to {} dynamic instructions on a PE", control.longest());
            faults.push(Fault { rule: Rule::Length, pc: None, pe: None, message });
        }
        if control.values().is_none() {
            let message = "too many combinations of values of parameters".to_owned();
            faults.push(Fault { rule: Rule::Length, pc: None, pe: None, message });
        }
        // Instructions without a meaning make all that follows meaningless.
        if faults.iter().all(|f| f.rule == Rule::LoopBalance) {
            buffers::check(kernel, &mut control, faults);
            summary = summarize(kernel, &mut control, faults);
        }
        summary.written.resize_with(kernel.tensors.len(), Vec::new);
        summary.needed.resize_with(kernel.tensors.len(), Vec::new);
        Examined { kernel, control, summary }
    }
}

/// The bytes of the memories that hold something.
#[derive(Default)]
struct Defined {
    hbm: Intervals,
    sram: Intervals,
}

impl Defined {
    /// The bytes of a memory; `None` for the weights, which are whole.
    fn of(&mut self, space: MemSpace) -> Option<&mut Intervals> {
        match space {
            MemSpace::Weights => None,
            MemSpace::Hbm => Some(&mut self.hbm),
            MemSpace::Sram => Some(&mut self.sram),
        }
    }
}

fn check_entry<'o>(
    object: &'o Object,
    entry: &EntryPoint,
    (examined, records_known): (&mut [Option<Examined<'o>>], &mut Known),
    findings: &mut Vec<Finding>,
) {
    let mut defined = Defined::default();
    let mut written = Defined::default();
    for port in entry.inputs.iter().chain(&object.states) {
        if let Some(bytes) = defined.of(port.address.space) {
            bytes.add(port.address.offset, port.address.offset + port_bytes(port));
        }
    }
    let mut mail = Mail::default();
    for (position, inst) in entry.code.iter().enumerate() {
        if inst.kind.engine() == Engine::Me {
            let reason = check_message(entry, &inst.kind, &mut mail, &mut defined, &mut written);
            let part = entry_part(object, entry).within(Item::Inst, position);
            let finding = |reason| Finding { part, ..message_finding(entry, position, inst, reason) };
            findings.extend(reason.err().map(finding));
            continue;
        }
        let Some(number) = inst.kind.started() else { continue };
        let number = usize::from(number);
        let launch = &entry.launches[number];
        let mut faults = Vec::new();
        let known = &mut examined[launch.kernel as usize];
        let known =
            known.get_or_insert_with(|| Examined::new(&object.kernels[launch.kernel as usize], &mut faults));
        check_overlaps(known.kernel, &launch.bases, &mut faults);
        records::check(object, known.kernel, launch, &known.summary.records, records_known, &mut faults);
        // After a fault, what is written is not known.
        if findings.is_empty() && faults.is_empty() {
            check_reads(known, &launch.bases, &mut defined, &mut faults);
        }
        for (base, runs) in launch.bases.iter().zip(&known.summary.written) {
            for memory in [&mut defined, &mut written] {
                if let Some(bytes) = memory.of(base.space) {
                    runs.iter().for_each(|&(from, to)| bytes.add(base.offset + from, base.offset + to));
                }
            }
        }
        findings.extend(faults.into_iter().map(|fault| place(object, entry, position, number, fault)));
        if findings.len() >= MAX_FINDINGS {
            return;
        }
    }
    if let Some(message) = mail.left(usize::from(entry.ranks)) {
        let part = entry_part(object, entry);
        findings.push(Finding { part, message, ..blank(Rule::NotEmptyAtHalt) });
    }
    if findings.is_empty() {
        for port in &entry.outputs {
            check_output(object, entry, port, &mut written, findings);
        }
    }
}

/// Sizes in bytes of the messages under way, oldest first, by the distance from sender to receiver: every rank sends and
/// receives alike.
#[derive(Default)]
struct Mail(Vec<(usize, VecDeque<u64>)>);

impl Mail {
    fn queue(&mut self, distance: usize) -> &mut VecDeque<u64> {
        let at = self.0.iter().position(|(d, _)| *d == distance).unwrap_or_else(|| {
            self.0.push((distance, VecDeque::new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    fn left(&self, ranks: usize) -> Option<String> {
        let (distance, queue) = self.0.iter().find(|(_, queue)| !queue.is_empty())?;
        Some(format!("{} messages from rank 0 to rank {} are never received", queue.len(), distance % ranks))
    }
}

/// Checks what the message engines read and receive, and notes what they write. Structure has been checked.
fn check_message(
    entry: &EntryPoint,
    kind: &InstKind,
    mail: &mut Mail,
    defined: &mut Defined,
    written: &mut Defined,
) -> Result<(), Reason> {
    let number = match *kind {
        InstKind::Allred { transfer }
        | InstKind::Allgath { transfer }
        | InstKind::Redscat { transfer }
        | InstKind::Alltoall { transfer }
        | InstKind::Send { transfer }
        | InstKind::Recv { transfer } => usize::from(transfer),
        _ => return Ok(()),
    };
    let transfer = &entry.transfers[number];
    let Some((read, made)) = transfer.bytes(kind, entry.ranks) else { return Ok(()) };
    let ranks = i64::from(entry.ranks);
    if let InstKind::Send { .. } = kind {
        let distance = i64::from(transfer.peer).rem_euclid(ranks) as usize;
        mail.queue(distance).push_back(read);
    }
    if let Some(bytes) = defined.of(transfer.src.space) {
        let from = transfer.src.offset;
        if let Some(byte) = bytes.first_missing(from, from + read) {
            let message = format!("byte {} of the source of x{number} was never written", byte - from);
            return Err((Rule::ReadBeforeWrite, message));
        }
    }
    if let InstKind::Recv { .. } = kind {
        // Rank r receives from r + peer, which sent over the distance -peer.
        let distance = (-i64::from(transfer.peer)).rem_euclid(ranks) as usize;
        match mail.queue(distance).pop_front() {
            None => {
                let message = format!("no message from {distance} ranks before was sent");
                return Err((Rule::WouldBlock, message));
            }
            Some(bytes) if bytes != made => {
                let message = format!("a message of {bytes} bytes is received as {made}");
                return Err((Rule::ShapeMismatch, message));
            }
            Some(_) => {}
        }
    }
    for memory in [defined, written] {
        if let Some(bytes) = memory.of(transfer.dst.space) {
            bytes.add(transfer.dst.offset, transfer.dst.offset + made);
        }
    }
    Ok(())
}

fn message_finding(entry: &EntryPoint, position: usize, inst: &Inst, (rule, message): Reason) -> Finding {
    Finding {
        launch: Some(position),
        kernel: entry.name.clone(),
        pc: Some(position),
        instruction: text(inst),
        engine: inst.kind.engine().name(),
        message,
        ..blank(rule)
    }
}

fn port_bytes(port: &Port) -> u64 {
    port.elem.bytes_for(port.shape.iter().product())
}

fn writes(access: Access) -> bool {
    match access {
        Access::In => false,
        Access::Out | Access::InOut => true,
    }
}

fn overlap(a: (Address, u64), b: (Address, u64)) -> bool {
    a.0.space == b.0.space && a.0.offset < b.0.offset + b.1 && b.0.offset < a.0.offset + a.1
}

fn check_overlaps(kernel: &Kernel, bases: &[Address], faults: &mut Vec<Fault>) {
    let extents: Vec<_> = bases.iter().zip(&kernel.tensors).map(|(&base, t)| (base, t.bytes)).collect();
    for j in 0..extents.len() {
        for i in 0..j {
            let (a, b) = (&kernel.tensors[i], &kernel.tensors[j]);
            if (writes(a.access) || writes(b.access)) && overlap(extents[i], extents[j]) {
                let message = format!(
                    "tensors r{i} (at {}) and r{j} (at {}) of {:?} share bytes, and one is written",
                    bases[i].offset, bases[j].offset, bases[i].space
                );
                faults.push(Fault { rule: Rule::Overlap, pc: None, pe: None, message });
            }
        }
    }
}

fn check_reads(known: &mut Examined<'_>, bases: &[Address], defined: &mut Defined, faults: &mut Vec<Fault>) {
    let Examined { kernel, control, summary } = known;
    let mut done: Option<usize> = None;
    for &(pc, register, (from, to)) in &summary.reads {
        let base = bases[register];
        let Some(bytes) = defined.of(base.space) else { continue };
        if done == Some(pc) || bytes.first_missing(base.offset + from, base.offset + to).is_none() {
            continue;
        }
        done = Some(pc);
        if let Some((pe, byte)) = first_undefined(kernel, control, pc, bytes, base.offset) {
            let message = format!("byte {byte} of tensor r{register} was never written");
            faults.push(Fault { rule: Rule::ReadBeforeWrite, pc: Some(pc), pe: Some(pe), message });
        }
    }
    for (register, runs) in summary.needed.iter().enumerate() {
        let base = bases[register];
        let Some(bytes) = defined.of(base.space) else { continue };
        let mut missing =
            runs.iter().filter_map(|&(from, to)| bytes.first_missing(base.offset + from, base.offset + to));
        if let Some(byte) = missing.next() {
            let message =
                format!("byte {} of `inout` tensor r{register} was never written", byte - base.offset);
            faults.push(Fault { rule: Rule::ReadBeforeWrite, pc: None, pe: None, message });
        }
    }
}

fn check_output(
    object: &Object,
    entry: &EntryPoint,
    port: &Port,
    written: &mut Defined,
    findings: &mut Vec<Finding>,
) {
    let bytes = port_bytes(port);
    // State that stays in place may be updated in part.
    let in_place = entry.inputs.iter().any(|i| i.address == port.address && port_bytes(i) == bytes);
    let at = port.address;
    let missing = written.of(at.space).and_then(|w| w.first_missing(at.offset, at.offset + bytes));
    let Some(byte) = missing.filter(|_| !in_place) else { return };
    let message = format!("byte {} of {bytes} of output `{}` is never written", byte - at.offset, port.name);
    // The last launch that writes into the output is the likeliest to have left it incomplete.
    let launched = entry.code.iter().enumerate();
    let launched =
        launched.filter_map(|(position, inst)| Some((position, usize::from(inst.kind.started()?))));
    let writer = launched.rev().find(|&(_, number)| {
        let launch = &entry.launches[number];
        let tensors = &object.kernels[launch.kernel as usize].tensors;
        let mut pairs = launch.bases.iter().zip(tensors);
        pairs.any(|(&base, t)| writes(t.access) && overlap((base, t.bytes), (at, bytes)))
    });
    let rule = Rule::OutputIncomplete;
    findings.push(match writer {
        Some((position, number)) => {
            place(object, entry, position, number, Fault { rule, pc: None, pe: None, message })
        }
        None => {
            let number = entry.outputs.iter().position(|other| std::ptr::eq(other, port)).unwrap_or(0);
            let part = entry_part(object, entry).within(Item::Output, number);
            Finding { part, message, ..blank(rule) }
        }
    });
}
