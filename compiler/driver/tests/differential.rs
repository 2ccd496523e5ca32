//! Random graphs, two meanings: the IR evaluator against the instruction streams that code generation emits for the same
//! module. Every graph that compiles must agree; most must compile.

use cranelift_entity::SecondaryMap;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ConvAttrs, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, Shape, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::target_file::target;
use lacuna_runtime::{Machine, Outcome, RunOptions};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A deterministic source of choices, from proptest's seed.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn shape(&mut self) -> Shape {
        const SIZES: [u64; 9] = [1, 1, 2, 3, 4, 5, 8, 17, 33];
        let rank = self.below(5);
        (0..rank).map(|_| self.pick(&SIZES)).collect()
    }

    fn permutation(&mut self, n: usize) -> Vec<u8> {
        let mut perm: Vec<u8> = (0..n as u8).collect();
        for i in (1..n).rev() {
            perm.swap(i, self.below(i + 1));
        }
        perm
    }
}

/// Adds one random node on f32 values; `None` when the choice does not fit the operand.
fn grow(b: &mut FunctionBuilder<'_>, c: &mut Choices, values: &[Value]) -> Option<Value> {
    let x = c.pick(values);
    let shape = b.ty(x).shape.clone();
    let rank = shape.rank();
    let axis = c.below(rank) as u8;
    let same: Vec<Value> = values.iter().copied().filter(|&v| b.ty(v).shape == shape).collect();
    match c.below(17) {
        0 | 1 => {
            let ops =
                [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Tanh, UnaryOp::Sigmoid, UnaryOp::Erf, UnaryOp::Sin];
            b.unary(c.pick(&ops), x).ok()
        }
        2..=4 => {
            let ops = [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Min, BinaryOp::Max];
            let y = c.pick(&same);
            b.binary(c.pick(&ops), x, y).ok()
        }
        5 => {
            let mask = b.emit(Op::Compare { op: CompareOp::Lt }, &[x, c.pick(&same)]).ok()?;
            b.emit(Op::Select {}, &[mask, x, c.pick(&same)]).ok()
        }
        6 => b.emit(Op::Permute { perm: c.permutation(rank) }, &[x]).ok(),
        7 => {
            let at = c.below(rank + 1);
            let mut to = shape.0.clone();
            if c.below(2) == 0 || rank < 2 {
                to.insert(at, 1);
            } else {
                let d = c.below(rank - 1);
                let n = to.remove(d + 1);
                to[d] *= n;
            }
            b.emit(Op::Reshape { shape: to.into() }, &[x]).ok()
        }
        8 => {
            let mut to = shape.0.clone();
            let at = c.below(rank + 1);
            to.insert(at, c.pick(&[1, 2, 5]));
            let dims = (0..=rank as u8).filter(|&d| d as usize != at).collect();
            b.emit(Op::Broadcast { dims, shape: to.into() }, &[x]).ok()
        }
        9 if rank > 0 => {
            let mut starts = Vec::new();
            let mut steps = Vec::new();
            let mut to = Vec::new();
            for &n in shape.iter() {
                let step = c.pick(&[1i64, 1, 2, -1]);
                let start = c.below(n as usize) as i64;
                let room = if step > 0 { n as i64 - start } else { start + 1 };
                to.push((1 + c.below((room as usize).div_ceil(step.unsigned_abs() as usize))) as u64);
                starts.push(if step > 0 { start } else { start.max((to[to.len() - 1] as i64 - 1) * -step) });
                steps.push(step);
            }
            b.emit(Op::Slice { starts, shape: to.into(), steps }, &[x]).ok()
        }
        10 if rank > 0 => {
            let value = b.const_f32(Vec::new(), &[c.pick(&[0.0, 1.0, f32::NEG_INFINITY])]).ok()?;
            let low = (0..rank).map(|_| c.below(3) as u64).collect();
            let high = (0..rank).map(|_| c.below(3) as u64).collect();
            let padded = b.emit(Op::Pad { low, high }, &[x, value]).ok()?;
            // Infinities would make every later difference undefined.
            let bound = b.const_f32(Vec::new(), &[-2.0]).ok()?;
            let to = b.ty(padded).shape.clone();
            let bound = b.broadcast_to(bound, &to).ok()?;
            b.binary(BinaryOp::Max, padded, bound).ok()
        }
        11 if rank > 0 => b.emit(Op::Concat { axis }, &[x, c.pick(&same), x]).ok(),
        12 if rank > 0 => {
            let op = c.pick(&[ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min]);
            let axes = (0..rank as u8).filter(|_| c.below(2) == 0).collect();
            b.emit(Op::Reduce { op, axes }, &[x]).ok()
        }
        13 if rank > 0 => b.emit(Op::Softmax { axis, log: c.below(2) == 0 }, &[x]).ok(),
        14 if rank > 0 => {
            let axes = vec![axis];
            b.emit(Op::Norm { axes, centre: c.below(2) == 0, eps: Real(1e-3) }, &[x]).ok()
        }
        15 if rank > 0 => {
            let n = shape[axis as usize];
            let indices: Vec<u8> = (0..4).flat_map(|_| (c.below(n as usize) as i64).to_le_bytes()).collect();
            let ty = TensorType::new(ScalarType::I64, vec![2, 2]);
            let i = b.constant(lacuna_ir::Constant::dense(ty, indices, "")).ok()?;
            b.emit(Op::Gather { axis, batch: 0 }, &[x, i]).ok()
        }
        16 => contract(b, c, x),
        _ => None,
    }
}

