//! Emitting one kernel: tables without duplicates, buffers, and the loads that a loop nest needs at each depth.

use cranelift_entity::PrimaryMap;
use std::ops::RangeInclusive;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Engine, Fill, Inst, InstKind, Multicast, Operand};
use lacuna_isa::object::{Access, Buffer, BufferKind, Kernel, TensorDecl, Trip};
use lacuna_isa::program::Program;
use lacuna_isa::view::{Dim, PE_COORDS, Pattern, PlaneMap, Space, VIEW_DIMS, View};

use crate::nest::{Nest, TileDim, folds, view_dims};
use crate::place::{Storage, StorageId};
use crate::refusal::Refusal;

/// Engines that a kernel leaves without power when it has issued everything: each loses it when its queue is empty, those that the
/// kernel does not use at once.
const GATED: [Engine; 6] =
    [Engine::FiLoad, Engine::FiStore, Engine::Mlu, Engine::Dpe, Engine::Re, Engine::Se];

/// A box of a storage that one tile touches.
#[derive(Clone, Debug)]
pub struct Tile {
    /// The storage.
    pub storage: StorageId,
    /// Element number of coordinate 0.
    pub offset: i64,
    /// Dimensions, of which five stay after [`folds`]; the slot is dense and row-major in this order.
    pub dims: Vec<TileDim>,
    /// Which dimension groups and patterns run along.
    pub k_dim: Option<usize>,
}

impl Tile {
    /// Strides of the slot's dimensions in elements.
    pub fn slot_strides(&self) -> Vec<i64> {
        let mut strides = vec![1i64; self.dims.len()];
        for d in (0..self.dims.len().saturating_sub(1)).rev() {
            strides[d] = strides[d + 1] * self.dims[d + 1].size as i64;
        }
        strides
    }

    /// The dimensions that carry others, by dimension.
    fn folds(&self, nest: &Nest) -> Result<Vec<Option<usize>>, Refusal> {
        folds(nest, &self.dims, self.k_dim).ok_or_else(|| {
            Refusal::Limit(format!("a tile of {} dimensions does not fit a view", self.dims.len()))
        })
    }

    /// The whole slot, dimension by dimension as the box's view has them, and the number of the dimension along which groups run.
    fn whole(&self, nest: &Nest) -> Result<(Vec<LocalDim>, Option<usize>), Refusal> {
        let folds = self.folds(nest)?;
        let strides = self.slot_strides();
        let kept: Vec<usize> = (0..self.dims.len()).filter(|&d| folds[d].is_none()).collect();
        let dims = kept.iter().map(|&d| free(self.dims[d].size, strides[d])).collect();
        Ok((dims, kept.iter().position(|&d| Some(d) == self.k_dim)))
    }

    /// Elements of the box.
    pub fn elements(&self) -> u64 {
        self.dims.iter().map(|d| d.size).product()
    }
}

/// A tile in a buffer.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The buffer.
    pub buffer: u8,
    /// Number of open loops where the load stands.
    pub depth: usize,
    /// Strides of the slot's dimensions.
    pub strides: Vec<i64>,
    /// Stage of the load in the innermost loop.
    stage: u8,
    load: InstKind,
}

/// One dimension of a local view: size, stride within the slot, and the tile dimension whose clipping it follows.
#[derive(Clone, Debug)]
pub struct LocalDim {
    /// Size.
    pub size: u64,
    /// Stride within the slot; 0 repeats.
    pub stride: i64,
    /// Clipping: the coordinates that this dimension has.
    pub clip: Option<TileDim>,
}

