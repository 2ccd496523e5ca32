//! Structural validity of SE programs.

use super::Faults;
use super::code::check_operand;
use crate::format::ScalarType;
use crate::inst::Action;
use crate::object::Kernel;
use crate::part::Item;
use crate::program::{ACCUMULATORS, MAX_STREAMS, Program, REGISTERS, Reg, SeOp};
use crate::view::{Space, VIEW_DIMS};

pub(super) fn validate_program(program: &Program, kernel: &Kernel, max_trip: u32, faults: &mut Faults) {
    match kernel.views.get(usize::from(program.domain)) {
        None => faults.push(format!("no view v{}", program.domain)),
        Some(view) => {
            faults.check(view.space == Space::Local, || format!("the domain v{} is global", program.domain));
        }
    }
    faults.check(usize::from(program.parallel) <= VIEW_DIMS, || {
        format!("{} parallel dimensions", program.parallel)
    });
    faults.check(program.streams.len() <= MAX_STREAMS, || format!("{} streams", program.streams.len()));
    for (i, stream) in program.streams.iter().enumerate() {
        faults.at(Item::Stream, i);
        check_operand(&stream.operand, &format!("stream s{i}"), kernel, max_trip, faults);
    }
    super::registers::check(program, faults);
    let sections = [
        ("init", Item::Init, &program.init),
        ("body", Item::Body, &program.body),
        ("finish", Item::Finish, &program.finish),
    ];
    for (name, item, ops) in sections {
        for (i, op) in ops.iter().enumerate() {
            faults.at(item, i);
            let mut message = |text: String| faults.push(format!("{name} {i}: {text}"));
            check_op(op, program, &mut message);
        }
    }
}

fn check_op(op: &SeOp, program: &Program, fault: &mut impl FnMut(String)) {
    let mut regs: Vec<Reg> = Vec::new();
    let mut accumulator = None;
    let mut float_lane = None;
    match *op {
        SeOp::Load { dst, lane: _, stream } => {
            regs.push(dst);
            if usize::from(stream) >= program.streams.len() {
                fault(format!("no stream s{stream}"));
            }
        }
        SeOp::Store { stream, lane: _, src } => {
            regs.push(src);
            match program.streams.get(usize::from(stream)).map(|s| s.operand.action) {
                Some(Action::Push | Action::Update) => {}
                Some(Action::Read | Action::Pop) => fault(format!("stream s{stream} is not written")),
                None => fault(format!("no stream s{stream}")),
            }
        }
        SeOp::Const { dst, lane: _, index } => {
            regs.push(dst);
            if usize::from(index) >= program.constants.len() {
                fault(format!("no constant c{index}"));
            }
        }
        SeOp::Coord { dst, dim } => {
            regs.push(dst);
            if usize::from(dim) >= VIEW_DIMS {
                fault(format!("no dimension {dim}"));
            }
        }
        SeOp::Unary { f, lane, dst, a } => {
            regs.extend([dst, a]);
            float_lane = f.is_float_only().then_some(lane);
        }
        SeOp::Binary { f: _, lane: _, dst, a, b } => regs.extend([dst, a, b]),
        SeOp::Fma { lane, dst, a, b, c } => {
            regs.extend([dst, a, b, c]);
            float_lane = Some(lane);
        }
        SeOp::Select { lane: _, dst, c, a, b } => regs.extend([dst, c, a, b]),
        SeOp::Convert { from: _, to: _, dst, a } => regs.extend([dst, a]),
        SeOp::RoundTo { format, saturate: _, lane, dst, a } => {
            regs.extend([dst, a]);
            float_lane = Some(lane);
            if !ScalarType::from_code(format).is_some_and(ScalarType::is_float) {
                fault(format!("{format} is no float format"));
            }
        }
        SeOp::Accumulate { f: _, lane: _, acc, a } => {
            regs.push(a);
            accumulator = Some(acc);
        }
        SeOp::Tree { f: _, lane: _, dst, acc } => {
            regs.push(dst);
            accumulator = Some(acc);
        }
    }
    for Reg(r) in regs {
        if usize::from(r) >= REGISTERS {
            fault(format!("no register r{r}"));
        }
    }
    if let Some(acc) = accumulator.filter(|&acc| usize::from(acc) >= ACCUMULATORS) {
        fault(format!("no accumulator a{acc}"));
    }
    if float_lane.is_some_and(|lane| !lane.is_float()) {
        fault("a float function works on an integer lane".to_owned());
    }
}
