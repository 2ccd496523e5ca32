//! The reference interpreter: loads an object once, runs its entries as often as wanted.

use lacuna_isa::object::{Address, EntryPoint, MemSpace, Object};
use rayon::prelude::*;

use crate::dma::{Image, Images};
use crate::memory::{self, Log, Memory, Tensor};
use crate::pe::{Counts, Pe};
use crate::plan::{self, KernelPlan};
use crate::se::Lanes;
use crate::trap::{Fault, InputError, LoadError, Trap};

/// An object ready to run.
#[derive(Debug)]
pub struct Machine<'o> {
    object: &'o Object,
    kernels: Vec<KernelPlan<'o>>,
    /// For every entry, the launches of its stream in order.
    orders: Vec<Vec<usize>>,
    images: Images,
}

/// How to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunOptions {
    /// Number of the entry.
    pub entry: usize,
    /// Threads; 0 takes one per host core. Results do not depend on it.
    pub threads: usize,
    /// Whether to report what every launch did.
    pub record: bool,
}

/// What one launch did, summed over its PEs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaunchRecord {
    /// Position in the entry stream.
    pub launch: usize,
    /// Name of the kernel.
    pub kernel: String,
    /// Dynamic instructions.
    pub instructions: u64,
    /// Bytes that loads brought to PEs, all planes.
    pub loaded_bytes: u64,
    /// Bytes of loaded boxes that masks and compression kept from crossing the port.
    pub skipped_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Multiply-accumulates performed.
    pub macs: u64,
    /// Multiply-accumulates that sparsity skipped.
    pub macs_skipped: u64,
}

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The entry ran to its end.
    Done {
        /// Bytes of every output port, dense in row-major order.
        outputs: Vec<Vec<u8>>,
        /// What every launch did, when asked for.
        records: Option<Vec<LaunchRecord>>,
    },
    /// The program trapped.
    Trap(Trap),
}

/// What a PE leaves behind.
struct Ended {
    log: Log,
    counts: Counts,
    fault: Option<(usize, Fault)>,
}

impl<'o> Machine<'o> {
    /// Checks and resolves an object.
    ///
    /// # Errors
    /// When a table refers to what does not exist, or an entry reaches beyond memory.
    pub fn load(object: &'o Object) -> Result<Machine<'o>, LoadError> {
        let kernels = object.kernels.iter().map(plan::plan_kernel).collect::<Result<Vec<_>, _>>()?;
        let orders =
            object.entries.iter().map(|entry| plan::plan_entry(object, entry)).collect::<Result<_, _>>()?;
        Ok(Machine { object, kernels, orders, images: Images::default() })
    }

    /// Runs an entry. `inputs` are dense row-major little-endian bytes, one per input port.
    ///
    /// # Errors
    /// When the entry does not exist or the inputs do not fit its ports. A trap is an [`Outcome`].
    pub fn run(&self, inputs: &[&[u8]], options: &RunOptions) -> Result<Outcome, InputError> {
        let n_entries = self.object.entries.len();
        let no_entry = InputError::NoEntry { entry: options.entry, n_entries };
        let entry = self.object.entries.get(options.entry).ok_or(no_entry)?;
        let mut memory = self.memory(entry, inputs)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let result = match pool {
            Ok(pool) => pool.install(|| self.launches(entry, options, &mut memory)),
            // Without threads of its own, the run still has the caller's.
            Err(_) => self.launches(entry, options, &mut memory),
        };
        let records = match result {
            Ok(records) => records,
            Err(trap) => return Ok(Outcome::Trap(*trap)),
        };
        let outputs = entry
            .outputs
            .iter()
            .map(|port| {
                let at = port.address.offset as usize;
                let n = plan::port_bytes(port).unwrap_or(0) as usize;
                memory.bytes(port.address.space)[at..at + n].to_vec()
            })
            .collect();
        Ok(Outcome::Done { outputs, records: options.record.then_some(records) })
    }

    fn memory(&self, entry: &EntryPoint, inputs: &[&[u8]]) -> Result<Memory<'o>, InputError> {
        if inputs.len() != entry.inputs.len() {
            return Err(InputError::Count { expected: entry.inputs.len(), found: inputs.len() });
        }
        let bytes = self.object.hbm_bytes.saturating_add(self.object.sram_bytes);
        let mut memory =
            Memory::new(self.object.weights.bytes(), self.object.hbm_bytes, self.object.sram_bytes)
                .ok_or(InputError::Memory { bytes })?;
        for (port, input) in entry.inputs.iter().zip(inputs) {
            let expected = plan::port_bytes(port).unwrap_or(u64::MAX);
            if input.len() as u64 != expected {
                let name = port.name.clone();
                return Err(InputError::Bytes { name, expected, found: input.len() as u64 });
            }
            let at = port.address.offset as usize;
            memory.bytes_mut(port.address.space)[at..at + input.len()].copy_from_slice(input);
        }
        Ok(memory)
    }