/// A contraction of `x` with a random constant or value, with random roles of its dimensions.
fn contract(b: &mut FunctionBuilder<'_>, c: &mut Choices, x: Value) -> Option<Value> {
    let shape = b.ty(x).shape.clone();
    let rank = shape.rank() as u8;
    if rank == 0 {
        return None;
    }
    let summed = c.below(rank as usize) as u8;
    let batch: Vec<u8> = (0..rank).filter(|&d| d != summed && c.below(4) == 0).collect();
    let mut b_labels: Vec<u8> = batch.iter().copied().chain([summed, rank]).collect();
    let sizes: Vec<u64> = b_labels.iter().map(|&l| if l == rank { 0 } else { shape[l as usize] }).collect();
    let n = c.pick(&[1, 7, 32, 40]);
    let order = c.permutation(b_labels.len());
    let sizes: Vec<u64> =
        order.iter().map(|&i| if b_labels[i as usize] == rank { n } else { sizes[i as usize] }).collect();
    b_labels = order.iter().map(|&i| b_labels[i as usize]).collect();
    let mut out: Vec<u8> = (0..=rank).filter(|&l| l != summed).collect();
    let shuffle = c.permutation(out.len());
    out = shuffle.iter().map(|&i| out[i as usize]).collect();
    let w = weights(b, c, sizes)?;
    let grouped = c.below(3) == 0;
    let (x, w) = if grouped {
        let format = c.pick(&[
            GroupFormat::MXFP8,
            GroupFormat::MXFP4,
            GroupFormat::MXINT8,
            GroupFormat::MX9,
            GroupFormat::MX6,
        ]);
        let at = b_labels.iter().position(|&l| l == summed)? as u8;
        let x = b.emit(Op::MxQuantize { format, axis: summed, mode: ScaleMode::Floor }, &[x]).ok()?;
        // Constants are quantised ahead of time by the optimiser; here a value stands for one.
        let zero = b.const_f32(Vec::new(), &[0.0]).ok()?;
        let to = b.ty(w).shape.clone();
        let zero = b.broadcast_to(zero, &to).ok()?;
        let w = b.binary(BinaryOp::Add, w, zero).ok()?;
        let w = b.emit(Op::MxQuantize { format, axis: at, mode: ScaleMode::Tosa }, &[w]).ok()?;
        (x, w)
    } else {
        (x, w)
    };
    let map = ContractMap { a: (0..rank).collect(), b: b_labels, out };
    if c.below(2) == 0 {
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).ok()
    } else {
        let map = ContractMap { a: map.b, b: map.a, out: map.out };
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[w, x]).ok()
    }
}

fn weights(b: &mut FunctionBuilder<'_>, c: &mut Choices, sizes: Vec<u64>) -> Option<Value> {
    let n: u64 = sizes.iter().product();
    let values: Vec<f32> = (0..n).map(|_| (c.below(2001) as f32 - 1000.0) / 1000.0).collect();
    b.const_f32(sizes, &values).ok()
}

/// A convolution of a fresh parameter with random attributes and layout.
fn conv(b: &mut FunctionBuilder<'_>, c: &mut Choices) -> Option<Value> {
    let n_spatial = 1 + c.below(2);
    let groups = c.pick(&[1u64, 1, 1, 2, 3]);
    let per_group = c.pick(&[1u64, 3, 4, 32]);
    let outputs = groups * c.pick(&[1u64, 5, 32, 40]);
    let x_dims = c.permutation(n_spatial + 2);
    let w_dims = c.permutation(n_spatial + 2);
    let mut x = vec![0; n_spatial + 2];
    let mut w = vec![0; n_spatial + 2];
    x[x_dims[0] as usize] = c.pick(&[1u64, 2, 3]);
    x[x_dims[1] as usize] = groups * per_group;
    w[w_dims[0] as usize] = outputs;
    w[w_dims[1] as usize] = per_group;
    for i in 0..n_spatial {
        x[x_dims[i + 2] as usize] = c.pick(&[5u64, 9, 16]);
        w[w_dims[i + 2] as usize] = c.pick(&[1u64, 3]);
    }
    let attrs = ConvAttrs {
        x: x_dims,
        w: w_dims,
        out: c.permutation(n_spatial + 2),
        strides: (0..n_spatial).map(|_| c.pick(&[1, 2])).collect(),
        dilations: (0..n_spatial).map(|_| c.pick(&[1, 1, 2])).collect(),
        x_dilations: vec![1; n_spatial],
        low: (0..n_spatial).map(|_| c.pick(&[0, 1, 2])).collect(),
        high: (0..n_spatial).map(|_| c.pick(&[0, 1, 2])).collect(),
        groups,
    };
    let x = b.param(TensorType::new(ScalarType::F32, x), "");
    let w = weights(b, c, w)?;
    b.emit(Op::Conv { attrs, elem: ScalarType::F32 }, &[x, w]).ok()
}

