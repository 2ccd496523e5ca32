//! Collectives between ranks against what they mean.

mod common;

use common::{bytes, floats, noise};
use lacuna_isa::asm::assemble;
use lacuna_isa::object::Object;
use lacuna_runtime::{InputError, Machine, Outcome, RunOptions, TrapKind};

/// An entry of one input, at 0, and one output, at 512, of every rank.
fn object(ranks: usize, n_in: usize, n_out: usize, transfers: &str, code: &str) -> Object {
    let text = format!(
        "object \"ranks\" target \"mtia-300\" hbm 4096 sram 0\n\
         entry e0 \"main\" {{\nranks {ranks}\n\
         input \"x\" f32 ({n_in}) hbm:0\noutput \"y\" f32 ({n_out}) hbm:512\n\
         {transfers}\ncode:\n{code}\nhalt\n}}\nweights 0 {{\n}}\n"
    );
    let object = assemble(&text)
        .unwrap_or_else(|e| panic!("{}", e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")));
    assert_eq!(object.validate(), Vec::<String>::new());
    assert_eq!(assemble(&lacuna_isa::disasm::disassemble(&object)), Ok(object.clone()));
    object
}

fn run(object: &Object, inputs: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, TrapKind> {
    let machine = Machine::load(object).expect("a machine");
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|x| bytes(x)).collect();
    let ports: Vec<[&[u8]; 1]> = inputs.iter().map(|x| [x.as_slice()]).collect();
    let ranks: Vec<&[&[u8]]> = ports.iter().map(|ports| ports.as_slice()).collect();
    let outcomes = machine.run_ranks(&ranks, &RunOptions::default()).expect("inputs that fit");
    let result = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Done { outputs, .. } => Ok(floats(&outputs[0])),
        Outcome::Trap(trap) => Err(trap.kind),
    });
    result.collect()
}

fn inputs(ranks: usize, n: usize) -> Vec<Vec<f32>> {
    (0..ranks).map(|rank| noise(n, rank as u32 + 1)).collect()
}

/// All sources combined in ascending order, each step rounded to f32.
fn combined(sources: &[Vec<f32>], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    (0..sources[0].len()).map(|i| sources.iter().map(|s| s[i]).reduce(&f).expect("a rank")).collect()
}

#[test]
fn reductions_take_ranks_in_order() {
    let check = |combine: &str, f: fn(f32, f32) -> f32| {
        for ranks in [1, 2, 3, 8] {
            let x = inputs(ranks, 8 * ranks);
            let expect = combined(&x, f);
            let transfer = format!("transfer x0 hbm:0 hbm:512 f32 x {} {combine} peer 0", 8 * ranks);
            let all = object(ranks, 8 * ranks, 8 * ranks, &transfer, "allred x0");
            assert_eq!(run(&all, &x), Ok(vec![expect.clone(); ranks]), "allred {combine}");
            let transfer = format!("transfer x0 hbm:0 hbm:512 f32 x 8 {combine} peer 0");
            let parts = object(ranks, 8 * ranks, 8, &transfer, "redscat x0");
            let expect = expect.chunks(8).map(<[f32]>::to_vec).collect();
            assert_eq!(run(&parts, &x), Ok(expect), "redscat {combine}");
        }
    };
    check("add", |a, b| a + b);
    check("mul", |a, b| a * b);
    check("min", f32::min);
    check("max", f32::max);
}

/// bf16 sums keep f32 until their one rounding: 256 + 1 + 1 + ... is not lost step by step.
#[test]
fn narrow_formats_are_rounded_once() {
    use lacuna_isa::format::ScalarType::{Bf16, F32};
    let text = |combine: &str| {
        let transfer = format!("transfer x0 hbm:0 hbm:512 bf16 x 2 {combine} peer 0");
        object(4, 1, 1, &transfer, "allred x0")
    };
    let code = |value: f32| Bf16.encode_f32(value);
    let pair = |a: f32, b: f32| vec![f32::from_bits(code(a) | code(b) << 16)];
    let x = vec![pair(256.0, -0.0), pair(1.0, -0.0), pair(1.0, 2.0), pair(1.0, -3.0)];
    let check = |combine: &str, a: f32, b: f32| {
        let out = run(&text(combine), &x).expect("no trap");
        assert_eq!(out[0][0].to_bits(), pair(a, b)[0].to_bits(), "{combine} {}", F32.name());
    };
    // 259 lies halfway between 258 and 260.
    check("add", 260.0, -1.0);
    check("max", 256.0, 2.0);
    check("min", 1.0, -3.0);
}

#[test]
fn parts_change_places() {
    for ranks in [1, 2, 5] {
        let x = inputs(ranks, 4 * ranks);
        let transfer = "transfer x0 hbm:0 hbm:512 f32 x 4 replace peer 0";
        let gather = object(ranks, 4 * ranks, 4 * ranks, transfer, "allgath x0");
        let whole: Vec<f32> = x.iter().flat_map(|x| x[..4].to_vec()).collect();
        assert_eq!(run(&gather, &x), Ok(vec![whole; ranks]));
        let exchange = object(ranks, 4 * ranks, 4 * ranks, transfer, "alltoall x0");
        let expect =
            (0..ranks).map(|r| (0..ranks).flat_map(|q| x[q][4 * r..4 * r + 4].to_vec()).collect()).collect();
        assert_eq!(run(&exchange, &x), Ok(expect));
    }
}

#[test]
fn messages_arrive_in_order_at_the_peer() {
    let transfers = "transfer x0 hbm:0 hbm:0 f32 x 4 replace peer 1\n\
                     transfer x1 hbm:16 hbm:16 f32 x 4 replace peer 1\n\
                     transfer x2 hbm:0 hbm:512 f32 x 4 replace peer -1\n\
                     transfer x3 hbm:0 hbm:528 f32 x 4 replace peer -1";
    let x = inputs(3, 8);
    let two = object(3, 8, 8, transfers, "send x0\nsend x1\nrecv x2\nrecv x3");
    assert_eq!(run(&two, &x), Ok(vec![x[2].clone(), x[0].clone(), x[1].clone()]));
    let check = |code: &str, kind: TrapKind| {
        assert_eq!(run(&object(3, 8, 8, transfers, code), &x), Err(kind), "{code}");
    };
    check("recv x2\nsend x0", TrapKind::WouldBlock);
    check("send x0\nrecv x0", TrapKind::WouldBlock);
    check("send x0\nsend x1\nrecv x2", TrapKind::NotEmptyAtHalt);
}

#[test]
fn the_number_of_ranks_must_fit() {
    let object = object(2, 4, 4, "transfer x0 hbm:0 hbm:512 f32 x 4 add peer 0", "allred x0");
    let machine = Machine::load(&object).expect("a machine");
    let x = bytes(&noise(4, 1));
    assert_eq!(machine.run(&[&x], &RunOptions::default()), Err(InputError::Ranks { expected: 2, found: 1 }));
}
