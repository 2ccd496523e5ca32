//! Structural validity of an object: what the interpreter relies on without checking again.
//!
//! A valid object never makes the interpreter index a table out of range, overflow a coordinate or leave a slot:
//!
//! 1. Every number of a kernel, launch, tensor, buffer, view, trip, program, constant, stream, origin or dimension exists.
//! 2. Grids have at least one PE and fit the target, where [`target`](crate::target_file::target) knows it; so do local memory
//!    and accumulators.
//! 3. Views: dimensions below five, patterns of at most 16, coordinates and element numbers far below 2^63.
//! 4. Streams end in their one `halt`; loops nest, use different levels, end, and have 1 to 4 stages; an instruction's
//!    stage is below the stages of its innermost loop. Kernel streams launch nothing, entry streams do nothing else.
//! 5. Operands: buffers of the right kind, deltas below the slots (0 for push and pop), the whole box of a local view
//!    inside its slot, bank views f32. Loads read no `out` tensor, stores write no `in` tensor; scattered tensors are
//!    `inout`, compressed ones `in`.
//! 6. SE programs: registers, accumulators and streams in range; only pushed or updated streams are stored to; float
//!    functions work on float lanes; registers are read only after they were written, in a lane of the same width.
//! 7. Parameters: at most 16, with a range; `ldp` stands outside loops, and what depends on its parameter comes after it.
//! 8. Launches: one base for each tensor, one value in its range for each parameter, tensors inside their memories, nothing
//!    written to the weights, compressed tensors in them. Ports lie in HBM.
//! 9. States lie in HBM, apart from each other and from ports.
//! 10. Transfers: whole-byte elements inside their memories, source and destination apart.
//!
//! Not structural, and left to codegen's checker and the interpreter's traps: balance of buffers, races, and accesses to
//! tensors beyond their bytes.

mod code;
mod params;
mod program;
mod registers;
mod transfers;

use crate::format::ScalarType;
use crate::inst::InstKind;
use crate::object::{Access, Address, BufferKind, EntryPoint, Kernel, MemSpace, Object, Port, Trip};
use crate::part::{Flaw, Item, Part};
use crate::target::Target;
use crate::view::{Pattern, Space, VIEW_DIMS, View};

/// Most messages that a validation collects.
const MAX_FAULTS: usize = 100;
/// Coordinates, element numbers and trip counts stay below this, so that sums of a few never overflow.
const REACH_LIMIT: i128 = 1 << 60;
/// Most elements of a view's box.
const MAX_VIEW_ELEMENTS: u128 = 1 << 40;
/// Most PEs of a grid where the target is not known.
const MAX_PES: u64 = 1 << 16;
/// Most local memory or accumulator bytes of a PE where the target is not known.
const MAX_LOCAL_BYTES: u64 = 1 << 30;

/// Collects messages, each with its place.
pub(crate) struct Faults {
    list: Vec<Flaw>,
    /// The place in words.
    place: String,
    /// The table or stream that the place is.
    whole: Part,
    /// The statement in it, where the messages at hand are about one.
    item: Option<(Item, usize)>,
}

impl Faults {
    fn push(&mut self, message: impl AsRef<str>) {
        if self.list.len() < MAX_FAULTS {
            let part = self.item.map_or(self.whole, |(item, number)| self.whole.within(item, number));
            self.list.push(Flaw { part, text: format!("{}: {}", self.place, message.as_ref()) });
        }
    }

    /// Says which item of the place the messages that follow are about.
    fn at(&mut self, item: Item, number: usize) {
        self.item = Some((item, number));
    }

    /// Says that the messages that follow are about the place as a whole.
    fn at_whole(&mut self) {
        self.item = None;
    }

    /// Begins a place.
    fn begin(&mut self, whole: Part, place: String) {
        (self.whole, self.item, self.place) = (whole, None, place);
    }

    fn check(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.push(message());
        }
    }
}

impl Object {
    /// Every structural fault, each with its place in words; empty for a valid object. At most 100.
    pub fn validate(&self) -> Vec<String> {
        self.flaws().into_iter().map(|flaw| flaw.text).collect()
    }

