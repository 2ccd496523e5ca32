//! The independent checker of instruction streams: proves that an object never traps, or says where it might.
//!
//! It shares nothing with the interpreter, and of code generation it knows only the object. [`Object::validate`] comes
//! first; on a valid object the streams are walked as the machine would run them:
//!
//! 1. `forms`: each instruction and SE program has a meaning; loop bodies balance.
//! 2. `buffers`: occupancy of the circular buffers and what their slots hold, along the walk of one PE for each set of
//!    trip counts; slot accesses are proven for whole boxes, and position by position where clipping is needed.
//! 3. `access`: the bytes of the tensors that each PE touches, box by box; stores mark bytes, so disjointness is exact.
//!    What compressed tensors hold is examined where `ldx` reads it, record by record (`records`).
//! 4. `order`: where PEs meet, that all members of a group come there, and what that puts in order.
//! 5. `entry`: the launches of an entry in order: address overlaps, bytes read before they are written, outputs complete.
//!
//! What depends on parameters of a launch is walked for every value in their ranges.
//!
//! The rules are the variants of [`Rule`]. A kernel is examined once, for the first launch that uses it; only rules about
//! addresses are examined for every launch. Work is linear in dynamic instructions and stored bytes.

mod access;
mod boxes;
mod buffers;
mod control;
mod entry;
mod epochs;
mod forms;
mod layout;
mod marks;
mod order;
mod ranges;
mod records;
mod rows;
mod slots;

use std::fmt;

use lacuna_isa::inst::Inst;
use lacuna_isa::object::{BufferKind, EntryPoint, Kernel, Object};
use lacuna_isa::part::{Item, Part};
use lacuna_isa::target::Target;

/// Most findings of one check.
const MAX_FINDINGS: usize = 100;

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $rule:ident = $name:literal),* $(,)?) => {
        /// What must hold.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Rule { $($(#[doc = $doc])* $rule,)* }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Rule] = &[$(Rule::$rule,)*];

            /// The name in text forms.
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name,)* }
            }

            /// The rule in one sentence.
            pub const fn doc(self) -> &'static str {
                match self { $(Rule::$rule => concat!($($doc),*),)* }
            }
        }
    };
}

