//! From a selected module to an object: kernels, tiles, PEs, buffers, streams.
//!
//! The input is a verified module whose formats and layouts are decided; see [`generate`]. The order of work, file by
//! file: [`legal`] takes composite operators apart that no kernel takes whole; [`fuse`] decides which nodes share a kernel,
//! [`sinks`] what of its result a kernel stores; [`lower`] walks the nodes and gives values places ([`place`]); [`kernels`]
//! emits one kernel per fusion group, cutting its space into tiles ([`nest`]) and its expression into SE operations ([`expr`], [`ints`]);
//! [`memory`] plans addresses; [`weights`] packs constants.

pub mod check;
pub mod code;
pub mod emit;
pub mod expr;
pub mod fuse;
pub mod grid;
pub mod ints;
pub mod kernels;
pub mod legal;
pub mod lower;
pub mod memory;
pub mod nest;
pub mod place;
mod positions;
pub mod refusal;
mod schedule;
pub mod sinks;
pub mod state;
pub mod tiled;
pub mod weights;
pub mod zeros;

use std::collections::BTreeSet;

use cranelift_entity::{EntityRef, SecondaryMap};
use lacuna_ir::{ConstId, Entry, Module, Node, Value};
use lacuna_isa::Blob;
use lacuna_isa::inst::{Inst, InstKind};
use lacuna_isa::object::{Address, EntryPoint, Launch, MemSpace, Object, ObjectOrigin, Port};
use lacuna_isa::target::Target;
use lacuna_isa::timing::{ALIGN, IN_FLIGHT};

pub use crate::check::check;
use crate::lower::Lowering;
use crate::memory::{Life, address, plan};
use crate::place::{StorageId, StorageKind};
use crate::schedule::{schedule, temporaries};
use crate::state::Kept;
pub use crate::state::State;
pub use crate::zeros::{Form, ProductZeros};

/// What code generation made.
pub struct Generated {
    /// The object.
    pub object: Object,
    /// The text of the tiled stage: each launch with its loops, tiles and buffers.
    pub tiled: String,
    /// Names of the states whose new value is copied, because its kernel cannot write it in place.
    pub copied: Vec<String>,
    /// The bytes that each constant of the given module takes in the object's weights, in all of its forms, padding and scales included.
    pub constant_bytes: SecondaryMap<ConstId, u64>,
}

/// Why a part of the model cannot become instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Diagnostic code.
    pub code: &'static str,
    /// The IR operator, or empty.
    pub op: String,
    /// Names of the ONNX nodes concerned.
    pub nodes: Vec<String>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

impl Failure {
    /// A failure of the whole model.
    fn of_model(code: &'static str, reason: String, hint: &str) -> Vec<Failure> {
        vec![Failure { code, op: String::new(), nodes: Vec::new(), reason, hint: hint.to_owned() }]
    }
}

/// The diagnostic codes of this crate: code, title, explanation.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "L0401",
        "an operator has no kernel",
        "The model was imported, but code generation has no kernel for one of its operators in this form: its type, its \
         rank or the layout of its operands. The message names the ONNX nodes and the reason. Nodes that fail are all \
         reported in one run.",
    ),
    (
        "L0402",
        "the generated code needs more memory than the target has",
        "Code was generated, and weights as it stores them, inputs, outputs and intermediate tensors together need more HBM than the \
         target has. A narrower precision (`--precision mxfp8`) or a smaller batch may help, or a target with more memory. L0011 is about \
         models of which this is known beforehand, whatever the code.",
    ),
    (
        "L0403",
        "the module has no single entry",
        "Code generation expects exactly one entry function without calls.",
    ),
    (
        "L0404",
        "the model needs more launches than an entry can hold",
        "An entry stream numbers its launches with 16 bits. A model that needs more has many small kernels, most often \
         because a region of more than five dimensions was split along one of them.",
    ),
];

