//! The SIMD engine: runs SE programs over their domains, many lanes at a time.
//!
//! Lanes are parallel indices, in strips of [`STRIP`]; the sequence is walked step by step. Where a program's body carries
//! nothing from one step to the next but accumulators, strips may instead lie along the sequence, one parallel index at a
//! time: partials still take their elements in ascending order, so the bits are the same.
//!
//! In `init` and `finish` the sequence's indices are the first that take part. The sequence's logical index, which chooses
//! the partial of an accumulator, counts the steps that take part in row-major order.

mod load_store;
mod ops;
mod strips;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Use};
use lacuna_isa::object::{BufferKind, Kernel};
use lacuna_isa::program::{
    ACCUMULATORS, Lane, MAX_STREAMS, Program, REGISTERS, Reg, RegisterUse, SeOp, SeReduce,
};
use lacuna_isa::view::{Space, VIEW_DIMS};

use crate::local::quantize;
use crate::pe::{Pe, Target};
use crate::plan::check_operand;
use crate::simd::Units;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};
use load_store::{Data, StreamState};
pub(crate) use ops::{Lanes, Step, run as ops_run};
use strips::{Axis, Strip, collapse, for_strips};

/// Lanes that one operation processes at a time.
pub(crate) const STRIP: usize = 256;
/// Address sequences of a program: its streams and the coordinates of its domain.
pub(crate) const ADDRESSES: usize = MAX_STREAMS + VIEW_DIMS;

/// A program with what is known before it runs.
#[derive(Debug)]
pub(crate) struct ProgramPlan {
    /// Whether strips may lie along the sequence.
    sequence_strips: bool,
    /// Registers that the body reads and does not write.
    invariant: Vec<Reg>,
    /// Registers that the body writes.
    body_writes: Vec<Reg>,
    /// Accumulators in use and how they start.
    accumulators: Vec<(u8, SeReduce, Lane)>,
    /// The domain where nothing is clipped.
    whole: Domain,
    /// Dimensions whose coordinates the program reads.
    coords: Vec<usize>,
}

/// Refuses a program that reads what a register held before: lanes keep their bits from one program to the next.
fn defined(program: &Program) -> Result<(), String> {
    let mut known: Vec<(Reg, u32)> = Vec::new();
    for op in program.init.iter().chain(&program.body).chain(&program.finish) {
        let RegisterUse { reads, writes: write } = op.registers();
        if let Some((reg, _)) = reads.iter().find(|(reg, lane)| !known.contains(&(*reg, lane.bits()))) {
            return Err(format!("register r{} is read before it is written", reg.0));
        }
        if let Some((reg, lane)) = write {
            known.retain(|(other, _)| *other != reg);
            known.push((reg, lane.bits()));
        }
    }
    Ok(())
}

/// The registers that an operation reads, and the one that it writes.
fn registers(op: &SeOp) -> (Vec<Reg>, Option<Reg>) {
    match *op {
        SeOp::Load { dst, .. }
        | SeOp::Const { dst, .. }
        | SeOp::Coord { dst, .. }
        | SeOp::Tree { dst, .. } => (vec![], Some(dst)),
        SeOp::Store { src, .. } => (vec![src], None),
        SeOp::Unary { dst, a, .. } | SeOp::Convert { dst, a, .. } | SeOp::RoundTo { dst, a, .. } => {
            (vec![a], Some(dst))
        }
        SeOp::Binary { dst, a, b, .. } => (vec![a, b], Some(dst)),
        SeOp::Fma { dst, a, b, c, .. } | SeOp::Select { dst, a, b, c, .. } => (vec![a, b, c], Some(dst)),
        SeOp::Accumulate { a, .. } => (vec![a], None),
    }
}

