//! The launches of an entry in order: addresses, and which bytes of the memories hold something.

use lacuna_isa::inst::InstKind;
use lacuna_isa::object::{Access, Address, EntryPoint, Kernel, MemSpace, Object, Port};

use super::access::{Summary, first_undefined, summarize};
use super::control::{Control, MAX_LENGTH};
use super::marks::Intervals;
use super::records::{self, Known};
use super::{Fault, Finding, MAX_FINDINGS, Rule, blank, buffers, forms, place};

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
    for port in &entry.inputs {
        if let Some(bytes) = defined.of(port.address.space) {
            bytes.add(port.address.offset, port.address.offset + port_bytes(port));
        }
    }
    let mut position = 0;
    for inst in &entry.code {
        let InstKind::Launch { launch: number } = inst.kind else { continue };
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
        position += 1;
    }
    if findings.is_empty() {
        for port in &entry.outputs {
            check_output(object, entry, port, &mut written, findings);
        }
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
    let launched = entry.code.iter().filter_map(|inst| {
        let InstKind::Launch { launch } = inst.kind else { return None };
        Some(usize::from(launch))
    });
    let writer = launched.enumerate().filter(|&(_, number)| {
        let launch = &entry.launches[number];
        let tensors = &object.kernels[launch.kernel as usize].tensors;
        let mut pairs = launch.bases.iter().zip(tensors);
        pairs.any(|(&base, t)| writes(t.access) && overlap((base, t.bytes), (at, bytes)))
    });
    let rule = Rule::OutputIncomplete;
    findings.push(match writer.last() {
        Some((position, number)) => {
            place(object, entry, position, number, Fault { rule, pc: None, pe: None, message })
        }
        None => Finding { message, ..blank(rule) },
    });
}