rules! {
    /// Tables and streams are well formed: see `Object::validate`.
    Structure = "structure",
    /// Grids, buffers, banks, memories and N:M patterns are within what the target has.
    TargetLimits = "target-limits",
    /// Actions, formats, lanes and functions of an instruction have a meaning together.
    Form = "form",
    /// The buffer actions of a loop's body balance.
    LoopBalance = "loop-balance",
    /// The stream is short enough to be walked.
    Length = "length",
    /// An operand or `pop` finds a slot in its buffer.
    PopEmpty = "pop-empty",
    /// A push finds a free slot.
    PushFull = "push-full",
    /// A slot behind the head exists.
    BadDelta = "bad-delta",
    /// An instruction that writes a slot does not name it twice.
    SlotConflict = "slot-conflict",
    /// What is pushed fits a slot.
    SlotTooSmall = "slot-too-small",
    /// A slot is used in the format and group layout that it was written in.
    FormatMismatch = "format-mismatch",
    /// The boxes and summed dimensions of an instruction's operands agree.
    ShapeMismatch = "shape-mismatch",
    /// Boxes and clips consist of whole groups and pattern groups.
    PartialGroup = "partial-group",
    /// Records of compressed tensors are masks with the codes that they keep.
    BadRecord = "bad-record",
    /// An access stays within the elements of its slot.
    SlotBounds = "slot-bounds",
    /// Every buffer is empty at `halt`, and every message received.
    NotEmptyAtHalt = "not-empty-at-halt",
    /// An access stays within the bytes of its tensor's plane.
    TensorBounds = "tensor-bounds",
    /// No two PEs access the same byte of a written tensor with nothing to order them, and no byte of an `out` tensor is written twice.
    Race = "race",
    /// No `wait` holds forever, and no `recv` takes what was not sent.
    WouldBlock = "would-block",
    /// Every PE of a group executes its collectives, at the same counters of loops.
    NotUniform = "not-uniform",
    /// An instruction's engine has power.
    Gated = "gated",
    /// A tensor that a launch writes shares no byte with another tensor of the launch.
    Overlap = "overlap",
    /// What is read was written before, or is an input.
    ReadBeforeWrite = "read-before-write",
    /// Every byte of every output is written.
    OutputIncomplete = "output-incomplete",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A violation of a rule, and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The part of the object that breaks it.
    pub part: Part,
    /// Position in the entry stream of the first launch concerned.
    pub launch: Option<usize>,
    /// Name of the kernel; empty where none is concerned.
    pub kernel: String,
    /// Number of the instruction in the kernel's stream.
    pub pc: Option<usize>,
    /// The instruction's text; empty where none is concerned.
    pub instruction: String,
    /// Engine whose queue the instruction enters; empty where none is concerned.
    pub engine: &'static str,
    /// Logical coordinates of the first PE concerned.
    pub pe: Option<[u32; 4]>,
    /// Names of the ONNX nodes that the launch implements.
    pub nodes: Vec<String>,
    /// The reason, with numbers.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)?;
        if let Some(launch) = self.launch {
            write!(f, " in launch {launch} (kernel {})", self.kernel)?;
        }
        if let Some(pc) = self.pc {
            write!(f, ", instruction {pc} `{}` of {}", self.instruction, self.engine)?;
        }
        if let Some(pe) = self.pe {
            write!(f, " on PE {pe:?}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.nodes.is_empty() {
            write!(f, " [{}]", self.nodes.join(", "))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with `object` on `target`, at most 100 findings; empty when no run of it can trap.
///
/// A finding about a kernel names the first launch and the first PE concerned. When [`Object::validate`] or the limits of
/// the target already fail, nothing is walked.
pub fn check(object: &Object, target: &Target) -> Vec<Finding> {
    let mut findings: Vec<Finding> = object
        .flaws()
        .into_iter()
        .map(|flaw| Finding { part: flaw.part, message: flaw.text, ..blank(Rule::Structure) })
        .chain(limits(object, target))
        .collect();
    if findings.is_empty() {
        entry::check_entries(object, &mut findings);
    }
    findings.truncate(MAX_FINDINGS);
    findings
}

fn blank(rule: Rule) -> Finding {
    Finding {
        rule,
        part: Part::default(),
        launch: None,
        kernel: String::new(),
        pc: None,
        instruction: String::new(),
        engine: "",
        pe: None,
        nodes: Vec::new(),
        message: String::new(),
    }
}

/// A violation whose launch is not known yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    rule: Rule,
    pc: Option<usize>,
    pe: Option<[u32; 4]>,
    message: String,
}

/// A reason for a fault, found where neither instruction nor PE is known.
pub(crate) type Reason = (Rule, String);

impl Fault {
    fn at(pc: usize, pe: Option<[u32; 4]>, (rule, message): Reason) -> Fault {
        Fault { rule, pc: Some(pc), pe, message }
    }
}

/// Keeps the first fault of each rule at each instruction.
fn record(faults: &mut Vec<Fault>, fault: Fault) {
    if !faults.iter().any(|f| f.rule == fault.rule && f.pc == fault.pc) && faults.len() < MAX_FINDINGS {
        faults.push(fault);
    }
}

/// Gives a fault the place that a launch has.
fn place(object: &Object, entry: &EntryPoint, position: usize, number: usize, fault: Fault) -> Finding {
    let launch = &entry.launches[number];
    let kernel = &object.kernels[launch.kernel as usize];
    let inst = fault.pc.and_then(|pc| kernel.code.get(pc));
    let part = match fault.pc {
        Some(pc) => Part::default().within(Item::Kernel, launch.kernel as usize).within(Item::Inst, pc),
        None => entry_part(object, entry).within(Item::Launch, number),
    };
    Finding {
        rule: fault.rule,
        part,
        launch: Some(position),
        kernel: kernel.name.clone(),
        pc: fault.pc,
        instruction: inst.map_or(String::new(), text),
        engine: inst.map_or("", |i| i.kind.engine().name()),
        pe: fault.pe,
        nodes: launch
            .origins
            .iter()
            .filter_map(|&o| object.origins.get(o as usize))
            .map(|o| o.node.clone())
            .collect(),
        message: fault.message,
    }
}

/// The part that an entry of the object is.
fn entry_part(object: &Object, entry: &EntryPoint) -> Part {
    let number = object.entries.iter().position(|other| std::ptr::eq(other, entry));
    number.map_or(Part::default(), |number| Part::default().within(Item::Entry, number))
}

fn text(inst: &Inst) -> String {
    let mut out = String::new();
    inst.print(&mut out);
    out
}

fn limits(object: &Object, target: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_kernel = |number: usize| Part::default().within(Item::Kernel, number);
    let mut demand = |kernel: Option<(usize, &Kernel)>, what: &str, needed: u64, has: u64| {
        if needed > has {
            let whose = kernel.map_or("the object".to_owned(), |(_, k)| format!("kernel `{}`", k.name));
            let message = format!("{whose} needs {needed} {what}, {} has {has}", target.name);
            let part = kernel.map_or(Part::default(), |(number, _)| of_kernel(number));
            let kernel = kernel.map_or(String::new(), |(_, k)| k.name.clone());
            findings.push(Finding { part, kernel, message, ..blank(Rule::TargetLimits) });
        }
    };
    let weights = object.weights.bytes().len() as u64;
    demand(None, "bytes of HBM", object.hbm_bytes.saturating_add(weights), target.hbm_bytes);
    demand(None, "bytes of shared SRAM", object.sram_bytes, target.sram_bytes);
    for (number, kernel) in object.kernels.iter().enumerate() {
        let [r0, r1, c0, c1] = kernel.grid.map(u64::from);
        let total = |kind: BufferKind| -> u64 {
            let buffers = kernel.buffers.iter().filter(|b| b.kind == kind);
            buffers.map(|b| u64::from(b.slots) * u64::from(b.slot_bytes)).sum()
        };
        let (local, banks) = (total(BufferKind::Local), total(BufferKind::Bank));
        demand(Some((number, kernel)), "rows of PEs", r0 * r1, u64::from(target.rows));
        demand(Some((number, kernel)), "columns of PEs", c0 * c1, u64::from(target.cols));
        demand(Some((number, kernel)), "bytes of local memory", local, target.local_bytes);
        demand(Some((number, kernel)), "accumulator bytes", banks, target.bank_bytes);
    }
    for (number, kernel) in object.kernels.iter().enumerate() {
        let patterns = kernel.views.iter().enumerate().filter_map(|(i, v)| Some((i, v.pattern?)));
        for (view, pattern) in patterns {
            if !target.patterns.iter().any(|(p, _)| *p == pattern) {
                let message = format!("{} has no pattern {pattern}", target.name);
                let (part, kernel) = (of_kernel(number).within(Item::View, view), kernel.name.clone());
                findings.push(Finding { part, kernel, message, ..blank(Rule::TargetLimits) });
                break;
            }
        }
    }
    findings
}

/// Logical coordinates of every PE of a kernel's grid, the last one fastest.
fn pes(kernel: &Kernel) -> Vec<[u32; 4]> {
    let mut all = vec![[0; 4]];
    for (d, &n) in kernel.grid.iter().enumerate() {
        all = all
            .iter()
            .flat_map(|c| {
                (0..u32::from(n)).map(move |i| {
                    let mut c = *c;
                    c[d] = i;
                    c
                })
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_name_and_a_sentence() {
        for (i, rule) in Rule::ALL.iter().enumerate() {
            assert!(rule.doc().ends_with('.'), "{rule}: {}", rule.doc());
            assert!(Rule::ALL[..i].iter().all(|other| other.name() != rule.name()), "{rule}");
        }
    }
}
