//! Constant folding and dead code: what stays, what goes, and that meaning stays.

use crate::common;
use lacuna_ir::dead::{dead_code, users};
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::fold::fold_constants;
use lacuna_ir::text::{parse, print};
use lacuna_ir::verify::verify;
use lacuna_isa::format::ScalarType;
use proptest::prelude::*;

/// Folds, removes what is dead, and compares with the expected text.
#[track_caller]
fn check(before: &str, after: &str) {
    let mut module = parse(&format!("module \"m\"\n{before}"), |_| None).unwrap_or_else(|e| panic!("{e}"));
    verify(&module).unwrap();
    fold_constants(&mut module);
    verify(&module).unwrap();
    dead_code(&mut module);
    verify(&module).unwrap();
    let expect = parse(&format!("module \"m\"\n{after}"), |_| None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print(&module), print(&expect));
}

#[test]
fn arithmetic_folds_and_dead_constants_go() {
    check(
        "const c0 \"a\" f32[2] = [0x3f800000, 0x40000000]
         const c1 \"unused\" f32[] = [0x0]
         fn fn0 @f(v0: f32[2] \"x\") -> (v4) {
           v1: f32[2] = const {value: c0}
           v2: f32[2] \"sum\" = binary v1, v1 {op: add}
           v3: f32[2] = unary v0 {op: exp}
           v4: f32[2] = binary v0, v2 {op: mul}
         }",
        "const c0 \"\" f32[2] = [0x40000000, 0x40800000]
         fn fn0 @f(v0: f32[2] \"x\") -> (v2) {
           v1: f32[2] \"sum\" = const {value: c0}
           v2: f32[2] = binary v0, v1 {op: mul}
         }",
    );
}

#[test]
fn broadcasts_and_codes_stay_recipes() {
    let recipe = "const c0 \"a\" f32[] = [0x3f800000]
         const c1 \"w\" mxfp8@0[4] = bytes \"3838383880\"
         fn fn0 @f() -> (v1, v3) {
           v0: f32[] = const {value: c0}
           v1: f32[1000] = broadcast v0 {dims: [], shape: [1000]}
           v2: mxfp8@0[4] = const {value: c1}
           v3: f32[4] = mx_decode v2 {to: f32}
         }";
    check(recipe, recipe);
    check(
        "const c0 \"a\" f32[] = [0x3f800000]
         fn fn0 @f() -> (v2) {
           v0: f32[] = const {value: c0}
           v1: f32[1000] = broadcast v0 {dims: [], shape: [1000]}
           v2: f32[1000] = binary v1, v1 {op: add}
         }",
        "const c0 \"\" f32[1000] = splat 0x40000000
         fn fn0 @f() -> (v0) { v0: f32[1000] = const {value: c0} }",
    );
}

#[test]
fn large_masks_stay_recipes_and_small_ones_fold() {
    let mask = |n: u64| {
        format!(
            "fn fn0 @f() -> (v2) {{
               v0: i32[{n},{n}] = iota {{elem: i32, shape: [{n},{n}], axis: 0}}
               v1: i32[{n},{n}] = iota {{elem: i32, shape: [{n},{n}], axis: 1}}
               v2: bool[{n},{n}] = compare v0, v1 {{op: lt}}
             }}"
        )
    };
    check(&mask(128), &mask(128));
    check(
        &mask(2),
        "const c0 \"\" bool[2,2] = [0x0, 0x1, 0x0, 0x0]
         fn fn0 @f() -> (v0) { v0: bool[2,2] = const {value: c0} }",
    );
}

#[test]
fn what_cannot_be_evaluated_stays() {
    let text = "const c0 \"a\" i64[1] = [0x5]
         fn fn0 @f() -> (v1) {
           v0: i64[1] = const {value: c0}
           v1: i64[1] = gather v0, v0 {axis: 0, batch: 0}
         }";
    check(text, text);
}

#[test]
fn users_are_listed_per_operand() {
    let text = "module \"m\" fn fn0 @f(v0: f32[]) -> (v2) {
        v1: f32[] = binary v0, v0 {op: add}
        v2: f32[] = binary v1, v0 {op: add} }";
    let module = parse(text, |_| None).unwrap();
    let func = module.functions.values().next().unwrap();
    let nodes: Vec<_> = func.nodes.keys().collect();
    let users = users(func);
    assert_eq!(users[func.params[0]], [nodes[0], nodes[0], nodes[1]]);
    assert_eq!(users[func.results[0]], []);
}

proptest! {
    #[test]
    fn simplified_graphs_mean_the_same(
        choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..24),
        x in prop::collection::vec(-4.0f64..4.0, 6),
    ) {
        let before = common::random_graph(&choices);
        let mut after = before.clone();
        fold_constants(&mut after);
        dead_code(&mut after);
        prop_assert!(verify(&after).is_ok());
        let x = Tensor::from_f64(ScalarType::F32, [2u64, 3].as_slice(), &x).unwrap();
        let func = before.entries[0].func;
        let run = |module| eval(module, func, std::slice::from_ref(&x), Mode::Typed).unwrap();
        for (a, b) in run(&before).iter().zip(run(&after)) {
            prop_assert_eq!(a.to_bytes(), b.to_bytes());
        }
    }
}
