//! Hand-built objects: helpers that place tensors in memory and number views, buffers and trips.
#![allow(dead_code, reason = "every test file uses a part")]

use lacuna_isa::Blob;
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Inst, InstKind, Multicast, Operand};
use lacuna_isa::object::{
    Access, Address, Buffer, BufferKind, EntryPoint, Kernel, Launch, MemSpace, Object, ObjectOrigin, Port,
    TensorDecl, Trip,
};
use lacuna_isa::program::{Program, Stream};
use lacuna_isa::view::{Advance, Dim, Space, View};
use lacuna_runtime::{Machine, Outcome, RunOptions, Trap};

/// A kernel with its object around it.
pub struct Builder {
    pub kernel: Kernel,
    pub entry: EntryPoint,
    pub weights: Vec<u8>,
    bases: Vec<Address>,
    hbm: u64,
}

pub const F32: Format = Format::F32;

impl Builder {
    pub fn new(grid: [u16; 4]) -> Builder {
        Builder {
            kernel: Kernel { name: "test".into(), grid, ..Kernel::default() },
            entry: EntryPoint { name: "main".into(), ..EntryPoint::default() },
            weights: Vec::new(),
            bases: Vec::new(),
            hbm: 0,
        }
    }

    fn tensor(&mut self, access: Access, space: MemSpace, offset: u64, bytes: u64, planes: [u64; 3]) -> u8 {
        self.kernel.tensors.push(TensorDecl { access, bytes, planes });
        self.bases.push(Address { space, offset });
        (self.bases.len() - 1) as u8
    }

    fn place(&mut self, bytes: u64) -> u64 {
        let at = self.hbm;
        self.hbm = (at + bytes).next_multiple_of(64);
        at
    }

    /// An input port and its base register.
    pub fn input(&mut self, elem: ScalarType, shape: &[u64]) -> u8 {
        let bytes = elem.bytes_for(shape.iter().product());
        let offset = self.place(bytes);
        let address = Address { space: MemSpace::Hbm, offset };
        let name = format!("in{}", self.entry.inputs.len());
        self.entry.inputs.push(Port { name, elem, shape: shape.to_vec(), address });
        self.tensor(Access::In, MemSpace::Hbm, offset, bytes, [0; 3])
    }

    /// An output port and its base register.
    pub fn output(&mut self, elem: ScalarType, shape: &[u64], access: Access) -> u8 {
        let bytes = elem.bytes_for(shape.iter().product());
        let offset = self.place(bytes);
        let address = Address { space: MemSpace::Hbm, offset };
        let name = format!("out{}", self.entry.outputs.len());
        self.entry.outputs.push(Port { name, elem, shape: shape.to_vec(), address });
        self.tensor(access, MemSpace::Hbm, offset, bytes, [0; 3])
    }

    /// A weight tensor with up to three planes.
    pub fn weight(&mut self, planes: &[&[u8]]) -> u8 {
        while !self.weights.len().is_multiple_of(64) {
            self.weights.push(0);
        }
        let offset = self.weights.len() as u64;
        let mut at = [0; 3];
        for (i, plane) in planes.iter().enumerate() {
            at[i] = self.weights.len() as u64 - offset;
            self.weights.extend_from_slice(plane);
        }
        let bytes = self.weights.len() as u64 - offset;
        self.tensor(Access::In, MemSpace::Weights, offset, bytes, at)
    }

    pub fn buffer(&mut self, name: &str, kind: BufferKind, slot_bytes: u32, slots: u8) -> u8 {
        self.kernel.buffers.push(Buffer { name: name.into(), kind, slot_bytes, slots });
        (self.kernel.buffers.len() - 1) as u8
    }

    pub fn view(&mut self, view: View) -> u16 {
        self.kernel.views.push(view);
        (self.kernel.views.len() - 1) as u16
    }

    /// A dense local view.
    pub fn local(&mut self, format: Format, sizes: [u32; 5]) -> u16 {
        self.view(View::dense(format, sizes))
    }

    pub fn trip(&mut self, n: u32) -> u16 {
        self.kernel.trips.push(Trip::constant(n));
        (self.kernel.trips.len() - 1) as u16
    }

    pub fn program(&mut self, program: Program) -> u16 {
        self.kernel.programs.push(program);
        (self.kernel.programs.len() - 1) as u16
    }

    pub fn emit(&mut self, kind: InstKind) -> &mut Builder {
        self.emit_at(0, kind)
    }

    pub fn emit_at(&mut self, stage: u8, kind: InstKind) -> &mut Builder {
        self.kernel.code.push(Inst { stage, kind });
        self
    }

    pub fn build(mut self) -> Object {
        self.kernel.code.push(InstKind::Halt {}.into());
        self.entry.launches.push(Launch {
            kernel: 0,
            bases: self.bases,
            params: vec![],
            macs: 0,
            origins: vec![0],
        });
        self.entry.code = vec![InstKind::Launch { launch: 0 }.into(), InstKind::Halt {}.into()];
        Object {
            name: "test".into(),
            target: "any".into(),
            target_file: String::new(),
            kernels: vec![self.kernel],
            entries: vec![self.entry],
            origins: vec![ObjectOrigin { node: "n".into(), op: "Test".into() }],
            hbm_bytes: self.hbm,
            sram_bytes: 0,
            states: vec![],
            weights: Blob::new(self.weights),
        }
    }
}

/// A global view.
pub fn global(register: u8, format: Format, dims: [Dim; 5]) -> View {
    View { space: Space::Global(register), dims, ..View::dense(format, [1; 5]) }
}

pub fn dim(size: u32, stride: i32, bound: u32) -> Dim {
    Dim { size, stride, origin: 0, bound }
}

pub fn step(dim: u8, step: i32) -> Option<Advance> {
    Some(Advance { dim, step })
}

pub fn push(buffer: u8, view: u16) -> Operand {
    Operand::new(buffer, Action::Push, view)
}

pub fn pop(buffer: u8, view: u16) -> Operand {
    Operand::new(buffer, Action::Pop, view)
}

pub fn read(buffer: u8, delta: u8, view: u16) -> Operand {
    Operand { buffer, delta, action: Action::Read, view }
}

pub fn update(buffer: u8, view: u16) -> Operand {
    Operand::new(buffer, Action::Update, view)
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

pub fn run_with(object: &Object, inputs: &[&[u8]], threads: usize) -> Result<Vec<Vec<u8>>, Box<Trap>> {
    let machine = Machine::load(object).unwrap_or_else(|e| panic!("{e}"));
    let options = RunOptions { threads, record: true, ..RunOptions::default() };
    match machine.run(inputs, &options).unwrap_or_else(|e| panic!("{e}")) {
        Outcome::Done { outputs, .. } => Ok(outputs),
        Outcome::Trap(trap) => Err(Box::new(trap)),
    }
}

/// Runs on one and on several threads and checks that the bytes are the same.
pub fn run(object: &Object, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, Box<Trap>> {
    let one = run_with(object, inputs, 1);
    assert_eq!(one, run_with(object, inputs, 3));
    one
}

/// Numbers without a pattern, exact in small sums.
pub fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) as f32 - 32768.0) / 8192.0
        })
        .collect()
}

/// A stream of a program.
pub fn stream(operand: Operand) -> Stream {
    Stream { operand, mode: ScaleMode::Floor }
}

pub const NONE: Multicast = Multicast::None;

/// A load for one PE, filled with zeros.
pub fn ld(dst: Operand, src: u16) -> InstKind {
    InstKind::Ld { dst, src, cast: NONE, fill: Fill::Zero }
}