/// Builds one kernel and the list of storages behind its base registers.
pub struct KernelBuilder<'a> {
    /// The kernel so far.
    pub kernel: Kernel,
    /// The storage behind each base register.
    pub bases: Vec<StorageId>,
    /// The loop nest.
    pub nest: Nest,
    storages: &'a PrimaryMap<StorageId, Storage>,
    loads: Vec<Loaded>,
    /// Software-pipeline stage of what is appended: 0 outside the innermost loop.
    stage: u8,
    /// Stage of loads that depend on other loads; 0 where there are none. Later stages then stand first in the code.
    late: u8,
    /// Slots of the buffers that the innermost loop fills.
    pub inner_slots: u8,
}

/// Views that the 12-bit field of an operand can name.
const MAX_VIEWS: usize = 4096;
/// Slots of a buffer that is filled while it is read.
pub const DOUBLE: u8 = 2;
/// Most slots of a buffer that a loop around the innermost one fills, unless they are small.
const OUTER_SLOTS: u8 = 4;
/// Bytes up to which a slot is small: as many of them as of an operand in the innermost loop cost nothing, and a load that brings so
/// little takes a memory's latency for little work.
const SMALL_SLOT: u64 = 1 << 10;
/// Slots of a buffer whose content lives for up to four stages.
pub const STAGED_SLOTS: u8 = 4;
/// Stages that a loop has at most.
const STAGES: u8 = 4;

/// Slots of a buffer that a loop around the innermost one fills, where buffers of the innermost one have `inner` slots.
pub fn outer_slots(bytes: u64, inner: u8) -> u8 {
    if bytes <= SMALL_SLOT { inner.max(DOUBLE) } else { inner.clamp(DOUBLE, OUTER_SLOTS) }
}