impl ProgramPlan {
    /// Checks a program of `kernel`.
    ///
    /// # Errors
    /// A reason, when the program refers to what does not exist or has no meaning.
    pub fn new(kernel: &Kernel, program: &Program) -> Result<ProgramPlan, String> {
        let domain_view = kernel.views.get(usize::from(program.domain));
        if domain_view.is_none_or(|view| view.space != Space::Local) {
            return Err(format!("there is no local view {} for the domain", program.domain));
        }
        if usize::from(program.parallel) > VIEW_DIMS || program.streams.len() > MAX_STREAMS {
            return Err(format!(
                "{} parallel dimensions, {} streams",
                program.parallel,
                program.streams.len()
            ));
        }
        for stream in &program.streams {
            let how = match stream.operand.action {
                Action::Read | Action::Pop => Use::Source,
                Action::Push | Action::Update => Use::Dest,
            };
            check_operand(kernel, &stream.operand, how)?;
        }
        defined(program)?;
        let mut accumulators: Vec<(u8, SeReduce, Lane)> = Vec::new();
        for op in program.init.iter().chain(&program.body).chain(&program.finish) {
            check_op(kernel, program, op)?;
            if let SeOp::Accumulate { f, lane, acc, .. } | SeOp::Tree { f, lane, acc, .. } = *op {
                match accumulators.iter().find(|entry| entry.0 == acc) {
                    None => accumulators.push((acc, f, lane)),
                    Some(&entry) if entry == (acc, f, lane) => {}
                    Some(_) => return Err(format!("accumulator {acc} combines in two ways")),
                }
            }
        }
        let written: Vec<Reg> = program.body.iter().filter_map(|op| registers(op).1).collect();
        let mut defined: Vec<Reg> = Vec::new();
        let mut invariant: Vec<Reg> = Vec::new();
        let mut carries = false;
        for op in &program.body {
            let (reads, write) = registers(op);
            for reg in reads {
                if !written.contains(&reg) {
                    invariant.push(reg);
                } else if !defined.contains(&reg) {
                    carries = true;
                }
            }
            defined.extend(write);
            carries |= matches!(op, SeOp::Tree { .. });
            if let SeOp::Store { stream, .. } = op {
                let buffer = |s: u8| program.streams[usize::from(s)].operand.buffer;
                carries |= program.body.iter().any(|other| {
                    matches!(other, SeOp::Load { stream: loaded, .. } if buffer(*loaded) == buffer(*stream))
                });
            }
        }
        let ops = program.init.iter().chain(&program.body).chain(&program.finish);
        let coords = ops.filter_map(|op| match *op {
            SeOp::Coord { dim, .. } => Some(usize::from(dim)),
            _ => None,
        });
        let coords: Vec<usize> = coords.collect();
        let sizes = kernel.views[usize::from(program.domain)].sizes();
        Ok(ProgramPlan {
            sequence_strips: !carries,
            invariant,
            body_writes: written,
            accumulators,
            whole: domain(kernel, program, &coords, sizes.map(|size| (0, size))),
            coords,
        })
    }
}

fn check_op(kernel: &Kernel, program: &Program, op: &SeOp) -> Result<(), String> {
    let (reads, write) = registers(op);
    if let Some(reg) = reads.into_iter().chain(write).find(|reg| usize::from(reg.0) >= REGISTERS) {
        return Err(format!("there is no register {}", reg.0));
    }
    let format = |stream: u8| {
        let operand = program.streams.get(usize::from(stream)).map(|s| s.operand);
        let operand = operand.ok_or_else(|| format!("there is no stream {stream}"))?;
        Ok::<_, String>((operand, kernel.views[usize::from(operand.view)].format))
    };
    match *op {
        SeOp::Load { lane, stream, .. } => match format(stream)?.1 {
            Format::Scalar(ty) if ty.is_float() && !lane.is_float() => {
                Err(format!("stream {stream} of {ty} loads into {lane:?} lanes"))
            }
            Format::Grouped(ty) if !lane.is_float() => {
                Err(format!("stream {stream} of {ty} loads into {lane:?} lanes"))
            }
            Format::Scalar(_) | Format::Grouped(_) => Ok(()),
        },
        SeOp::Store { stream, .. } => {
            let (operand, _) = format(stream)?;
            let pattern = kernel.views[usize::from(operand.view)].pattern;
            if matches!(operand.action, Action::Read | Action::Pop) || pattern.is_some() {
                return Err(format!("stream {stream} cannot be stored to"));
            }
            Ok(())
        }
        SeOp::Const { index, .. } if usize::from(index) >= program.constants.len() => {
            Err(format!("there is no constant {index}"))
        }
        SeOp::Coord { dim, .. } if usize::from(dim) >= VIEW_DIMS => {
            Err(format!("there is no dimension {dim}"))
        }
        SeOp::Unary { f, lane, .. } if !lane.is_float() && f.is_float_only() => {
            Err(format!("{f:?} has no {lane:?} lanes"))
        }
        SeOp::Fma { lane, .. } if !lane.is_float() => Err("fma of integers".into()),
        SeOp::RoundTo { format, lane, .. } => match ScalarType::from_code(format) {
            Some(_) if lane.is_float() => Ok(()),
            Some(_) | None => Err(format!("rounding {lane:?} lanes to format {format}")),
        },
        SeOp::Accumulate { acc, .. } | SeOp::Tree { acc, .. } if usize::from(acc) >= ACCUMULATORS => {
            Err(format!("there is no accumulator {acc}"))
        }
        SeOp::Const { .. }
        | SeOp::Coord { .. }
        | SeOp::Unary { .. }
        | SeOp::Binary { .. }
        | SeOp::Fma { .. }
        | SeOp::Select { .. }
        | SeOp::Convert { .. }
        | SeOp::Accumulate { .. }
        | SeOp::Tree { .. } => Ok(()),
    }
}

