//! Attention over a cache whose mask follows a position: only the keys up to there are read, and the result is that of all.

mod support;

use lacuna_ir::Module;
use lacuna_ir::eval::Tensor;
use lacuna_ir::text::parse;
use lacuna_isa::target_file::target;
use lacuna_runtime::ProfileOptions;
use support::{both, compile, numbers};

/// Rounding of f32 sums of values up to 2.
const EXACT: f64 = 4e-6;

/// How a mask follows the position.
#[derive(Clone, Copy, Debug)]
enum Mask {
    /// Minus infinity behind it.
    Added,
    /// Minus the greatest number where the position is less, with another mask before it.
    Lower,
    /// `bool`, and a window.
    Window,
}

/// Attention of `rows` queries, the first at a position that is an input, over `keys` keys in two groups.
fn module(mask: Mask, rows: u64, keys: u64) -> Module {
    let full = format!("[1,1,{rows},{keys}]");
    let (mask_at, y) = if matches!(mask, Mask::Window) { (14, 15) } else { (13, 14) };
    let nodes = match mask {
        Mask::Added => format!(
            "v10: bool{full} = compare v9, v8 {{op: le}}
                 v11: f32{full} = const {{value: c0}}
                 v12: f32{full} = const {{value: c1}}
                 v13: f32{full} = select v10, v11, v12"
        ),
        Mask::Lower => format!(
            "v10: bool{full} = compare v8, v9 {{op: lt}}
                 v11: f32{full} = const {{value: c4}}
                 v12: f32{full} = const {{value: c2}}
                 v13: f32{full} = select v10, v12, v11"
        ),
        Mask::Window => format!(
            "v10: bool{full} = compare v9, v8 {{op: le}}
                 v11: i64{full} = const {{value: c3}}
                 v12: i64{full} = binary v8, v11 {{op: sub}}
                 v13: bool{full} = compare v12, v9 {{op: lt}}
                 v14: bool{full} = binary v10, v13 {{op: and}}"
        ),
    };
    let at = match rows {
        1 => "v6: i64[1] = reshape v4 {shape: [1]}".to_owned(),
        _ => format!("v6: i64[{rows}] = binary v4, v5 {{op: add}}"),
    };
    let text = format!(
        "module \"live\"
         const c0 \"\" f32{full} = splat 0x0
         const c1 \"\" f32{full} = splat 0xff800000
         const c2 \"\" f32{full} = splat 0xff7fffff
         const c3 \"\" i64{full} = splat 0x28
         const c4 \"\" f32{full} = splat 0x3f000000
         fn fn0 @main(v0: f32[1,4,{rows},16] \"q\", v1: f32[1,2,{keys},16] \"k\", v2: f32[1,2,{keys},16] \"v\", v3: i64[1] \"at\") -> (v{y}) {{
           v4: i64[{rows}] = broadcast v3 {{dims: [0], shape: [{rows}]}}
           v5: i64[{rows}] = iota {{elem: i64, shape: [{rows}], axis: 0}}
           {at}
           v7: i64[{rows},1] = reshape v6 {{shape: [{rows},1]}}
           v8: i64{full} = broadcast v7 {{dims: [2,3], shape: {full}}}
           v9: i64{full} = iota {{elem: i64, shape: {full}, axis: 3}}
           {nodes}
           v{y}: f32[1,4,{rows},16] = attention v0, v1, v2, v{mask_at} {{scale: 0.25, softcap: 0.0, causal: false, shift: 0, window: 0, empty_row: zero, elem: f32}}
         }}
         entry \"main\" fn0 (\"q\", \"k\", \"v\", \"at\") -> (\"y\")"
    );
    parse(&text, |_| None).unwrap_or_else(|e| panic!("{mask:?}: {e}\n{text}"))
}

fn inputs(module: &Module, position: u64) -> Vec<Tensor> {
    let func = &module.functions[module.entries[0].func];
    let make = |(i, &param): (usize, &lacuna_ir::Value)| {
        let ty = func.ty(param);
        let elem = ty.elem.scalar().expect("scalars");
        let values = if i == 3 { vec![position as f64] } else { numbers(i as u64, ty.shape.elements()) };
        Tensor::from_f64(elem, ty.shape.clone(), &values).expect("a sound tensor")
    };
    func.params.iter().enumerate().map(make).collect()
}

/// Compiles and runs at a few positions, and compares with the evaluator; says whether the loop over keys follows the position.
fn follows(name: &str, mask: Mask, rows: u64, keys: u64) -> bool {
    let module = module(mask, rows, keys);
    let object = compile(&module, &target(name).expect("a target"));
    for position in [0, 1, 31, 32, 63, 64, 127, 128, 255, 256, 257, keys / 2, keys - rows] {
        let tensors = inputs(&module, position);
        let [want, got] = both(&module, &object, &tensors);
        let wrong = want.iter().zip(got.iter()).position(|(w, g)| (w - g).abs() > EXACT || g.is_nan());
        assert_eq!(wrong, None, "{name} {mask:?} {rows} rows {keys} keys at {position}");
    }
    let attention = object.kernels.iter().find(|kernel| kernel.name == "attention").expect("one kernel");
    attention.trips.iter().any(|trip| trip.param.is_some())
}

#[test]
fn the_loop_over_keys_ends_at_the_position() {
    for name in
        ["mtia-300", "mtia-500", "tpu-v5p", "mtia-v2-reported"].into_iter().filter(|n| target(n).is_some())
    {
        for mask in [Mask::Added, Mask::Lower, Mask::Window] {
            for (rows, keys) in [(1, 1000), (1, 2048), (5, 1100), (40, 2048)] {
                assert!(follows(name, mask, rows, keys), "{name} {mask:?} {rows} {keys}");
            }
        }
    }
}

#[test]
fn a_quarter_of_the_tokens_costs_a_quarter_of_the_cache() {
    let module = module(Mask::Added, 1, 4096);
    for name in ["mtia-300", "mtia-500"] {
        let target = target(name).expect("a target");
        let object = compile(&module, &target);
        let bytes = |position: i32| {
            let options = ProfileOptions { position: Some(position), ..ProfileOptions::default() };
            let profile =
                lacuna_runtime::profile_with(&object, &target, 0, &options).expect("a valid object");
            profile.launches.iter().filter(|l| l.kernel == "attention").map(|l| l.hbm_bytes).sum::<u64>()
        };
        let (quarter, whole) = (bytes(1023), bytes(4095));
        assert!(quarter as f64 <= 0.26 * whole as f64, "{name}: {quarter} of {whole} bytes");
    }
}
