//! Movement, pooling, reductions and products over many shapes, from one element to millions and of rank 1 to 8, on every target: each
//! compiles, and the checker finds nothing.

use cranelift_entity::SecondaryMap;
use lacuna_codegen::check::check;
use lacuna_codegen::generate;
use lacuna_ir::op::{ContractMap, ReduceOp, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, TensorType, Value};
use lacuna_isa::format::ScalarType;
use lacuna_isa::target::Target;
use lacuna_isa::target_file;

/// Numbers that only depend on where they start.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }

    /// A shape of a rank from 1 to 8 with at most `most` elements.
    fn shape(&mut self, most: u64) -> Vec<u64> {
        let rank = 1 + self.below(8);
        let mut left = most;
        (0..rank)
            .map(|_| {
                let size = match self.below(4) {
                    0 => 1 + self.below(3),
                    1 => 1 + self.below(17),
                    2 => 1 << self.below(8),
                    _ => 1 + self.below(700),
                };
                let size = size.min(left).max(1);
                left /= size;
                size
            })
            .collect()
    }

    fn order(&mut self, rank: usize) -> Vec<u8> {
        let mut order: Vec<u8> = (0..rank as u8).collect();
        for i in (1..rank).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

type Build = dyn Fn(&mut FunctionBuilder<'_>, Value, &mut Numbers) -> Value;

fn emit(b: &mut FunctionBuilder<'_>, op: Op, args: &[Value]) -> Value {
    b.emit(op, args).unwrap_or_else(|e| panic!("{e}"))
}

fn zero(b: &mut FunctionBuilder<'_>) -> Value {
    b.const_f32(Vec::<u64>::new(), &[0.0]).expect("a constant")
}

/// The operators, each as a function of one tensor of any shape.
fn operators() -> Vec<(&'static str, Box<Build>)> {
    let shape_of = |b: &FunctionBuilder<'_>, x: Value| b.ty(x).shape.0.clone();
    vec![
        ("identity", Box::new(|_, x, _| x)),
        (
            "permute",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let perm = n.order(shape_of(b, x).len());
                emit(b, Op::Permute { perm }, &[x])
            }),
        ),
        (
            "permuted map",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let perm = n.order(shape_of(b, x).len());
                let y = emit(b, Op::Permute { perm }, &[x]);
                b.unary(UnaryOp::Exp, y).expect("a float")
            }),
        ),
        (
            "slice",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let shape = shape_of(b, x);
                let steps: Vec<i64> =
                    shape.iter().map(|_| if n.below(3) == 0 { -1 } else { 1 + n.below(2) as i64 }).collect();
                let sizes: Vec<u64> =
                    shape.iter().zip(&steps).map(|(&s, step)| s.div_ceil(step.unsigned_abs())).collect();
                let starts = shape
                    .iter()
                    .zip(&steps)
                    .map(|(&s, &step)| if step < 0 { s as i64 - 1 } else { 0 })
                    .collect();
                emit(b, Op::Slice { starts, shape: sizes.into(), steps }, &[x])
            }),
        ),
        (
            "pad",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let rank = shape_of(b, x).len();
                let mut amounts = || (0..rank).map(|_| n.below(3)).collect::<Vec<u64>>();
                let (low, high) = (amounts(), amounts());
                let value = zero(b);
                emit(b, Op::Pad { low, high }, &[x, value])
            }),
        ),
        (
            "concat",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let rank = shape_of(b, x).len() as u64;
                emit(b, Op::Concat { axis: n.below(rank) as u8 }, &[x, x, x])
            }),
        ),
        (
            "expand",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let shape = shape_of(b, x);
                if shape.len() == 8 {
                    return x;
                }
                let at = n.below(shape.len() as u64 + 1) as usize;
                let dims = (0..=shape.len()).filter(|&d| d != at).map(|d| d as u8).collect();
                let mut wide = shape;
                wide.insert(at, 1 + n.below(5));
                emit(b, Op::Broadcast { dims, shape: wide.into() }, &[x])
            }),
        ),
        (
            "reduce",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let rank = shape_of(b, x).len();
                let axes: Vec<u8> = (0..rank as u8).filter(|_| n.below(2) == 0).collect();
                let ops = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Mean];
                emit(b, Op::Reduce { op: ops[n.below(3) as usize], axes }, &[x])
            }),
        ),
        (
            "positions and totals",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let shape = shape_of(b, x);
                let axis = n.below(shape.len() as u64) as u8;
                if n.below(3) == 0 {
                    let k = 1 + n.below(shape.last().copied().unwrap_or(1).min(1000));
                    return emit(b, Op::Sort { k, descending: k.is_multiple_of(2) }, &[x]);
                }
                if n.below(2) == 0 {
                    return emit(b, Op::ArgReduce { max: true, axis, last: false }, &[x]);
                }
                let (exclusive, reverse) = (n.below(2) == 0, n.below(2) == 0);
                emit(b, Op::Cumulate { op: ReduceOp::Sum, axis, exclusive, reverse }, &[x])
            }),
        ),
        (
            "softmax",
            Box::new(move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
                let rank = shape_of(b, x).len() as u64;
                emit(b, Op::Softmax { axis: n.below(rank) as u8, log: false }, &[x])
            }),
        ),
    ]
}