/// Compiles the single entry of `module` for `target`.
///
/// `zeros` says what is known of the zeros of its products.
///
/// # Errors
/// One failure for every node that has no kernel, or when the model does not fit the target's memory.
pub fn generate(
    module: &Module,
    target: &Target,
    zeros: &SecondaryMap<Node, ProductZeros>,
) -> Result<Generated, Vec<Failure>> {
    generate_with(module, target, zeros, &[])
}

/// Compiles the single entry of `module` for `target`, with `states` that are neither ports nor zeroed between runs.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_with(
    module: &Module,
    target: &Target,
    zeros: &SecondaryMap<Node, ProductZeros>,
    states: &[State],
) -> Result<Generated, Vec<Failure>> {
    let [entry] = &module.entries[..] else {
        let reason = format!("the module has {} entries", module.entries.len());
        return Err(Failure::of_model("L0403", reason, "compile one entry at a time"));
    };
    let legalized = legal::legalize(module, entry.func, zeros, target)
        .map_err(|error| Failure::of_model("L0401", error.to_string(), ""))?;
    let cut_from = legalized.as_ref().map(|legal| legal.cut_from.clone()).unwrap_or_default();
    let (module, zeros) = legalized.as_ref().map_or((module, zeros), |legal| (&legal.module, &legal.zeros));
    let entry = &module.entries[0];
    let func = &module.functions[entry.func];
    let mut lowering = Lowering::new(module, func, target, zeros, states);
    lowering.run();
    if !lowering.unsupported.is_empty() {
        return Err(lowering.unsupported.iter().map(|u| unsupported(module, u)).collect());
    }
    let (kept, copied) = state::keep(&mut lowering, states).map_err(|reason| {
        vec![Failure {
            code: "L0401",
            op: "state".into(),
            nodes: Vec::new(),
            reason: reason.to_string(),
            hint: "pass it as an input and an output".into(),
        }]
    })?;

    if lowering.launches.len() > usize::from(u16::MAX) {
        let reason =
            format!("it needs {} launches, and an entry holds {}", lowering.launches.len(), u16::MAX);
        return Err(Failure::of_model("L0404", reason, "split the model, or reduce its batch"));
    }

    schedule(&mut lowering, &kept, target.sram_bytes);
    let mut addresses: SecondaryMap<StorageId, Option<Address>> = SecondaryMap::new();
    let fits = |total: u64| match total > target.hbm_bytes {
        true => {
            let reason =
                format!("it needs {total} bytes of HBM, and {} has {}", target.name, target.hbm_bytes);
            let hint = "choose a target with more memory, a lower precision or a smaller batch";
            Err(Failure::of_model("L0402", reason, hint))
        }
        false => Ok(()),
    };
    let Packed { weights, constant_bytes } =
        pack_weights(module, &lowering, &mut addresses, &fits)?.credited(&cut_from);
    let (hbm_bytes, sram_bytes) = plan_memory(&lowering, &kept, target, &mut addresses);
    fits(weights.len() as u64 + hbm_bytes)?;

    let tiled = tiled::print(&lowering, module);
    let object = Object {
        name: module.name.clone(),
        target: target.name.clone(),
        target_file: target.file.clone(),
        entries: vec![entry_point(&lowering, entry, &addresses)],
        states: states
            .iter()
            .map(|s| {
                let kind = StorageKind::Input(s.input);
                port(&lowering, &addresses, &s.name, func.params[s.input], kind)
            })
            .collect(),
        kernels: lowering.kernels.into_iter().collect(),
        origins: module
            .origins
            .values()
            .map(|o| ObjectOrigin { node: o.node.clone(), op: o.op.clone() })
            .collect(),
        hbm_bytes,
        sram_bytes,
        weights: Blob::new(weights),
    };
    Ok(Generated { object, tiled, copied, constant_bytes })
}