/// A bound operand.
enum Bound<'m> {
    Source(Slot<'m>),
    Target(Target),
}

impl Bound<'_> {
    fn layout(&self) -> Layout {
        match self {
            Bound::Source(slot) => slot.layout,
            Bound::Target(target) => target.layout,
        }
    }
}

/// The domain of a run, resolved to addresses; those of coordinates count from the first of each dimension.
#[derive(Debug)]
struct Domain {
    parallel: Vec<Axis>,
    sequence: Vec<Axis>,
    base: [i64; ADDRESSES],
    /// Least and greatest element of each stream.
    reach: Vec<(i64, i64)>,
}

impl Pe<'_> {
    /// `run`.
    pub fn run_program(&mut self, number: usize) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let program = &kernel.programs[number];
        let plan = &self.plan.programs[number];
        let mut bound = Vec::with_capacity(program.streams.len());
        for stream in &program.streams {
            let operand = stream.operand;
            bound.push(match operand.action {
                Action::Read | Action::Pop => Bound::Source(self.source(operand)?),
                Action::Push | Action::Update => {
                    let layout = Layout::of(&kernel.views[usize::from(operand.view)]);
                    Bound::Target(self.target(operand, layout)?)
                }
            });
        }
        let domain_view = &kernel.views[usize::from(program.domain)];
        let ranges = domain_view.clip(&self.at);
        if ranges.iter().all(|r| r.1 > 0) {
            let own;
            let domain = if ranges == domain_view.sizes().map(|size| (0, size)) {
                &plan.whole
            } else {
                own = domain(kernel, program, &plan.coords, ranges);
                &own
            };
            for (number, (&(low, high), bound)) in domain.reach.iter().zip(&bound).enumerate() {
                let elements = bound.layout().elements;
                if low < 0 || high as u64 >= elements {
                    let message =
                        format!("stream {number} reaches elements {low} to {high} of a slot of {elements}");
                    return Err(Fault::new(TrapKind::OutOfBounds, message));
                }
            }
            let mut base = domain.base;
            if !plan.coords.is_empty() {
                let coords = domain_view.base_coords(&self.at);
                plan.coords.iter().for_each(|&d| base[MAX_STREAMS + d] = coords[d] + i64::from(ranges[d].0));
            }
            let mut streams = Vec::with_capacity(bound.len());
            for (stream, bound) in program.streams.iter().zip(&mut bound) {
                let bank = kernel.buffers[usize::from(stream.operand.buffer)].kind == BufferKind::Bank;
                let layout = bound.layout();
                let data = match bound {
                    Bound::Source(slot) => Data::Read(slot.planes()),
                    Bound::Target(target) => {
                        let fresh = stream.operand.action == Action::Push;
                        Data::write(target.bytes.get_mut(), &layout, fresh)
                    }
                };
                streams.push(StreamState { layout, bank, data });
            }
            let lanes = self.space.lanes.get_or_insert_default();
            execute(program, plan, (domain, &base), &mut streams, lanes);
            for (stream, state) in program.streams.iter().zip(streams) {
                if let (Data::Groups { values, touched, bytes }, Format::Grouped(format)) =
                    (state.data, state.layout.map.format)
                {
                    quantize(&values, format, &state.layout, stream.mode, Some(&touched), bytes);
                }
            }
        }
        for (stream, bound) in program.streams.iter().zip(bound) {
            match bound {
                Bound::Source(slot) => self.space.pool.recycle(slot),
                Bound::Target(target) => self.publish(stream.operand, target),
            }
        }
        Ok(())
    }
}

fn domain(kernel: &Kernel, program: &Program, coords: &[usize], ranges: [(u32, u32); VIEW_DIMS]) -> Domain {
    let mut axes: Vec<Axis> = ranges.iter().map(|r| Axis { count: r.1, strides: [0; ADDRESSES] }).collect();
    let mut base = [0i64; ADDRESSES];
    let mut reach = Vec::with_capacity(program.streams.len());
    for (number, stream) in program.streams.iter().enumerate() {
        let view = &kernel.views[usize::from(stream.operand.view)];
        let (mut low, mut high) = (view.offset, view.offset);
        base[number] = view.offset;
        for d in 0..VIEW_DIMS {
            // A stream with one index in a dimension repeats along it.
            let stride = if view.dims[d].size == 1 { 0 } else { i64::from(view.dims[d].stride) };
            axes[d].strides[number] = stride;
            let first = stride * i64::from(ranges[d].0);
            base[number] += first;
            let last = stride * (i64::from(ranges[d].0) + i64::from(ranges[d].1) - 1);
            low += first.min(last);
            high += first.max(last);
        }
        reach.push((low, high));
    }
    coords.iter().for_each(|&d| axes[d].strides[MAX_STREAMS + d] = 1);
    let sequence = axes.split_off(usize::from(program.parallel));
    Domain { parallel: collapse(axes), sequence: collapse(sequence), base, reach }
}

