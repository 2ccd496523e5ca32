//! The reference interpreter: loads an object once, runs its entries as often as wanted.

use lacuna_isa::object::{Address, EntryPoint, Object, Port};

use crate::dma::Images;
use crate::entry::{EntryStep, plan_entry};
use crate::launch::{Launched, Limits, run_launch};
use crate::matmul::actions::{LoadRecord, ProductRecord};
use crate::memory::Memory;
use crate::plan::{self, KernelPlan};
use crate::ranks::{self, Mail};
use crate::trap::{Fault, InputError, LoadError, Trap};
use crate::workspace::Workspaces;

/// An object ready to run.
#[derive(Debug)]
pub struct Machine<'o> {
    object: &'o Object,
    kernels: Vec<KernelPlan<'o>>,
    /// The stream of every entry.
    streams: Vec<Vec<EntryStep>>,
    images: Images,
    spaces: Workspaces,
}

/// Instructions and loop rounds of one PE in one launch that a run allows where its options do not say: more than the
/// longest stream that the checker lets pass has.
pub const DEFAULT_STEP_LIMIT: u64 = 1 << 28;

/// How to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunOptions {
    /// Number of the entry.
    pub entry: usize,
    /// Threads; 0 takes one per host core. Results do not depend on it.
    pub threads: usize,
    /// Whether to report what every launch did.
    pub record: bool,
    /// Instructions and loop rounds of one PE in one launch, after which it traps.
    pub step_limit: u64,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions { entry: 0, threads: 0, record: false, step_limit: DEFAULT_STEP_LIMIT }
    }
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
    /// What the DPEs did, by instruction.
    pub products: Vec<ProductRecord>,
    /// What loads brought that flags choose parts of, by instruction.
    pub loads: Vec<LoadRecord>,
}

/// What the states of an object hold between runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    states: Vec<Vec<u8>>,
}

impl Session {
    /// The bytes of every state, dense in row-major order.
    pub fn states(&self) -> &[Vec<u8>] {
        &self.states
    }