impl<'a> KernelBuilder<'a> {
    /// A kernel named `name` over `nest`.
    pub fn new(name: &str, nest: Nest, storages: &'a PrimaryMap<StorageId, Storage>) -> KernelBuilder<'a> {
        let kernel = Kernel { name: name.to_string(), grid: nest.grid, ..Kernel::default() };
        KernelBuilder {
            kernel,
            bases: Vec::new(),
            nest,
            storages,
            loads: Vec::new(),
            stage: 0,
            late: 0,
            inner_slots: DOUBLE,
        }
    }

    /// Format of a storage.
    pub fn format(&self, storage: StorageId) -> Format {
        self.storages[storage].format
    }

    /// Number of loops of the nest.
    pub fn n_loops(&self) -> usize {
        self.nest.loops().len()
    }

    /// The base register of a storage.
    pub fn base(&mut self, storage: StorageId, access: Access) -> u8 {
        if let Some(at) = self.bases.iter().position(|&s| s == storage) {
            let decl = &mut self.kernel.tensors[at];
            if decl.access != access {
                decl.access = Access::InOut;
            }
            return at as u8;
        }
        let data = &self.storages[storage];
        self.kernel.tensors.push(TensorDecl { access, bytes: data.bytes(), planes: data.planes() });
        self.bases.push(storage);
        (self.bases.len() - 1) as u8
    }

    /// Number of a view in the table.
    pub fn view(&mut self, view: View) -> u16 {
        let views = &mut self.kernel.views;
        let at = views.iter().position(|v| *v == view).unwrap_or_else(|| {
            views.push(view);
            views.len() - 1
        });
        at as u16
    }

    /// A new buffer.
    pub fn buffer(
        &mut self,
        name: &str,
        kind: BufferKind,
        slot_bytes: u64,
        slots: u8,
    ) -> Result<u8, Refusal> {
        let slot_bytes = u32::try_from(slot_bytes)
            .map_err(|_| Refusal::Limit(format!("a slot of {slot_bytes} bytes is too large")))?;
        if self.kernel.buffers.len() >= 64 {
            return Err(Refusal::Limit("the kernel needs more than 64 buffers".into()));
        }
        self.kernel.buffers.push(Buffer { name: name.to_string(), kind, slot_bytes, slots });
        Ok((self.kernel.buffers.len() - 1) as u8)
    }

    /// Appends an instruction.
    pub fn push(&mut self, kind: InstKind) {
        self.kernel.code.push(Inst { stage: self.stage, kind });
    }

    /// The global view of a tile.
    pub fn global(&mut self, tile: &Tile, access: Access) -> Result<u16, Refusal> {
        let data = &self.storages[tile.storage];
        let base = self.base(tile.storage, access);
        let folds = tile.folds(&self.nest)?;
        let (dims, levels, coords) = view_dims(&self.nest, &tile.dims, &folds).ok_or_else(|| {
            Refusal::Limit(format!("a tile of {} dimensions does not fit a view", tile.dims.len()))
        })?;
        let kept = folds.iter().filter(|f| f.is_none()).count();
        let before = |k: usize| folds[..k].iter().filter(|f| f.is_none()).count();
        let k_dim = tile.k_dim.map_or(VIEW_DIMS - 1, |k| VIEW_DIMS - kept + before(k)) as u8;
        Ok(self.view(View {
            format: data.format,
            pattern: data.pattern,
            k_dim,
            space: Space::Global(base),
            offset: tile.offset,
            dims,
            levels,
            coords,
            shift: None,
        }))
    }

    /// A local view, padded in front with unit dimensions. `k_dim` is the number of the dimension among `dims` that
    /// groups and patterns run along.
    pub fn local(
        &mut self,
        format: Format,
        pattern: Option<Pattern>,
        k_dim: Option<usize>,
        dims: &[LocalDim],
    ) -> Result<u16, Refusal> {
        self.local_at(format, pattern, k_dim, 0, dims)
    }

    /// A local view whose first element is number `offset` of the slot.
    pub fn local_at(
        &mut self,
        format: Format,
        pattern: Option<Pattern>,
        k_dim: Option<usize>,
        offset: i64,
        dims: &[LocalDim],
    ) -> Result<u16, Refusal> {
        let clip: Vec<TileDim> = dims
            .iter()
            .map(|d| match &d.clip {
                Some(clip) => TileDim { size: d.size, stride: d.stride, ..clip.clone() },
                None => TileDim {
                    axis: None,
                    size: d.size,
                    stride: d.stride,
                    origin: 0,
                    bound: u64::from(u32::MAX),
                },
            })
            .collect();
        let (dims, levels, coords) =
            view_dims(&self.nest, &clip, &vec![None; clip.len()]).ok_or_else(|| {
                Refusal::Limit(format!("an operand of {} dimensions does not fit a view", clip.len()))
            })?;
        let pad = VIEW_DIMS - clip.len();
        let k_dim = k_dim.map_or(VIEW_DIMS - 1, |d| pad + d) as u8;
        let (space, shift) = (Space::Local, None);
        Ok(self.view(View { format, pattern, k_dim, space, offset, dims, levels, coords, shift }))
    }

    /// Bytes of a slot that holds `elements` dense elements.
    pub fn slot_bytes(format: Format, pattern: Option<Pattern>, elements: u64) -> u64 {
        PlaneMap { format, pattern, k_stride: 1 }.plane_bytes(elements).iter().sum()
    }

    /// Plans the load of a tile at the depth that its advances need (or `depth` if that is given), with `slots` slots.
    pub fn load(
        &mut self,
        name: &str,
        tile: &Tile,
        fill: Fill,
        depth: Option<usize>,
        slots: Option<u8>,
    ) -> Result<usize, Refusal> {
        let view = self.global(tile, Access::In)?;
        let needed =
            self.kernel.views[view as usize].levels.iter().rposition(Option::is_some).map_or(0, |l| l + 1);
        let depth = depth.unwrap_or(needed).max(needed);
        let slots = slots.unwrap_or(self.slots_at(depth, self.bytes_of(tile)));
        let data = &self.storages[tile.storage];
        let (buffer, dst) = self.slot_of(name, tile, slots)?;
        let cast = self.multicast(view);
        let load = match &data.records {
            Some(records) => InstKind::Ldx { dst, src: view, cast, code: records.code },
            None => InstKind::Ld { dst, src: view, cast, fill },
        };
        self.loads.push(Loaded { buffer, depth, strides: tile.slot_strides(), stage: 0, load });
        Ok(self.loads.len() - 1)
    }

    /// Slots of the buffer of a load under `depth` loops, of `bytes` each.
    fn slots_at(&self, depth: usize, bytes: u64) -> u8 {
        match depth {
            0 => 1,
            inner if inner == self.n_loops() => self.inner_slots,
            _ => outer_slots(bytes, self.inner_slots),
        }
    }

    /// Bytes of a slot that holds a tile.
    fn bytes_of(&self, tile: &Tile) -> u64 {
        let data = &self.storages[tile.storage];
        Self::slot_bytes(data.slot, data.pattern, tile.elements())
    }

    /// A buffer for a tile, and the operand that pushes its slot.
    fn slot_of(&mut self, name: &str, tile: &Tile, slots: u8) -> Result<(u8, Operand), Refusal> {
        let data = &self.storages[tile.storage];
        let buffer = self.buffer(name, BufferKind::Local, self.bytes_of(tile), slots)?;
        let (whole, k_dim) = tile.whole(&self.nest)?;
        let slot = self.local(data.slot, data.pattern, k_dim, &whole)?;
        Ok((buffer, Operand::new(buffer, Action::Push, slot)))
    }

    /// Plans flags of the `n` elements along K of a loaded operand, seen through `view`: whether any of its rows has
    /// something else than zero there. What they choose is loaded `late` stages after the operand.
    pub fn flags(&mut self, load: usize, view: u16, n: u64, late: u8) -> Result<usize, Refusal> {
        let depth = self.loads[load].depth;
        self.late = late;
        if depth > 0 && depth == self.n_loops() {
            let buffer = usize::from(self.loads[load].buffer);
            let slots = &mut self.kernel.buffers[buffer].slots;
            *slots = STAGED_SLOTS.max(*slots);
        }
        let slots = self.slots_at(depth, n);
        let buffer = self.buffer("active", BufferKind::Local, n, slots)?;
        let flags = self.local(Format::Scalar(ScalarType::Bool), None, None, &[free(n, 1)])?;
        let dst = Operand::new(buffer, Action::Push, flags);
        let src = Operand::new(self.loads[load].buffer, Action::Read, view);
        let load = InstKind::Mask { dst, src };
        self.loads.push(Loaded { buffer, depth, strides: vec![1], stage: late, load });
        Ok(self.loads.len() - 1)
    }

    /// Plans the load of a tile, of whose dimension `dim` only what `flags` choose is loaded.
    pub fn load_active(
        &mut self,
        name: &str,
        tile: &Tile,
        dim: usize,
        flags: usize,
    ) -> Result<usize, Refusal> {
        let view = self.global(tile, Access::In)?;
        let needed =
            self.kernel.views[view as usize].levels.iter().rposition(Option::is_some).map_or(0, |l| l + 1);
        let depth = needed.max(self.loads[flags].depth);
        let (buffer, dst) = self.slot_of(name, tile, self.slots_at(depth, self.bytes_of(tile)))?;
        let n = tile.dims[dim].size;
        let folds = tile.folds(&self.nest)?;
        let dim = VIEW_DIMS - folds[dim..].iter().filter(|f| f.is_none()).count();
        let mut along = vec![free(1, 0); VIEW_DIMS];
        along[dim] = free(n, 1);
        let chosen = self.local(Format::Scalar(ScalarType::Bool), None, None, &along)?;
        let mask = Operand::new(self.loads[flags].buffer, Action::Read, chosen);
        let load = InstKind::Ldmask { dst, src: view, mask, dim: dim as u8 };
        self.loads.push(Loaded { buffer, depth, strides: tile.slot_strides(), stage: self.late, load });
        Ok(self.loads.len() - 1)
    }

    /// Plans the load of a tile. With `index` its first dimension is picked: its coordinate is the one index in that box, which is loaded
    /// first.
    pub fn load_at(&mut self, name: &str, tile: &Tile, index: Option<&Tile>) -> Result<usize, Refusal> {
        let Some(index) = index else { return self.load(name, tile, Fill::Zero, None, None) };
        let at = self.load("i", index, Fill::Zero, None, None)?;
        let view = self.global(tile, Access::In)?;
        let needed =
            self.kernel.views[view as usize].levels.iter().rposition(Option::is_some).map_or(0, |l| l + 1);
        let depth = needed.max(self.loads[at].depth);
        let staged = depth > 0 && self.loads[at].depth == self.n_loops();
        if staged {
            self.late = 1;
            let buffer = usize::from(self.loads[at].buffer);
            self.kernel.buffers[buffer].slots = STAGED_SLOTS.max(self.kernel.buffers[buffer].slots);
        }
        let (buffer, dst) = self.slot_of(name, tile, self.slots_at(depth, self.bytes_of(tile)))?;
        let folds = tile.folds(&self.nest)?;
        let dim = VIEW_DIMS - folds.iter().filter(|f| f.is_none()).count();
        let number = self.local(self.format(index.storage), None, None, &vec![free(1, 0); VIEW_DIMS])?;
        let idx = Operand::new(self.loads[at].buffer, Action::Read, number);
        let load = InstKind::Gather { dst, src: view, idx, dim: dim as u8, strict: true, fill: Fill::Zero };
        let stage = u8::from(staged);
        self.loads.push(Loaded { buffer, depth, strides: tile.slot_strides(), stage, load });
        Ok(self.loads.len() - 1)
    }

    /// Plans a program that makes a slot of `bytes` of loaded ones, where the last of them is loaded: one stage behind the loads where
    /// that is the innermost loop. `program` gets the new buffer and the number of open loops.
    pub fn make(
        &mut self,
        name: &str,
        bytes: u64,
        strides: Vec<i64>,
        sources: &[usize],
        program: impl FnOnce(&mut Self, u8, usize) -> Result<Program, Refusal>,
    ) -> Result<usize, Refusal> {
        let depth = sources.iter().map(|&s| self.loads[s].depth).max().unwrap_or(0);
        let pipelined = depth > 0 && depth == self.n_loops();
        if pipelined {
            self.late = 1;
        }
        let buffer = self.buffer(name, BufferKind::Local, bytes, if depth == 0 { 1 } else { DOUBLE })?;
        let program = program(self, buffer, depth)?;
        self.kernel.programs.push(program);
        let load = InstKind::Run { program: (self.kernel.programs.len() - 1) as u16 };
        self.loads.push(Loaded { buffer, depth, strides, stage: u8::from(pipelined), load });
        Ok(self.loads.len() - 1)
    }

    /// Which PEs want the same box: those that differ only in coordinates that do not advance the view.
    fn multicast(&self, view: u16) -> Multicast {
        let coords = &self.kernel.views[view as usize].coords;
        let fixed = |range: std::ops::Range<usize>| coords[range].iter().all(Option::is_none);
        let wide = |range: std::ops::Range<usize>| self.nest.grid[range].iter().any(|&n| n > 1);
        let (rows, cols) = (0..2, 2..PE_COORDS);
        let over_cols = fixed(cols.clone()) && wide(cols);
        let over_rows = fixed(rows.clone()) && wide(rows);
        match (over_rows, over_cols) {
            (true, true) => Multicast::All,
            (false, true) => Multicast::Row,
            (true, false) => Multicast::Col,
            (false, false) => Multicast::None,
        }
    }

    /// A planned load.
    pub fn loaded(&self, load: usize) -> &Loaded {
        &self.loads[load]
    }

    /// The action of a load's only reader that stands under `depth` open loops: it frees the slot if the load stands
    /// there too.
    pub fn last_read(&self, load: usize, depth: usize) -> Action {
        if self.loads[load].depth == depth { Action::Pop } else { Action::Read }
    }

    /// Opens the `depth` outermost loops, placing each load at its depth.
    pub fn open(&mut self, depth: usize) {
        self.loads_at(0, 0..=self.late);
        for d in 1..=depth {
            self.open_loop(d);
        }
    }

    /// Opens loop number `depth` (from 1) and places the loads that stand in it.
    ///
    /// The innermost loop is software-pipelined: the loads of an iteration run ahead of the computation of the one before,
    /// and that ahead of its store. Every buffer of the innermost loop has two slots or more for it. Where loads depend on loads,
    /// these run ahead of them in turn; later stages then stand first in the code, so that whoever reads a slot finds it at
    /// the head of its buffer.
    pub fn open_loop(&mut self, depth: usize) {
        let axis = self.nest.loops()[depth - 1];
        let trip = self.trip(Trip::constant(self.nest.axes[axis].trip as u32));
        let innermost = depth == self.n_loops();
        let stages = if innermost { (self.store_stage() + 1).min(STAGES) } else { 1 };
        self.push(InstKind::Loop { trip, level: (depth - 1) as u8, stages });
        if !(innermost && self.late > 0) {
            self.loads_at(depth, 0..=self.late);
        }
        if innermost {
            self.stage = self.compute_stage();
        }
    }

    /// Stage of the computation in the innermost loop.
    fn compute_stage(&self) -> u8 {
        1 + self.late
    }

    /// Stage of the stores in the innermost loop.
    fn store_stage(&self) -> u8 {
        self.compute_stage() + 1
    }

    fn loads_at(&mut self, depth: usize, stages: RangeInclusive<u8>) {
        let pipelined = depth > 0 && depth == self.n_loops();
        let here = self.loads.iter().filter(|l| l.depth == depth && stages.contains(&l.stage));
        let here = here.map(|l| Inst { stage: if pipelined { l.stage } else { 0 }, kind: l.load });
        self.kernel.code.extend(here.collect::<Vec<_>>());
    }

    /// Closes the `depth` open loops, freeing the loads that no reader freed.
    pub fn close(&mut self, depth: usize, popped: &[usize]) {
        for d in (1..=depth).rev() {
            self.close_loop(d, popped);
        }
        self.pops_at(0, popped);
    }

    /// Closes loop number `depth` (from 1), freeing what was loaded in it.
    pub fn close_loop(&mut self, depth: usize, popped: &[usize]) {
        self.pops_at(depth, popped);
        if self.late > 0 && depth == self.n_loops() {
            self.loads_at(depth, self.late..=self.late);
            self.loads_at(depth, 0..=0);
        }
        self.stage = 0;
        self.push(InstKind::End {});
    }

    fn pops_at(&mut self, depth: usize, popped: &[usize]) {
        let loads = self.loads.iter().enumerate();
        let here: Vec<u8> =
            loads.filter(|(i, l)| l.depth == depth && !popped.contains(i)).map(|(_, l)| l.buffer).collect();
        for buffer in here {
            self.push(InstKind::Pop { n: 1, buffer });
        }
    }

    fn trip(&mut self, trip: Trip) -> u16 {
        let trips = &mut self.kernel.trips;
        let at = trips.iter().position(|t| *t == trip).unwrap_or_else(|| {
            trips.push(trip);
            trips.len() - 1
        });
        at as u16
    }

    /// Adds a program and its `run`.
    pub fn run(&mut self, program: Program) {
        self.kernel.programs.push(program);
        let program = (self.kernel.programs.len() - 1) as u16;
        self.push(InstKind::Run { program });
    }

    /// Stores a slot whose layout is that of `tile`, and frees it.
    pub fn store(&mut self, buffer: u8, tile: &Tile) -> Result<(), Refusal> {
        let dst = self.global(tile, Access::Out)?;
        let data = &self.storages[tile.storage];
        let (whole, k_dim) = tile.whole(&self.nest)?;
        let slot = self.local(data.format, data.pattern, k_dim, &whole)?;
        let stage = if self.stage == self.compute_stage() { self.store_stage() } else { self.stage };
        let kind = InstKind::St { src: Operand::new(buffer, Action::Pop, slot), dst };
        self.kernel.code.push(Inst { stage, kind });
        Ok(())
    }

    /// Leaves each buffer no more slots than are ever pushed: what a launch does not take, the next may fill meanwhile.
    fn drop_unused_slots(&mut self) {
        let mut pushed = vec![0u64; self.kernel.buffers.len()];
        let mut rounds = vec![1u64];
        for inst in &self.kernel.code {
            match inst.kind {
                InstKind::Loop { trip, .. } => {
                    let trips = u64::from(self.kernel.trips[usize::from(trip)].max);
                    rounds.push(rounds.last().map_or(1, |outer| outer.saturating_mul(trips)));
                }
                InstKind::End {} => {
                    rounds.pop();
                }
                _ => {}
            }
            let programs = &self.kernel.programs;
            let streams = match inst.kind {
                InstKind::Run { program } => &programs[usize::from(program)].streams[..],
                _ => &[],
            };
            let operands = inst.kind.operands().map(|field| field.operand);
            for operand in operands.chain(streams.iter().map(|stream| stream.operand)) {
                if operand.action == Action::Push {
                    let count = &mut pushed[usize::from(operand.buffer)];
                    *count = count.saturating_add(*rounds.last().unwrap_or(&1));
                }
            }
        }
        for (buffer, pushed) in self.kernel.buffers.iter_mut().zip(pushed) {
            buffer.slots = buffer.slots.min(u8::try_from(pushed.max(1)).unwrap_or(u8::MAX));
        }
    }

    /// Ends the kernel and checks it against the target's memories.
    pub fn finish(mut self, local_bytes: u64, bank_bytes: u64) -> Result<(Kernel, Vec<StorageId>), Refusal> {
        for engine in GATED {
            self.push(InstKind::Gate { engine, on: false });
        }
        self.push(InstKind::Halt {});
        self.drop_unused_slots();
        let n_views = self.kernel.views.len();
        if n_views > MAX_VIEWS {
            return Err(Refusal::Limit(format!(
                "the kernel needs {n_views} views, and an operand names {MAX_VIEWS}"
            )));
        }
        let total = |kind: BufferKind| -> u64 {
            let of_kind = self.kernel.buffers.iter().filter(|b| b.kind == kind);
            of_kind.map(|b| u64::from(b.slot_bytes).next_multiple_of(64) * u64::from(b.slots)).sum()
        };
        for (kind, limit, what) in
            [(BufferKind::Local, local_bytes, "local memory"), (BufferKind::Bank, bank_bytes, "accumulators")]
        {
            let bytes = total(kind);
            if bytes > limit {
                let of_kind = self.kernel.buffers.iter().filter(|b| b.kind == kind);
                let all: Vec<String> =
                    of_kind.map(|b| format!("{} {} x {}", b.name, b.slot_bytes, b.slots)).collect();
                return Err(Refusal::Limit(format!(
                    "the smallest tile of `{}` needs {bytes} bytes of {what} ({}), and a PE has {limit}",
                    self.kernel.name,
                    all.join(", ")
                )));
            }
        }
        Ok((self.kernel, self.bases))
    }
}

/// A dimension that never clips.
pub fn free(size: u64, stride: i64) -> LocalDim {
    LocalDim { size, stride, clip: None }
}

/// The unit view dimension, for readability at call sites.
pub const UNIT: Dim = Dim::UNIT;