fn unsupported(module: &Module, node: &lower::Unsupported) -> Failure {
    Failure {
        code: "L0401",
        op: node.op.to_string(),
        nodes: node.origins.iter().map(|&o| module.origins[o].node.clone()).collect(),
        reason: node.reason.to_string(),
        hint: "rewrite the node in the model, or leave this part out of it".into(),
    }
}

/// Where storages lie.
type Addresses = SecondaryMap<StorageId, Option<Address>>;

/// The port of a value whose storage is of `kind`.
fn port(lowering: &Lowering, addresses: &Addresses, name: &str, value: Value, kind: StorageKind) -> Port {
    let storage = lowering.storages.iter().find(|(_, s)| s.kind == kind).map(|(id, _)| id);
    let ty = lowering.func.ty(value);
    Port {
        name: name.to_owned(),
        elem: ty.elem.format().element(),
        shape: ty.shape.0.clone(),
        address: storage.and_then(|s| addresses[s]).unwrap_or(address(MemSpace::Hbm, 0)),
    }
}

/// The entry: its ports but for states, its launches, and the stream that starts these in order.
fn entry_point(lowering: &Lowering, entry: &Entry, addresses: &Addresses) -> EntryPoint {
    let func = lowering.func;
    let inputs = entry.inputs.iter().zip(&func.params).enumerate();
    let inputs = inputs.filter(|(i, _)| !lowering.states.iter().any(|s| s.input == *i));
    let outputs = entry.outputs.iter().zip(&func.results).enumerate();
    let outputs = outputs.filter(|(i, _)| !lowering.states.iter().any(|s| s.output == *i));
    let launches: Vec<Launch> = lowering
        .launches
        .iter()
        .map(|draft| Launch {
            kernel: draft.kernel as u32,
            bases: draft
                .bases
                .iter()
                .map(|&(s, offset)| {
                    let at = addresses[s].unwrap_or(address(MemSpace::Hbm, 0));
                    Address { space: at.space, offset: at.offset + offset }
                })
                .collect(),
            params: vec![0; lowering.kernels.get_index(draft.kernel).map_or(0, |k| k.params.len())],
            macs: draft.macs,
            origins: draft.origins.iter().map(|o| o.index() as u32).collect(),
        })
        .collect();
    let start =
        |launch: u16| if launch == 0 { InstKind::Launch { launch } } else { InstKind::Chain { launch } };
    let mut code: Vec<Inst> = (0..launches.len()).map(|i| start(i as u16).into()).collect();
    code.push(InstKind::Halt {}.into());
    EntryPoint {
        name: entry.name.clone(),
        inputs: inputs
            .map(|(i, (name, &v))| port(lowering, addresses, name, v, StorageKind::Input(i)))
            .collect(),
        outputs: outputs
            .map(|(i, (name, &v))| port(lowering, addresses, name, v, StorageKind::Output(i)))
            .collect(),
        launches,
        code,
        ..EntryPoint::default()
    }
}

/// The bytes of all constants.
struct Packed {
    weights: Vec<u8>,
    /// How many of them are those of each.
    constant_bytes: SecondaryMap<ConstId, u64>,
}

impl Packed {
    /// Counts the bytes of constants that were cut from others as bytes of these.
    fn credited(mut self, cut_from: &SecondaryMap<ConstId, Option<ConstId>>) -> Packed {
        // What was cut last has the greatest number, so that cuts of cuts arrive at the first.
        let cuts: Vec<(ConstId, ConstId)> =
            cut_from.iter().filter_map(|(cut, &whole)| Some((cut, whole?))).collect();
        for (cut, whole) in cuts.into_iter().rev() {
            let bytes = std::mem::take(&mut self.constant_bytes[cut]);
            self.constant_bytes[whole] += bytes;
        }
        self
    }
}

