//! What is known of an SE program before it runs.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Use};
use lacuna_isa::object::Kernel;
use lacuna_isa::program::{
    ACCUMULATORS, Lane, MAX_STREAMS, Program, REGISTERS, Reg, RegisterUse, SeOp, SeReduce,
};
use lacuna_isa::view::{Space, VIEW_DIMS};

use super::strips::{ADDRESSES, Axis, collapse};
use crate::illegal::Illegal;
use crate::plan::check_operand;

/// A program with what is known before it runs.
#[derive(Debug)]
pub(crate) struct ProgramPlan {
    /// Whether strips may lie along the sequence.
    pub(super) sequence_strips: bool,
    /// Registers that the body reads and does not write.
    pub(super) invariant: Vec<Reg>,
    /// Registers that the body writes.
    pub(super) body_writes: Vec<Reg>,
    /// Accumulators in use and how they start.
    pub(super) accumulators: Vec<(u8, SeReduce, Lane)>,
    /// The domain where nothing is clipped.
    pub(super) whole: Domain,
    /// Dimensions whose coordinates the program reads.
    pub(super) coords: Vec<usize>,
}

/// Refuses a program that reads what a register held before: lanes keep their bits from one program to the next.
fn defined(program: &Program) -> Result<(), Illegal> {
    let mut known: Vec<(Reg, u32)> = Vec::new();
    for op in program.init.iter().chain(&program.body).chain(&program.finish) {
        let RegisterUse { reads, writes: write } = op.registers();
        if let Some((reg, _)) = reads.iter().find(|(reg, lane)| !known.contains(&(*reg, lane.bits()))) {
            return Err(Illegal::Control(format!("register r{} is read before it is written", reg.0)));
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
    pub fn new(kernel: &Kernel, program: &Program) -> Result<ProgramPlan, Illegal> {
        let domain_view = kernel.views.get(usize::from(program.domain));
        if domain_view.is_none_or(|view| view.space != Space::Local) {
            return Err(Illegal::Missing(format!(
                "there is no local view {} for the domain",
                program.domain
            )));
        }
        if usize::from(program.parallel) > VIEW_DIMS || program.streams.len() > MAX_STREAMS {
            return Err(Illegal::Limit(format!(
                "{} parallel dimensions, {} streams",
                program.parallel,
                program.streams.len()
            )));
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
                    Some(_) => {
                        return Err(Illegal::Control(format!("accumulator {acc} combines in two ways")));
                    }
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

fn check_op(kernel: &Kernel, program: &Program, op: &SeOp) -> Result<(), Illegal> {
    let (reads, write) = registers(op);
    if let Some(reg) = reads.into_iter().chain(write).find(|reg| usize::from(reg.0) >= REGISTERS) {
        return Err(Illegal::Missing(format!("there is no register {}", reg.0)));
    }
    let format = |stream: u8| {
        let operand = program.streams.get(usize::from(stream)).map(|s| s.operand);
        let operand = operand.ok_or_else(|| Illegal::Missing(format!("there is no stream {stream}")))?;
        Ok::<_, Illegal>((operand, kernel.views[usize::from(operand.view)].format))
    };
    match *op {
        SeOp::Load { lane, stream, .. } => match format(stream)?.1 {
            Format::Scalar(ty) if ty.is_float() && !lane.is_float() => {
                Err(Illegal::Format(format!("stream {stream} of {ty} loads into {lane:?} lanes")))
            }
            Format::Grouped(ty) if !lane.is_float() => {
                Err(Illegal::Format(format!("stream {stream} of {ty} loads into {lane:?} lanes")))
            }
            Format::Scalar(_) | Format::Grouped(_) => Ok(()),
        },
        SeOp::Store { stream, .. } => {
            let (operand, _) = format(stream)?;
            let pattern = kernel.views[usize::from(operand.view)].pattern;
            if matches!(operand.action, Action::Read | Action::Pop) || pattern.is_some() {
                return Err(Illegal::Operand(format!("stream {stream} cannot be stored to")));
            }
            Ok(())
        }
        SeOp::Const { index, .. } if usize::from(index) >= program.constants.len() => {
            Err(Illegal::Missing(format!("there is no constant {index}")))
        }
        SeOp::Coord { dim, .. } if usize::from(dim) >= VIEW_DIMS => {
            Err(Illegal::Missing(format!("there is no dimension {dim}")))
        }
        SeOp::Unary { f, lane, .. } if !lane.is_float() && f.is_float_only() => {
            Err(Illegal::Format(format!("{f:?} has no {lane:?} lanes")))
        }
        SeOp::Fma { lane, .. } if !lane.is_float() => Err(Illegal::Format("fma of integers".into())),
        SeOp::RoundTo { format, lane, .. } => match ScalarType::from_code(format) {
            Some(_) if lane.is_float() => Ok(()),
            Some(_) | None => Err(Illegal::Format(format!("rounding {lane:?} lanes to format {format}"))),
        },
        SeOp::Accumulate { acc, .. } | SeOp::Tree { acc, .. } if usize::from(acc) >= ACCUMULATORS => {
            Err(Illegal::Missing(format!("there is no accumulator {acc}")))
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

/// The domain of a run, resolved to addresses; those of coordinates count from the first of each dimension.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) parallel: Vec<Axis>,
    pub(super) sequence: Vec<Axis>,
    pub(super) base: [i64; ADDRESSES],
    /// Least and greatest element of each stream.
    pub(super) reach: Vec<(i64, i64)>,
}

pub(super) fn domain(
    kernel: &Kernel,
    program: &Program,
    coords: &[usize],
    ranges: [(u32, u32); VIEW_DIMS],
) -> Domain {
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