fn module(name: &str, shape: &[u64], build: &Build, numbers: &mut Numbers) -> Module {
    let mut module = Module { name: name.into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, shape.to_vec()), "x");
    let y = build(&mut b, x, numbers);
    b.results(&[y]);
    let func = b.id();
    let inputs = (0..b.func().params.len()).map(|i| format!("in{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs: vec!["y".into()] });
    lacuna_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{module}"));
    module
}

/// What is wrong with the module's streams.
fn faults(module: &Module, target: &Target) -> Option<String> {
    let faults = match generate(module, target, &SecondaryMap::new()) {
        Err(failures) => format!("{failures:?}"),
        Ok(generated) => {
            let mut faults =
                check(&generated.object, target).iter().map(ToString::to_string).collect::<Vec<_>>();
            faults.truncate(3);
            faults.join("; ")
        }
    };
    (!faults.is_empty()).then(|| format!("{}: {faults}\n{module}", target.name))
}

fn targets() -> Vec<Target> {
    target_file::targets().iter().map(|file| file.resolve().expect("a sound target file")).collect()
}

#[test]
fn every_shape_compiles_on_every_target() {
    let targets = targets();
    let mut numbers = Numbers(1);
    let mut wrong = Vec::new();
    for (name, build) in operators() {
        for round in 0..ROUNDS {
            let most = [200, 20_000, 3_000_000][round % 3];
            let shape = numbers.shape(most);
            let module = module(name, &shape, &*build, &mut numbers);
            // Each target sees every operator with some of the shapes.
            let some = targets.iter().skip(round % 3).step_by(3);
            wrong.extend(some.filter_map(|target| faults(&module, target)));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(50)].join("\n"));
}

/// Shapes for each operator.
const ROUNDS: usize = 24;

/// Windows of images, as pooling reads them, in both orders of dimensions.
#[test]
fn every_pool_compiles_on_every_target() {
    let mut numbers = Numbers(2);
    let mut wrong = Vec::new();
    for round in 0..24 {
        let n_spatial = 1 + round % 3;
        let last = round % 2 == 0;
        let pool = move |b: &mut FunctionBuilder<'_>, x: Value, n: &mut Numbers| {
            let first = if last { 1 } else { 2 };
            let axes: Vec<u8> = (first..first + n_spatial as u8).collect();
            let value = zero(b);
            let amount = n.below(2);
            let amounts: Vec<u64> =
                (0..n_spatial as u8 + 2).map(|d| if axes.contains(&d) { amount } else { 0 }).collect();
            let padded = emit(b, Op::Pad { low: amounts.clone(), high: amounts }, &[x, value]);
            let size = 2 + n.below(2);
            let window = Op::Window {
                axes: axes.clone(),
                sizes: vec![size; n_spatial],
                strides: vec![1 + n.below(2); n_spatial],
                dilations: vec![1; n_spatial],
            };
            let windows = emit(b, window, &[padded]);
            let rank = n_spatial as u8 + 2;
            let axes: Vec<u8> = (rank..rank + n_spatial as u8).collect();
            emit(b, Op::Reduce { op: ReduceOp::Max, axes }, &[windows])
        };
        let channels = [3, 64, 192, 5][round % 4];
        let side = [7, 12, 28, 33][numbers.below(4) as usize];
        let mut shape = vec![side; n_spatial + 2];
        shape[0] = 1 + numbers.below(5);
        shape[if last { n_spatial + 1 } else { 1 }] = channels;
        let module = module("pool", &shape, &pool, &mut numbers);
        let some = targets().into_iter().skip(round % 3).step_by(3);
        wrong.extend(some.filter_map(|target| faults(&module, &target)));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(50)].join("\n"));
}

