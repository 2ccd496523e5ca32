//! The SIMD engine: runs SE programs over their domains, many lanes at a time.
//!
//! Lanes are parallel indices, in strips of `STRIP`; the sequence is walked step by step. Where a program's body carries
//! nothing from one step to the next but accumulators, strips may instead lie along the sequence, one parallel index at a
//! time: partials still take their elements in ascending order, so the bits are the same.
//!
//! In `init` and `finish` the sequence's indices are the first that take part. The sequence's logical index, which chooses
//! the partial of an accumulator, counts the steps that take part in row-major order.

mod load_store;
mod ops;
mod plan;
mod strips;

use lacuna_isa::format::Format;
use lacuna_isa::inst::Action;
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{MAX_STREAMS, Program, SeOp};

use crate::local::quantize;
use crate::pe::{Pe, Target};
use crate::simd::Units;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};
use load_store::{Data, StreamState};
pub(crate) use ops::{Lanes, Step, run as ops_run};
pub(crate) use plan::ProgramPlan;
use plan::{Domain, domain};
use strips::{ADDRESSES, Axis, STRIP, Strip, for_strips};

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