fn total(axes: &[Axis]) -> u64 {
    axes.iter().map(|axis| u64::from(axis.count)).product()
}

fn execute(
    program: &Program,
    plan: &ProgramPlan,
    (domain, base): (&Domain, &[i64; ADDRESSES]),
    streams: &mut [StreamState<'_>],
    lanes: &mut Lanes,
) {
    const LONG_SEQUENCE: u64 = 32;
    const WIDE: u32 = 32;
    let contiguous = domain.parallel.last().is_some_and(|axis| {
        axis.count >= WIDE && axis.strides[..streams.len()].iter().all(|&s| s == 0 || s == 1)
    });
    let steps = total(&domain.sequence);
    lanes.prepare(&plan.accumulators);
    let mut engine = Engine { program, streams, lanes, units: Units::best() };
    if plan.sequence_strips && steps >= LONG_SEQUENCE && !contiguous {
        for_strips(&domain.parallel, base, 1, &mut |strip, _| {
            let one = Strip::single(strip.base);
            engine.lanes.reset_accumulators(&plan.accumulators, 1);
            engine.all(&program.init, &one, 0, false);
            for_strips(&domain.sequence, &strip.base, STRIP, &mut |strip, start| {
                if start == 0 {
                    engine.lanes.broadcast(&plan.invariant, 0, STRIP.min(steps as usize));
                }
                engine.all(&program.body, strip, start, true);
                if start + strip.n as u64 == steps {
                    engine.lanes.broadcast(&plan.body_writes, strip.n - 1, 1);
                }
            });
            engine.all(&program.finish, &one, 0, false);
        });
        return;
    }
    if domain.sequence.is_empty() {
        for_strips(&domain.parallel, base, STRIP, &mut |strip, _| {
            engine.lanes.reset_accumulators(&plan.accumulators, strip.n);
            engine.all(&program.init, strip, 0, false);
            engine.all(&program.body, strip, 0, false);
            engine.all(&program.finish, strip, 0, false);
        });
        return;
    }
    for_strips(&domain.parallel, base, STRIP, &mut |strip, _| {
        engine.lanes.reset_accumulators(&plan.accumulators, strip.n);
        engine.all(&program.init, strip, 0, false);
        let mut step = strip.clone();
        for_strips(&domain.sequence, &[0; ADDRESSES], 1, &mut |at, index| {
            for (here, (&base, &offset)) in step.base.iter_mut().zip(strip.base.iter().zip(&at.base)) {
                *here = base + offset;
            }
            engine.all(&program.body, &step, index, false);
        });
        engine.all(&program.finish, strip, 0, false);
    });
}

/// Runs operations on strips.
struct Engine<'a, 'b> {
    program: &'a Program,
    streams: &'a mut [StreamState<'b>],
    lanes: &'a mut Lanes,
    units: Units,
}

impl Engine<'_, '_> {
    /// Runs operations on a strip. `index` is the sequence's index, of lane 0 where `along_sequence`.
    fn all(&mut self, ops: &[SeOp], strip: &Strip, index: u64, along_sequence: bool) {
        for op in ops {
            match *op {
                SeOp::Load { dst, lane, stream } => {
                    let stream = usize::from(stream);
                    load_store::load(&self.streams[stream], lane, strip, stream, self.lanes, dst);
                }
                SeOp::Store { stream, lane, src } => {
                    let stream = usize::from(stream);
                    load_store::store(&mut self.streams[stream], lane, strip, stream, self.lanes, src);
                }
                SeOp::Coord { dst, dim } => {
                    let number = MAX_STREAMS + usize::from(dim);
                    let out = self.lanes.reg32_mut(dst);
                    for (i, lane) in out[..strip.n].iter_mut().enumerate() {
                        *lane = strip.address(number, i) as u32;
                    }
                }
                SeOp::Const { .. }
                | SeOp::Unary { .. }
                | SeOp::Binary { .. }
                | SeOp::Fma { .. }
                | SeOp::Select { .. }
                | SeOp::Convert { .. }
                | SeOp::RoundTo { .. }
                | SeOp::Accumulate { .. }
                | SeOp::Tree { .. } => {
                    let step = Step { n: strip.n, index, along_sequence };
                    self.units.run_op(op, &self.program.constants, self.lanes, step);
                }
            }
        }
    }
}