    /// Gives state number `state` other bytes; they must be as many.
    ///
    /// # Errors
    /// The number of bytes that it has, where there are not as many, or there is no such state.
    pub fn set(&mut self, state: usize, bytes: Vec<u8>) -> Result<(), u64> {
        match self.states.get_mut(state) {
            Some(own) if own.len() == bytes.len() => {
                *own = bytes;
                Ok(())
            }
            own => Err(own.map_or(0, |own| own.len() as u64)),
        }
    }
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

/// What all ranks are doing, and where.
struct Run<'r, 'o> {
    machine: &'r Machine<'o>,
    entry: &'r EntryPoint,
    options: &'r RunOptions,
    memories: Vec<Memory<'o>>,
    /// Of every rank.
    records: Vec<Vec<LaunchRecord>>,
}

impl<'o> Machine<'o> {
    /// Checks and resolves an object.
    ///
    /// # Errors
    /// When a table refers to what does not exist, or an entry reaches beyond memory.
    pub fn load(object: &'o Object) -> Result<Machine<'o>, LoadError> {
        let kernels = object.kernels.iter().map(plan::plan_kernel).collect::<Result<Vec<_>, _>>()?;
        let streams =
            object.entries.iter().map(|entry| plan_entry(object, entry)).collect::<Result<_, _>>()?;
        Ok(Machine { object, kernels, streams, images: Images::default(), spaces: Workspaces::default() })
    }

    /// States as they are before the first run: zeros.
    pub fn session(&self) -> Session {
        let bytes = |state: &Port| vec![0; state.bytes().unwrap_or(0) as usize];
        Session { states: self.object.states.iter().map(bytes).collect() }
    }

    /// Runs an entry of one rank like [`Machine::run`], on the states of `session`, which a run that ends leaves as they are then.
    ///
    /// # Errors
    /// As those of [`Machine::run`].
    pub fn run_in(
        &self,
        session: &mut Session,
        inputs: &[&[u8]],
        options: &RunOptions,
    ) -> Result<Outcome, InputError> {
        let mut outcomes = self.run_all(&[inputs], Some(session), options)?;
        Ok(outcomes.swap_remove(0))
    }

    /// Runs an entry of one rank, states being zeros at first. `inputs` are dense row-major little-endian bytes, one per input port.
    ///
    /// # Errors
    /// When the entry does not exist or the inputs do not fit its ports. A trap is an [`Outcome`].
    pub fn run(&self, inputs: &[&[u8]], options: &RunOptions) -> Result<Outcome, InputError> {
        let mut outcomes = self.run_ranks(&[inputs], options)?;
        // There are as many outcomes as ranks: one.
        Ok(outcomes.swap_remove(0))
    }

    /// Runs an entry on all its ranks in lockstep, each with its own inputs and memories; returns the ranks' outcomes. A
    /// trap on one rank is the outcome of all. States are zeros at first.
    ///
    /// # Errors
    /// When the entry does not exist or the inputs do not fit its ranks and ports.
    pub fn run_ranks(&self, inputs: &[&[&[u8]]], options: &RunOptions) -> Result<Vec<Outcome>, InputError> {
        self.run_all(inputs, None, options)
    }

    fn run_all(
        &self,
        inputs: &[&[&[u8]]],
        session: Option<&mut Session>,
        options: &RunOptions,
    ) -> Result<Vec<Outcome>, InputError> {
        let n_entries = self.object.entries.len();
        let no_entry = InputError::NoEntry { entry: options.entry, n_entries };
        let entry = self.object.entries.get(options.entry).ok_or(no_entry)?;
        let ranks = usize::from(entry.ranks);
        if inputs.len() != ranks {
            return Err(InputError::Ranks { expected: ranks, found: inputs.len() });
        }
        let mut memories =
            inputs.iter().map(|inputs| self.memory(entry, inputs)).collect::<Result<Vec<_>, _>>()?;
        if let (Some(session), [memory]) = (&session, &mut memories[..]) {
            let states = &self.object.states;
            if session.states.len() != states.len() {
                return Err(InputError::Count { expected: states.len(), found: session.states.len() });
            }
            for (port, bytes) in states.iter().zip(&session.states) {
                let (expected, found) = (port.bytes().unwrap_or(u64::MAX), bytes.len() as u64);
                if expected != found {
                    return Err(InputError::Bytes { name: port.name.clone(), expected, found });
                }
                let at = port.address.offset as usize;
                memory.bytes_mut(port.address.space)[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        let mut run = Run { machine: self, entry, options, memories, records: vec![Vec::new(); ranks] };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let result = match pool {
            Ok(pool) => pool.install(|| run.stream()),
            // Without threads of its own, the run still has the caller's.
            Err(_) => run.stream(),
        };
        if let Err(trap) = result {
            return Ok(vec![Outcome::Trap(*trap); ranks]);
        }
        let Run { memories, records, .. } = run;
        if let (Some(session), Some(memory)) = (session, memories.first()) {
            for (port, bytes) in self.object.states.iter().zip(&mut session.states) {
                let (at, n) = (port.address.offset as usize, bytes.len());
                bytes.copy_from_slice(&memory.bytes(port.address.space)[at..at + n]);
            }
        }
        let outcomes = memories.iter().zip(records).map(|(memory, records)| {
            let outputs = entry.outputs.iter().map(|port| {
                let at = port.address.offset as usize;
                let n = port.bytes().unwrap_or(0) as usize;
                memory.bytes(port.address.space)[at..at + n].to_vec()
            });
            Outcome::Done { outputs: outputs.collect(), records: options.record.then_some(records) }
        });
        Ok(outcomes.collect())
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
            let expected = port.bytes().unwrap_or(u64::MAX);
            if input.len() as u64 != expected {
                let name = port.name.clone();
                return Err(InputError::Bytes { name, expected, found: input.len() as u64 });
            }
            let at = port.address.offset as usize;
            memory.bytes_mut(port.address.space)[at..at + input.len()].copy_from_slice(input);
        }
        Ok(memory)
    }
}

impl Run<'_, '_> {
    /// The entry stream, each instruction on every rank before the next.
    fn stream(&mut self) -> Result<(), Box<Trap>> {
        let mut mail = Mail::default();
        let stream = &self.machine.streams[self.options.entry];
        for (position, step) in stream.iter().enumerate() {
            match step {
                EntryStep::Launch { number, chained: _ } => {
                    for rank in 0..self.memories.len() {
                        self.launch(position, *number, rank)?;
                    }
                }
                EntryStep::Message(kind, transfer) => {
                    ranks::step(&mut self.memories, kind, transfer, &mut mail)
                        .map_err(|(rank, fault)| self.message_trap(position, rank, fault))?;
                }
            }
        }
        mail.finish().map_err(|(rank, fault)| self.message_trap(stream.len(), rank, fault))
    }

    /// The trap of instruction `pc` of the entry stream.
    fn message_trap(&self, pc: usize, rank: usize, fault: Fault) -> Box<Trap> {
        let inst = self.entry.code[pc];
        Box::new(Trap {
            kind: fault.kind,
            launch: pc,
            kernel: self.entry.name.clone(),
            pc,
            instruction: format!("{:?}", inst.kind),
            engine: inst.kind.engine().name(),
            pe: [0; 4],
            origins: Vec::new(),
            message: self.on_rank(rank, fault.message),
        })
    }

    fn on_rank(&self, rank: usize, message: String) -> String {
        if self.memories.len() == 1 { message } else { format!("rank {rank}: {message}") }
    }

    fn launch(&mut self, position: usize, number: usize, rank: usize) -> Result<(), Box<Trap>> {
        let launch = &self.entry.launches[number];
        let plan = &self.machine.kernels[launch.kernel as usize];
        let extents: Vec<(Address, u64, _)> = launch
            .bases
            .iter()
            .zip(&plan.kernel.tensors)
            .map(|(base, decl)| (*base, decl.bytes, decl.access))
            .collect();
        let memory = &mut self.memories[rank];
        let limits = Limits { steps: self.options.step_limit, records: self.options.record };
        let images = self.machine.images.of(plan.kernel, &extents, memory);
        let launched = Launched {
            plan,
            params: &launch.params,
            extents: &extents,
            images: &images,
            limits,
            spaces: &self.machine.spaces,
        };
        let result = run_launch(&launched, memory);
        let (counts, actions) = result.map_err(|(pe, pc, fault)| {
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
                message: self.on_rank(rank, fault.message),
            })
        })?;
        if self.options.record {
            self.records[rank].push(LaunchRecord {
                launch: position,
                kernel: plan.kernel.name.clone(),
                instructions: counts.instructions,
                loaded_bytes: counts.loaded_bytes,
                skipped_bytes: counts.skipped_bytes,
                stored_bytes: counts.stored_bytes,
                macs: counts.macs,
                macs_skipped: counts.macs_skipped,
                products: actions.records(),
                loads: actions.load_records(),
            });
        }
        Ok(())
    }
}