/// The bytes of all constants, which `fits` accepts before they take memory.
fn pack_weights(
    module: &Module,
    lowering: &Lowering,
    addresses: &mut SecondaryMap<StorageId, Option<Address>>,
    fits: &dyn Fn(u64) -> Result<(), Vec<Failure>>,
) -> Result<Packed, Vec<Failure>> {
    let used: BTreeSet<StorageId> =
        lowering.launches.iter().flat_map(|l| l.bases.iter().map(|&(s, _)| s)).collect();
    let mut placed = Vec::new();
    let mut constant_bytes: SecondaryMap<ConstId, u64> = SecondaryMap::new();
    let mut end = 0usize;
    for (id, storage) in &lowering.storages {
        let StorageKind::Const(number, packing) = &storage.kind else { continue };
        // Forms that were weighed and not taken.
        if !used.contains(&id) {
            continue;
        }
        let constant = &module.constants[*number];
        let first = end.next_multiple_of(ALIGN as usize);
        end = first + weights::packed_bytes(constant, packing, storage);
        constant_bytes[*number] += (end - first) as u64;
        addresses[id] = Some(address(MemSpace::Weights, first as u64));
        placed.push((constant, packing, storage, first..end));
    }
    fits(end as u64)?;
    let mut weights = vec![0; end];
    for (constant, packing, storage, range) in placed {
        weights::pack_into(constant, packing, storage, &mut weights[range]).map_err(|reason| {
            vec![Failure {
                code: "L0401",
                op: "const".into(),
                nodes: vec![constant.name.clone()],
                reason: reason.to_string(),
                hint: String::new(),
            }]
        })?;
    }
    Ok(Packed { weights, constant_bytes })
}

/// Places inputs and outputs in HBM for the whole run, intermediates in shared SRAM where they fit, else in HBM.
fn plan_memory(
    lowering: &Lowering,
    kept: &[Kept],
    target: &Target,
    addresses: &mut SecondaryMap<StorageId, Option<Address>>,
) -> (u64, u64) {
    let last = lowering.launches.len();
    // States come first, so that entries of other models can agree on their places.
    let mut states_end = 0;
    let is_kept = |id: StorageId| kept.iter().any(|state| state.old == id || state.new == Some(id));
    for state in kept {
        let at = Some(address(MemSpace::Hbm, states_end));
        (addresses[state.old], states_end) =
            (at, (states_end + lowering.storages[state.old].bytes()).next_multiple_of(ALIGN));
        if let Some(new) = state.new {
            addresses[new] = at;
        }
    }
    let mut lives: SecondaryMap<StorageId, Option<Life>> = SecondaryMap::new();
    for (id, storage) in &lowering.storages {
        if matches!(storage.kind, StorageKind::Input(_) | StorageKind::Output(_)) && !is_kept(id) {
            lives[id] = Some(Life { bytes: storage.bytes(), first: 0, last });
        }
    }
    let pinned: Vec<StorageId> = lowering
        .storages
        .keys()
        .filter(|&s| lowering.storages[s].kind != StorageKind::Temp && lives[s].is_some())
        .collect();
    // Where there is room, bytes rest while launches are in flight: who takes them over would wait for these.
    let rested = temporaries(lowering, IN_FLIGHT - 1);
    let temps = if rested.bytes <= target.sram_bytes { rested } else { temporaries(lowering, 0) };
    let in_sram = temps.bytes <= target.sram_bytes;
    let (mut hbm, mut hbm_lives): (Vec<StorageId>, Vec<Life>) =
        pinned.into_iter().filter_map(|s| Some((s, lives[s]?))).unzip();
    if in_sram {
        for (&id, &offset) in temps.ids.iter().zip(&temps.at) {
            addresses[id] = Some(address(MemSpace::Sram, offset));
        }
    } else {
        hbm.extend(temps.ids);
        hbm_lives.extend(temps.lives);
    }
    let (at, hbm_bytes) = plan(&hbm_lives);
    for (&id, &offset) in hbm.iter().zip(&at) {
        addresses[id] = Some(address(MemSpace::Hbm, states_end + offset));
    }
    let sram_bytes = temps.bytes;
    (states_end + hbm_bytes, if in_sram { sram_bytes } else { 0 })
}
