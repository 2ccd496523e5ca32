//! Products with matrices that indices pick: the kernel loads those that are picked, and no others.

mod support;

use lacuna_ir::eval::Tensor;
use lacuna_ir::op::{ContractMap, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, Shape, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_isa::target::Target;
use lacuna_isa::target_file::target;
use lacuna_optimize::Precision;
use lacuna_runtime::Outcome;
use support::{both, compile, numbers, run};

/// A product of rows with matrices of a table.
#[derive(Clone, Copy, Debug)]
struct Case {
    map: &'static str,
    x: &'static [u64],
    table: &'static [u64],
    axis: u8,
    /// Shape of the indices; without, all matrices of the table are multiplied.
    indices: Option<&'static [u64]>,
    /// Whether the table is a constant.
    constant: bool,
}

const fn case(
    map: &'static str,
    x: &'static [u64],
    table: &'static [u64],
    indices: Option<&'static [u64]>,
) -> Case {
    Case { map, x, table, axis: 0, indices, constant: true }
}

fn module(case: Case) -> (Module, Vec<Tensor>) {
    let mut module = Module::default();
    let mut b = FunctionBuilder::new(&mut module, "main");
    let f32s = |shape: &[u64]| TensorType::new(ScalarType::F32, Shape::from(shape));
    let values = |seed, shape: &[u64]| numbers(seed, shape.iter().product());
    let mut inputs = Vec::new();
    let mut names = Vec::new();
    let mut add = |name: &str, tensor: Tensor| {
        inputs.push(tensor);
        names.push(name.to_owned());
    };
    let x = b.param(f32s(case.x), "x");
    add("x", Tensor::from_f64(ScalarType::F32, case.x, &values(1, case.x)).expect("a tensor"));
    let table_values = values(2, case.table);
    let table = if case.constant {
        let floats: Vec<f32> = table_values.iter().map(|&v| v as f32).collect();
        b.const_f32(case.table, &floats).expect("a constant")
    } else {
        add("table", Tensor::from_f64(ScalarType::F32, case.table, &table_values).expect("a tensor"));
        b.param(f32s(case.table), "table")
    };
    let w = match case.indices {
        Some(shape) => {
            let n = case.table[usize::from(case.axis)];
            let indices: Vec<f64> =
                (0..shape.iter().product::<u64>()).map(|i| ((i * 5 + 2) % n) as f64).collect();
            add("indices", Tensor::from_f64(ScalarType::I64, shape, &indices).expect("a tensor"));
            let at = b.param(TensorType::new(ScalarType::I64, Shape::from(shape)), "indices");
            b.emit(Op::Gather { axis: case.axis, batch: 0 }, &[table, at]).expect("a gather")
        }
        None => table,
    };
    let map = ContractMap::parse(case.map).expect("a map");
    let y = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).expect("a contraction");
    let y = b.unary(UnaryOp::Abs, y).expect("an epilogue");
    b.results(&[y]);
    let func = b.id();
    module.entries.push(Entry { name: "main".into(), func, inputs: names, outputs: vec!["y".into()] });
    (module, inputs)
}

/// The module with its operands in the formats of a precision.
fn selected(module: Module, precision: &str, target: &Target) -> Module {
    let precision: Precision = precision.parse().expect("a precision");
    let options = lacuna_driver::generation::options(target, precision);
    let optimized = lacuna_optimize::optimize(module, &options).expect("it is optimised");
    lacuna_optimize::select(optimized.module, &options).expect("it is selected").module
}

/// Sums of up to 1,000 products of numbers below 2, whatever their order.
const EXACT: f64 = 1e-3;

#[track_caller]
fn check(case: Case, whole: bool) {
    for name in ["mtia-300", "mtia-500", "tpu-v5p", "trainium2"] {
        let target = target(name).expect("a target");
        for precision in ["f32", "bf16", "mxfp8", "mxfp4:bf16"] {
            let (module, inputs) = module(case);
            let module = selected(module, precision, &target);
            let object = compile(&module, &target);
            let [want, got] = both(&module, &object, &inputs);
            let wrong = want.iter().zip(&got).position(|(w, g)| (w - g).abs() > EXACT || g.is_nan());
            assert_eq!(wrong, None, "{name} {precision} {case:?}: {want:?}\n{got:?}");
            let gathers = object.kernels.iter().any(|kernel| kernel.name == "gather");
            assert_eq!(gathers, !whole, "{name} {precision} {case:?}");
        }
    }
}

#[test]
fn matrices_are_picked_in_the_product() {
    check(case("sk,snk->sn", &[3, 64], &[8, 96, 64], Some(&[3])), true);
    check(case("sk,skn->sn", &[1, 256], &[4, 256, 128], Some(&[1])), true);
    // One row for all indices, two dimensions of indices, several rows for each.
    check(case("k,snk->sn", &[96], &[5, 160, 96], Some(&[4])), true);
    check(case("tk,tjnk->tjn", &[3, 64], &[7, 32, 64], Some(&[3, 2])), true);
    check(case("smk,skn->nsm", &[5, 2, 1000], &[9, 1000, 64], Some(&[5])), true);
    // Indices of another dimension.
    let second = Case { axis: 1, ..case("sk,ksn->sn", &[3, 64], &[64, 5, 96], Some(&[3])) };
    check(second, true);
    // The indices stand between the columns of a matrix, or in their way.
    let between = Case { axis: 1, ..case("rk,nspk->nspr", &[4, 64], &[3, 4, 32, 64], Some(&[2])) };
    check(between, false);
    check(case("sk,snpk->pns", &[3, 64], &[4, 32, 5, 64], Some(&[3])), false);
    // A table that the program brings has no panels.
    let (module, inputs) =
        module(Case { constant: false, ..case("sk,snk->sn", &[3, 60], &[5, 40, 60], Some(&[3])) });
    for name in ["mtia-300", "tpu-v5p"] {
        let object = compile(&module, &target(name).expect("a target"));
        let [want, got] = both(&module, &object, &inputs);
        assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() <= EXACT), "{name}: {want:?}\n{got:?}");
    }
}