fn random_module(seed: u64) -> Module {
    let mut c = Choices(seed | 1);
    for _ in 0..8 {
        c.next();
    }
    let mut module = Module { name: "random".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let shape = c.shape();
    let mut values = vec![b.param(TensorType::new(ScalarType::F32, shape.clone()), "a")];
    values.push(b.param(TensorType::new(ScalarType::F32, shape), "b"));
    if c.below(3) == 0 {
        values.extend(conv(&mut b, &mut c));
    }
    for _ in 0..1 + c.below(8) {
        if let Some(v) = grow(&mut b, &mut c, &values)
            && b.ty(v).shape.elements() <= 20_000
        {
            values.push(v);
        }
    }
    let results: Vec<Value> = values.iter().rev().take(2).copied().collect();
    b.results(&results);
    let func = b.id();
    let inputs = (0..b.func().params.len()).map(|i| format!("in{i}")).collect();
    let outputs = (0..results.len()).map(|i| format!("out{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs });
    module
}

/// Whether the graph compiled; panics when the meanings differ.
fn check(seed: u64) -> bool {
    let module = random_module(seed);
    if let Err(violations) = lacuna_ir::verify::verify(&module) {
        panic!("seed {seed}: the generator made an invalid module: {violations:?}\n{module}");
    }
    let func = &module.functions[module.entries[0].func];
    let mut c = Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let inputs: Vec<Vec<u8>> = func
        .params
        .iter()
        .map(|&p| {
            let n = func.ty(p).shape.elements();
            (0..n).flat_map(|_| ((c.below(4001) as f32 - 2000.0) / 1000.0).to_le_bytes()).collect()
        })
        .collect();
    let tensors: Vec<Tensor> = func
        .params
        .iter()
        .zip(&inputs)
        .map(|(&p, bytes)| Tensor::from_bytes(func.ty(p).clone(), bytes).expect("the parameter's own size"))
        .collect();
    let want =
        eval(&module, module.entries[0].func, &tensors, Mode::Typed).expect("a verified module evaluates");
    let target = target("mtia-300").expect("the default target");
    let generated = match lacuna_codegen::generate(&module, &target, &SecondaryMap::new()) {
        Ok(generated) => generated,
        Err(failures) => {
            assert!(failures.iter().all(|f| !f.reason.is_empty()), "seed {seed}: a failure without a reason");
            return false;
        }
    };
    let faults = generated.object.validate();
    assert!(faults.is_empty(), "seed {seed}: invalid object: {faults:?}\n{module}\n{}", generated.tiled);
    let machine = Machine::load(&generated.object).expect("a valid object loads");
    let bytes: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let outcome = machine.run(&bytes, &RunOptions::default()).expect("inputs of the right size");
    let outputs = match outcome {
        Outcome::Done { outputs, .. } => outputs,
        Outcome::Trap(trap) => panic!("seed {seed}: {trap:?}\n{module}\n{}", generated.tiled),
    };
    for (i, (want, got)) in want.iter().zip(&outputs).enumerate() {
        let want = want.to_f64();
        let got: Vec<f64> =
            got.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
        assert_eq!(want.len(), got.len(), "seed {seed}: output {i} has another size");
        let peak = want.iter().filter(|w| w.is_finite()).fold(0.0f64, |p, w| p.max(w.abs()));
        for (at, (w, g)) in want.iter().zip(&got).enumerate() {
            let close = (w - g).abs() <= TOLERANCE * (peak + 1.0) || w == g || (w.is_nan() && g.is_nan());
            assert!(close, "seed {seed}: output {i}[{at}] is {g}, not {w}\n{module}\n{}", generated.tiled);
        }
    }
    true
}

/// Relative to the largest element: f32 sums in another order, and a quantisation step that an ulp tips over.
const TOLERANCE: f64 = 2e-2;

#[test]
fn streams_compute_what_the_graph_means() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut runner = TestRunner::new_with_rng(
        Config { cases, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let compiled = std::cell::Cell::new(0u32);
    runner
        .run(&any::<u64>(), |seed| {
            compiled.set(compiled.get() + u32::from(check(seed)));
            Ok(())
        })
        .expect("every graph agrees");
    assert!(compiled.get() * 10 >= cases * 9, "only {} of {cases} graphs compiled", compiled.get());
}