    /// Every structural fault, each with the part that it is about; empty for a valid object. At most 100.
    pub fn flaws(&self) -> Vec<Flaw> {
        let (place, whole) = ("object".to_owned(), Part::default());
        let mut faults = Faults { list: Vec::new(), place, whole, item: None };
        let target = self.target_figures().unwrap_or_else(|fault| {
            faults.at(Item::Figures, 0);
            faults.push(fault.to_string());
            faults.at_whole();
            None
        });
        if let Some(target) = &target {
            faults.check(self.hbm_bytes <= target.hbm_bytes, || {
                format!("{} bytes of HBM, {} has {}", self.hbm_bytes, target.name, target.hbm_bytes)
            });
            faults.check(self.sram_bytes <= target.sram_bytes, || {
                format!("{} bytes of shared SRAM, {} has {}", self.sram_bytes, target.name, target.sram_bytes)
            });
        }
        self.validate_states(&mut faults);
        for (i, kernel) in self.kernels.iter().enumerate() {
            faults.begin(whole.within(Item::Kernel, i), format!("kernel {i} `{}`", kernel.name));
            validate_kernel(kernel, target.as_ref(), &mut faults);
        }
        for (i, entry) in self.entries.iter().enumerate() {
            faults.begin(whole.within(Item::Entry, i), format!("entry {i} `{}`", entry.name));
            let repeated = self.entries[..i].iter().any(|e| e.name == entry.name);
            faults.check(!repeated, || "another entry has this name".to_owned());
            self.validate_entry(entry, &mut faults);
        }
        faults.list
    }

    fn memory_bytes(&self, space: MemSpace) -> u64 {
        match space {
            MemSpace::Weights => self.weights.bytes().len() as u64,
            MemSpace::Hbm => self.hbm_bytes,
            MemSpace::Sram => self.sram_bytes,
        }
    }

    /// Whether `bytes` at `address` lie in the address's memory.
    fn holds(&self, address: Address, bytes: u64) -> bool {
        address.offset.checked_add(bytes).is_some_and(|end| end <= self.memory_bytes(address.space))
    }

    /// States lie in HBM, apart from each other and from all ports.
    fn validate_states(&self, faults: &mut Faults) {
        let ports: Vec<&Port> =
            self.entries.iter().flat_map(|entry| entry.inputs.iter().chain(&entry.outputs)).collect();
        for (i, state) in self.states.iter().enumerate() {
            faults.begin(Part::default().within(Item::State, i), format!("state {i} `{}`", state.name));
            let bytes = state.bytes().filter(|&bytes| self.holds(state.address, bytes));
            let in_hbm = state.address.space == MemSpace::Hbm && bytes.is_some();
            faults.check(in_hbm, || "it does not lie in HBM".to_owned());
            let before = &self.states[..i];
            let repeated = before.iter().any(|other| other.name == state.name);
            faults.check(!repeated, || "another state has this name".to_owned());
            let (at, bytes) = (state.address.offset, bytes.unwrap_or(0));
            for other in before.iter().chain(ports.iter().copied()) {
                let (from, length) = (other.address.offset, other.bytes().unwrap_or(0));
                let apart = at.saturating_add(bytes) <= from || from.saturating_add(length) <= at;
                faults.check(apart, || format!("it shares bytes with `{}`", other.name));
            }
        }
    }

    fn validate_entry(&self, entry: &EntryPoint, faults: &mut Faults) {
        let place = faults.place.clone();
        let inputs = entry.inputs.iter().enumerate().map(|(i, port)| (Item::Input, i, port));
        let outputs = entry.outputs.iter().enumerate().map(|(i, port)| (Item::Output, i, port));
        for (item, i, port) in inputs.chain(outputs) {
            faults.at(item, i);
            faults
                .check(port.address.space == MemSpace::Hbm, || format!("port `{}` is not in HBM", port.name));
            let fits = port.bytes().is_some_and(|bytes| self.holds(port.address, bytes));
            faults.check(fits, || format!("port `{}` leaves its memory", port.name));
        }
        for (i, launch) in entry.launches.iter().enumerate() {
            faults.at(Item::Launch, i);
            faults.place = format!("{place}, launch {i}");
            for &origin in &launch.origins {
                faults.check((origin as usize) < self.origins.len(), || format!("no origin {origin}"));
            }
            let Some(kernel) = self.kernels.get(launch.kernel as usize) else {
                faults.push(format!("no kernel {}", launch.kernel));
                continue;
            };
            if launch.bases.len() != kernel.tensors.len() {
                faults.push(format!(
                    "{} bases for {} tensors of `{}`",
                    launch.bases.len(),
                    kernel.tensors.len(),
                    kernel.name
                ));
            }
            params::validate_values(&launch.params, kernel, faults);
            let compressed = compressed_tensors(kernel);
            for (r, (&base, tensor)) in launch.bases.iter().zip(&kernel.tensors).enumerate() {
                let constant = base.space == MemSpace::Weights || !compressed.contains(&r);
                faults.check(constant, || format!("tensor r{r} is compressed, but not in the weights"));
                faults.check(self.holds(base, tensor.bytes), || format!("tensor r{r} leaves its memory"));
                let writes = match tensor.access {
                    Access::In => false,
                    Access::Out | Access::InOut => true,
                };
                faults.check(!(writes && base.space == MemSpace::Weights), || {
                    format!("tensor r{r} is written, but lies in the weights")
                });
            }
        }
        faults.place = place;
        faults.at_whole();
        transfers::validate_transfers(self, entry, faults);
        code::validate_entry_code(entry, faults);
    }
}