    fn launches(
        &self,
        entry: &EntryPoint,
        options: &RunOptions,
        memory: &mut Memory<'o>,
    ) -> Result<Vec<LaunchRecord>, Box<Trap>> {
        let mut records = Vec::new();
        for (position, &number) in self.orders[options.entry].iter().enumerate() {
            let launch = &entry.launches[number];
            let plan = &self.kernels[launch.kernel as usize];
            let decls: Vec<(Address, u64, _)> = launch
                .bases
                .iter()
                .zip(&plan.kernel.tensors)
                .map(|(base, decl)| (*base, decl.bytes, decl.access))
                .collect();
            let trap = |pe: usize, pc: usize, fault: Fault| {
                let inst = plan.kernel.code[pc];
                Box::new(Trap {
                    kind: fault.kind,
                    launch: position,
                    kernel: plan.kernel.name.clone(),
                    pc,
                    instruction: format!("{:?}", inst.kind),
                    engine: inst.kind.engine().name(),
                    pe: plan.coords(pe),
                    origins: launch.origins.clone(),
                    message: fault.message,
                })
            };
            let images = self.images.of(plan.kernel, &decls, memory);
            let ended = run_pes(plan, &decls, &images, memory);
            let mut counts = Counts::default();
            let mut logs = Vec::with_capacity(ended.len());
            for (pe, ended) in ended.into_iter().enumerate() {
                if let Some((pc, fault)) = ended.fault {
                    return Err(trap(pe, pc, fault));
                }
                counts.instructions += ended.counts.instructions;
                counts.loaded_bytes += ended.counts.loaded_bytes;
                counts.stored_bytes += ended.counts.stored_bytes;
                counts.skipped_bytes += ended.counts.skipped_bytes;
                counts.macs += ended.counts.macs;
                counts.macs_skipped += ended.counts.macs_skipped;
                logs.push(ended.log);
            }
            memory::apply(memory, &decls, &logs).map_err(|(pe, pc, fault)| trap(pe, pc, fault))?;
            if options.record {
                records.push(LaunchRecord {
                    launch: position,
                    kernel: plan.kernel.name.clone(),
                    instructions: counts.instructions,
                    loaded_bytes: counts.loaded_bytes,
                    skipped_bytes: counts.skipped_bytes,
                    stored_bytes: counts.stored_bytes,
                    macs: counts.macs,
                    macs_skipped: counts.macs_skipped,
                });
            }
        }
        Ok(records)
    }
}

fn run_pes(
    plan: &KernelPlan<'_>,
    decls: &[(Address, u64, lacuna_isa::object::Access)],
    images: &[Option<Image>],
    memory: &Memory<'_>,
) -> Vec<Ended> {
    let log_reads = memory::needs_read_log(decls);
    let tensors: Vec<Tensor<'_>> = decls
        .iter()
        .zip(&plan.kernel.tensors)
        .zip(log_reads)
        .zip(images)
        .map(|(((&(address, bytes, access), decl), log_reads), image)| {
            let at = address.offset as usize;
            let bytes = &memory.bytes(address.space)[at..at + bytes as usize];
            // Weights are never written, whatever else the launch does.
            let log_reads = log_reads && address.space != MemSpace::Weights;
            Tensor { bytes, address, access, planes: decl.planes, log_reads, image: image.as_ref() }
        })
        .collect();
    (0..plan.n_pes())
        .into_par_iter()
        .with_max_len(1)
        .map_init(Lanes::default, |lanes, idx| {
            let mut pe = Pe::new(plan, &tensors, memory, plan.coords(idx), lanes);
            let fault = pe.run().err().map(|fault| (pe.pc, fault));
            Ended { log: pe.log, counts: pe.counts, fault }
        })
        .collect()
}
