//! Selection rounds the weights of large models within the time that the optimiser has.

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_optimize::{Options, optimize, select};

use crate::clock::Clock;

/// Weights of a module here.
const N: u64 = 1 << 24;
/// Weights of a decoder layer of eight billion parameters, the largest model of the zoo, for which a second is allowed.
const N_IN_A_SECOND: u64 = 218_000_000;

/// One product with `N` weights, which are summed along their last axis or their first.
fn module(map: &str, summed_last: bool) -> Module {
    let (summed, columns) = (4096, N / 4096);
    let mut module = Module::default();
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, &[2, summed][..]), "x");
    let values: Vec<f32> =
        (0..N as u32).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 * 1e-9).collect();
    let shape = if summed_last { [columns, summed] } else { [summed, columns] };
    let w = b.const_f32(&shape[..], &values).unwrap();
    let map = ContractMap::parse(map).unwrap();
    let y = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).unwrap();
    b.results(&[y]);
    let func = b.id();
    module.entries.push(Entry {
        name: "main".into(),
        func,
        inputs: vec!["x".into()],
        outputs: vec!["y".into()],
    });
    module
}

#[test]
fn rounding_costs_little_time() {
    let allowed = 1e3 * N as f64 / N_IN_A_SECOND as f64;
    for (map, summed_last) in [("bk,kn->bn", false), ("bk,nk->bn", true)] {
        let module = module(map, summed_last);
        for precision in ["bf16", "mxfp8", "mxfp4:mxfp8", "mxint8", "mx6"] {
            let options = Options { precision: precision.parse().unwrap(), ..Options::default() };
            // The least of several runs: the machine may be busy with other things.
            let run = |_| {
                let own = module.clone();
                let started = Clock::start();
                let done = select(optimize(own, &Options::default()).unwrap().module, &options).unwrap();
                let ms = started.ms();
                assert!(
                    done.module
                        .constants
                        .values()
                        .any(|c| c.ty.bytes() < 4 * N && c.ty.shape.elements() == N)
                );
                ms
            };
            let ms = (0..5).map(run).fold(f64::INFINITY, f64::min);
            println!("{map} in {precision}: {ms:.1} ms of {allowed:.1}");
            assert!(ms <= allowed, "{map} in {precision}: {ms:.1} ms for {N} weights, {allowed:.1} allowed");
        }
    }
}