/// Base registers that `ldx` reads.
fn compressed_tensors(kernel: &Kernel) -> Vec<usize> {
    let register = |view: u16| match kernel.views.get(usize::from(view))?.space {
        Space::Global(register) => Some(usize::from(register)),
        Space::Local => None,
    };
    let views = kernel.code.iter().filter_map(|inst| match inst.kind {
        InstKind::Ldx { src, .. } => Some(src),
        _ => None,
    });
    views.filter_map(register).collect()
}

fn validate_kernel(kernel: &Kernel, target: Option<&Target>, faults: &mut Faults) {
    let [r0, r1, c0, c1] = kernel.grid.map(u64::from);
    let n_pes = u128::from(r0 * r1) * u128::from(c0 * c1);
    faults.check(n_pes >= 1, || "the grid has no PE".to_owned());
    faults.check(n_pes <= u128::from(MAX_PES), || format!("the grid has {n_pes} PEs"));
    let (mut local_limit, mut bank_limit) = (MAX_LOCAL_BYTES, MAX_LOCAL_BYTES);
    if let Some(target) = target {
        (local_limit, bank_limit) = (target.local_bytes, target.bank_bytes);
        let fits = r0 * r1 <= u64::from(target.rows) && c0 * c1 <= u64::from(target.cols);
        faults.check(fits, || {
            format!("grid {r0}x{r1}x{c0}x{c1} on {} rows and {} columns", target.rows, target.cols)
        });
    }
    params::validate_params(kernel, faults);
    faults.check(kernel.tensors.len() <= 256, || format!("{} tensors", kernel.tensors.len()));
    for (r, tensor) in kernel.tensors.iter().enumerate() {
        faults.at(Item::Tensor, r);
        faults.check(tensor.planes.iter().all(|&p| p <= tensor.bytes), || {
            format!("a plane of tensor r{r} starts beyond its {} bytes", tensor.bytes)
        });
    }
    faults.at_whole();
    faults.check(kernel.buffers.len() <= 64, || format!("{} buffers", kernel.buffers.len()));
    let (mut local_bytes, mut bank_bytes) = (0u64, 0u64);
    for (i, buffer) in kernel.buffers.iter().enumerate() {
        faults.at(Item::Buffer, i);
        faults.check((1..=16).contains(&buffer.slots), || format!("buffer b{i} has {} slots", buffer.slots));
        let bytes = u64::from(buffer.slots) * u64::from(buffer.slot_bytes);
        match buffer.kind {
            BufferKind::Local => local_bytes = local_bytes.saturating_add(bytes),
            BufferKind::Bank => bank_bytes = bank_bytes.saturating_add(bytes),
        }
    }
    faults.at_whole();
    faults.check(local_bytes <= local_limit, || {
        format!("buffers of {local_bytes} bytes in {local_limit} bytes of local memory")
    });
    faults.check(bank_bytes <= bank_limit, || {
        format!("banks of {bank_bytes} bytes in {bank_limit} accumulator bytes")
    });

    let max_trip = kernel.trips.iter().map(|t| t.max).max().unwrap_or(0);
    for (i, trip) in kernel.trips.iter().enumerate() {
        faults.at(Item::Trip, i);
        faults.check(trip_reach(trip, max_trip, kernel) < REACH_LIMIT, || format!("trip t{i} overflows"));
    }
    faults.at_whole();
    faults.check(kernel.views.len() <= 4096, || format!("{} views", kernel.views.len()));
    for (i, view) in kernel.views.iter().enumerate() {
        faults.at(Item::View, i);
        validate_view(i, view, kernel, max_trip, faults);
    }
    let (place, whole) = (faults.place.clone(), faults.whole);
    for (i, program) in kernel.programs.iter().enumerate() {
        faults.begin(whole.within(Item::Program, i), format!("{place}, program p{i} `{}`", program.name));
        program::validate_program(program, kernel, max_trip, faults);
    }
    faults.begin(whole, place);
    code::validate_kernel_code(kernel, max_trip, faults);
}

fn trip_reach(trip: &Trip, max_trip: u32, kernel: &Kernel) -> i128 {
    let levels: i128 = trip.levels.iter().map(|f| i128::from(f.unsigned_abs()) * i128::from(max_trip)).sum();
    let coords: i128 =
        trip.coords.iter().zip(kernel.grid).map(|(f, n)| i128::from(f.unsigned_abs()) * i128::from(n)).sum();
    let param = trip.param.map_or(0, |term| {
        let (lo, hi) = params::reach(kernel, term.param, term.factor);
        lo.abs().max(hi.abs())
    });
    i128::from(trip.base.unsigned_abs()) + levels + coords + param
}