/// Products whose tiles of results leave their banks in many pieces.
#[test]
fn every_tall_product_compiles_on_every_target() {
    let mut numbers = Numbers(4);
    let mut wrong = Vec::new();
    for (rows, columns, terms) in [(16384, 16384, 64), (8192, 8192, 32), (65536, 16, 4), (4096, 2048, 8)] {
        let build = move |b: &mut FunctionBuilder<'_>, x: Value, _: &mut Numbers| {
            let w = b.param(TensorType::new(ScalarType::F32, vec![columns, terms]), "w");
            let map = ContractMap::parse("mk,nk->mn").expect("a map");
            emit(b, Op::Contract { map, elem: ScalarType::F32 }, &[x, w])
        };
        let module = module("product", &[rows, terms], &build, &mut numbers);
        wrong.extend(targets().iter().filter_map(|target| faults(&module, target)));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Products with few rows, columns or terms, with constants of rank 1 and 2, and those that sum over nothing.
#[test]
fn every_product_compiles_on_every_target() {
    let maps = [
        "mk,k->m",
        "mk,kn->mn",
        "mk,nk->mn",
        "k,kn->n",
        "bmk,k->bm",
        "bmk,bkn->bmn",
        "m,n->mn",
        "mn,mn->mn",
        "k,k->",
    ];
    let mut numbers = Numbers(3);
    let mut wrong = Vec::new();
    for (round, text) in maps.iter().cycle().take(63).enumerate() {
        let map = ContractMap::parse(text).expect("a map");
        let sizes = [1, 2, 7, 31, 32, 33, 100, 257];
        let size_of: Vec<u64> = (0..26).map(|_| sizes[numbers.below(8) as usize]).collect();
        let shape = |labels: &[u8]| labels.iter().map(|&l| size_of[usize::from(l)]).collect::<Vec<u64>>();
        let (a, second) = (shape(&map.a), shape(&map.b));
        let constant = round % 2 == 0;
        let build = move |b: &mut FunctionBuilder<'_>, x: Value, _: &mut Numbers| {
            let n = second.iter().product::<u64>() as usize;
            let w = if constant {
                b.const_f32(second.clone(), &vec![0.5; n]).expect("a constant")
            } else {
                b.param(TensorType::new(ScalarType::F32, second.clone()), "w")
            };
            emit(b, Op::Contract { map: map.clone(), elem: ScalarType::F32 }, &[x, w])
        };
        let module = module("product", &a, &build, &mut numbers);
        let some = targets().into_iter().skip(round % 3).step_by(3);
        wrong.extend(some.filter_map(|target| faults(&module, &target)));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(50)].join("\n"));
}
