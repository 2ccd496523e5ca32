//! Dead code: what stays, what goes, and that meaning stays.

use crate::common;
use lacuna_ir::dead::dead_code;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::text::{parse, print};
use lacuna_ir::verify::verify;
use lacuna_isa::format::ScalarType;
use proptest::prelude::*;

/// Removes what is dead, and compares with the expected text.
#[track_caller]
fn check(before: &str, after: &str) {
    let mut module = parse(&format!("module \"m\"\n{before}"), |_| None).unwrap_or_else(|e| panic!("{e}"));
    verify(&module).unwrap();
    dead_code(&mut module);
    verify(&module).unwrap();
    let expect = parse(&format!("module \"m\"\n{after}"), |_| None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print(&module), print(&expect));
}

#[test]
fn nodes_and_constants_without_use_go() {
    check(
        "const c0 \"a\" f32[2] = [0x3f800000, 0x40000000]
         const c1 \"unused\" f32[] = [0x0]
         const c2 \"b\" f32[2] = [0x3f800000, 0x3f800000]
         fn fn0 @f(v0: f32[2] \"x\") -> (v5) {
           v1: f32[2] = const {value: c0}
           v2: f32[2] = binary v0, v1 {op: add}
           v3: f32[2] = const {value: c2}
           v4: f32[2] = unary v2 {op: exp}
           v5: f32[2] = binary v0, v3 {op: mul}
         }",
        "const c0 \"b\" f32[2] = [0x3f800000, 0x3f800000]
         fn fn0 @f(v0: f32[2] \"x\") -> (v2) {
           v1: f32[2] = const {value: c0}
           v2: f32[2] = binary v0, v1 {op: mul}
         }",
    );
}

proptest! {
    #[test]
    fn simplified_graphs_mean_the_same(
        choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..24),
        x in prop::collection::vec(-4.0f64..4.0, 6),
    ) {
        let before = common::random_graph(&choices);
        let mut after = before.clone();
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