/// Least and greatest coordinate of index 0 of each dimension, over all counters, PEs and values of parameters.
fn base_range(view: &View, max_trip: u32, kernel: &Kernel) -> [(i128, i128); VIEW_DIMS] {
    let mut range = view.dims.map(|d| (i128::from(d.origin), i128::from(d.origin)));
    let levels = view.levels.iter().map(|a| (a, max_trip));
    let coords = view.coords.iter().zip(kernel.grid).map(|(a, n)| (a, u32::from(n)));
    for (advance, n) in levels.chain(coords) {
        let Some(advance) = advance else { continue };
        let Some((low, high)) = range.get_mut(usize::from(advance.dim)) else { continue };
        let reach = i128::from(advance.step) * i128::from(n.saturating_sub(1));
        *low += reach.min(0);
        *high += reach.max(0);
    }
    if let Some(shift) = view.shift
        && let Some((low, high)) = range.get_mut(usize::from(shift.dim))
    {
        let (least, most) = params::reach(kernel, shift.param, shift.origin);
        *low += least;
        *high += most;
    }
    range
}

/// The greatest bound of a dimension, over all values of parameters.
fn greatest_bound(view: &View, d: usize, kernel: &Kernel) -> i128 {
    let moved = view.shift.filter(|shift| usize::from(shift.dim) == d);
    let most = moved.map_or(0, |shift| params::reach(kernel, shift.param, shift.bound).1);
    i128::from(view.dims[d].bound) + most
}

fn validate_view(i: usize, view: &View, kernel: &Kernel, max_trip: u32, faults: &mut Faults) {
    faults.check(usize::from(view.k_dim) < VIEW_DIMS, || format!("view v{i} has k dimension {}", view.k_dim));
    if let Some(Pattern { n, m }) = view.pattern {
        faults.check(1 <= n && n <= m && m <= 16, || format!("view v{i} has pattern {n}:{m}"));
    }
    if let Space::Global(base) = view.space {
        faults.check(usize::from(base) < kernel.tensors.len(), || format!("view v{i}: no tensor r{base}"));
    }
    for advance in view.levels.iter().chain(&view.coords).flatten() {
        faults.check(usize::from(advance.dim) < VIEW_DIMS, || {
            format!("view v{i} advances dimension {}", advance.dim)
        });
    }
    if let Some(shift) = view.shift {
        let known = usize::from(shift.dim) < VIEW_DIMS && usize::from(shift.param) < kernel.params.len();
        faults
            .check(known, || format!("view v{i}: parameter q{} moves dimension {}", shift.param, shift.dim));
    }
    let elements: Option<u128> = view.dims.iter().try_fold(1u128, |n, d| n.checked_mul(u128::from(d.size)));
    faults.check(elements.is_some_and(|n| n <= MAX_VIEW_ELEMENTS), || {
        format!("view v{i} has too many elements")
    });
    let mut reach = i128::from(view.offset.unsigned_abs());
    for (dim, (low, high)) in view.dims.iter().zip(base_range(view, max_trip, kernel)) {
        let coords = low.abs().max(high.abs()) + i128::from(dim.size);
        reach += coords * i128::from(dim.stride.unsigned_abs()).max(1);
    }
    faults.check(reach < REACH_LIMIT, || format!("view v{i} overflows"));
    let k_stride = view.dims.get(usize::from(view.k_dim)).map_or(0, |d| d.stride);
    faults.check(k_stride >= 0 || (view.pattern.is_none() && view.format.group_size() == 1), || {
        format!("view v{i} runs backwards along its groups")
    });
}

/// Bytes of the code plane from a slot's start that the local `view` reaches, negative elements apart; `None` when an
/// element lies before the slot. Clipping that holds for all counters and PEs is taken into account.
fn local_reach(view: &View, kernel: &Kernel, max_trip: u32) -> Option<u64> {
    let (mut low, mut high) = (i128::from(view.offset), i128::from(view.offset));
    let bases = base_range(view, max_trip, kernel);
    for (d, (dim, (base, _))) in view.dims.iter().zip(bases).enumerate() {
        let n = i128::from(dim.size).min(greatest_bound(view, d, kernel) - base);
        if n <= 0 {
            return Some(0);
        }
        let reach = (n - 1) * i128::from(dim.stride);
        low += reach.min(0);
        high += reach.max(0);
    }
    if low < 0 || high >= REACH_LIMIT {
        return None;
    }
    let stored = match view.pattern {
        // The pattern group that holds the last element is stored whole.
        Some(p) if p.m > 0 => view.planes().stored_idx(high as u64),
        _ => high as u64,
    };
    let element: ScalarType = view.format.element();
    Some(element.bytes_for(stored.saturating_add(1).min(1 << 56)))
}