#[test]
fn matrices_of_a_batch_are_weights() {
    check(case("bmk,bkn->bmn", &[8, 1, 64], &[8, 64, 96], None), true);
    check(case("bmk,bkn->bmn", &[3, 40, 128], &[3, 128, 64], None), true);
    check(case("abmk,abkn->abmn", &[2, 3, 4, 64], &[2, 3, 64, 32], None), true);
    check(case("tk,enk->etn", &[6, 64], &[4, 96, 64], None), true);
    // So many dimensions of a batch that do not merge leave no room for panels.
    let (module, inputs) = module(case("abcmk,cabkn->bmacn", &[2, 3, 2, 4, 64], &[2, 2, 3, 64, 32], None));
    let object = compile(&module, &target("mtia-300").expect("a target"));
    let [want, got] = both(&module, &object, &inputs);
    assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() <= EXACT), "{want:?}\n{got:?}");
}

/// Operands and results whose dimensions do not merge in the order in which they lie.
#[test]
fn dimensions_that_do_not_merge_are_copied() {
    let cases = [
        case("abcdek,kn->cbnade", &[2, 3, 2, 3, 2, 64], &[64, 32], None),
        case("ambkc,nbcka->ncmab", &[2, 3, 2, 40, 3], &[32, 2, 3, 40, 2], None),
        case("kambn,nkcbd->dmcab", &[8, 2, 3, 2, 5], &[5, 8, 3, 2, 4], None),
        case("gbfaed,gfadec->cbf", &[4, 2, 2, 3, 2, 2], &[4, 2, 3, 2, 2, 5], None),
    ];
    for (case, name) in cases.into_iter().flat_map(|c| ["mtia-300", "tpu-v5p"].map(|name| (c, name))) {
        for constant in [true, false] {
            let (module, inputs) = module(Case { constant, ..case });
            let object = compile(&module, &target(name).expect("a target"));
            let [want, got] = both(&module, &object, &inputs);
            let wrong = want.iter().zip(&got).position(|(w, g)| (w - g).abs() > EXACT || g.is_nan());
            assert_eq!(wrong, None, "{name} {case:?}: {want:?}\n{got:?}");
        }
    }
}

#[test]
fn two_of_eight_matrices_cost_a_quarter() {
    for name in ["mtia-300", "mtia-500", "tpu-v5p"] {
        let target = target(name).expect("a target");
        for precision in ["f32", "mxfp8", "mxfp4"] {
            let bytes = |case| {
                let object = compile(&selected(module(case).0, precision, &target), &target);
                let profile = lacuna_runtime::profile(&object, &target, 0).expect("a valid object");
                profile.hbm_bytes
            };
            let all = bytes(case("k,enk->en", &[1024], &[8, 2048, 1024], None));
            let two = bytes(case("k,snk->sn", &[1024], &[8, 2048, 1024], Some(&[2])));
            assert!(two as f64 <= 0.27 * all as f64, "{name} {precision}: {two} of {all} bytes");
        }
    }
}

/// Rows that meet the same matrix are put together, and every sum stays what it was.
#[test]
fn many_indices_load_each_matrix_once() {
    let all = case("mk,enk->men", &[96], &[8, 512, 640], None);
    let dense = Case { x: &[96, 640], ..all };
    let pairs = case("tk,tjnk->tjn", &[96, 640], &[8, 512, 640], Some(&[96, 2]));
    for name in ["mtia-300", "tpu-v5p"] {
        let target = target(name).expect("a target");
        for precision in ["f32", "mxfp8"] {
            let of = |case| {
                let (module, inputs) = module(case);
                let module = selected(module, precision, &target);
                let object = compile(&module, &target);
                let bytes = lacuna_runtime::profile(&object, &target, 0).expect("a valid object").hbm_bytes;
                (bytes, both(&module, &object, &inputs))
            };
            let (needed, _) = of(dense);
            let (bytes, [want, got]) = of(pairs);
            // A tile more than matrices has one in ten, and indices and places are small.
            assert!(bytes as f64 <= 1.5 * needed as f64, "{name} {precision}: {bytes} of {needed} bytes");
            assert_eq!(want.len(), 96 * 2 * 512);
            assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() <= EXACT), "{name} {precision}");
        }
    }
}

#[test]
fn an_index_out_of_range_traps() {
    for (rows, indices) in [(&[96, 640], &[96, 2]), (&[2, 640], &[2, 1])] {
        let (module, mut inputs) = module(case("tk,tjnk->tjn", rows, &[8, 512, 640], Some(indices)));
        let target = target("mtia-300").expect("a target");
        let object = compile(&selected(module, "f32", &target), &target);
        let mut numbers = inputs[1].to_f64().to_vec();
        for outside in [8.0, -1.0] {
            numbers[1] = outside;
            inputs[1] = Tensor::from_f64(ScalarType::I64, &indices[..], &numbers).expect("a tensor");
            let outcome = run(&object, &inputs);
            assert!(matches!(outcome, Outcome::Trap(_)), "{outside} among {indices:?}");
        }
    }
}
