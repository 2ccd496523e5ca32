//! Each rule of the verifier with modules that it must reject, and that verified modules evaluate.

use std::collections::BTreeSet;

use crate::common;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::text::parse;
use lacuna_ir::verify::verify;
use lacuna_ir::{ElemType, Module, Shape, ValueDef};
use lacuna_isa::format::{GroupFormat, ScalarType};

/// Numbers of the rules that a module breaks.
fn broken(module: &Module) -> Vec<u8> {
    let violations = verify(module).err().unwrap_or_default();
    violations.iter().map(|v| v.rule).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The rules that a text breaks.
#[track_caller]
fn check(text: &str, expect: &[u8]) {
    let module = parse(&format!("module \"m\"\n{text}"), |_| None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(broken(&module), expect, "{:?}", verify(&module));
}

#[test]
fn rule_1_types_are_sound() {
    check("fn fn0 @f(v0: f32[1,2,3,4,5,6,7,8,9]) -> () {}", &[1]);
    check("fn fn0 @f(v0: f32[4294967296,4294967296]) -> () {}", &[1]);
    check("fn fn0 @f(v0: f32[0,18446744073709551615]) -> () {}", &[1]);
    check("fn fn0 @f(v0: mxfp8@1[32]) -> () {}", &[1]);
    check("const c0 \"\" mxfp8@2[1,32] = bytes \"00\"", &[1]);
    let mut module = parse("module \"m\" fn fn0 @f(v0: mxfp8@0[32]) -> () {}", |_| None).unwrap();
    let value = module.functions.values_mut().next().unwrap().values.values_mut().next().unwrap();
    let format = GroupFormat { size: 0, ..GroupFormat::MXFP8 };
    value.ty.elem = ElemType::Grouped { format, axis: 0 };
    assert_eq!(broken(&module), [1]);
}

#[test]
fn rule_2_constants_have_their_data() {
    check("const c0 \"\" f32[2] = bytes \"00000000\"", &[2]);
    check("const c0 \"\" mxfp8@0[32] = splat 0x0", &[2]);
    check("const c0 \"\" f16[32] = splat 0x10000", &[2]);
    check("const c0 \"\" f16[32] = splat 0xffff", &[]);
}

#[test]
fn rule_3_values_are_defined_once() {
    let text = "module \"m\" fn fn0 @f(v0: f32[], v1: f32[]) -> (v1) { v2: f32[] = unary v0 {op: exp} }";
    let sound = parse(text, |_| None).unwrap();
    assert_eq!(broken(&sound), []);
    let edit = |change: &dyn Fn(&mut lacuna_ir::Function)| {
        let mut module = sound.clone();
        module.functions.values_mut().for_each(change);
        broken(&module)
    };
    let values: Vec<_> = sound.functions.values().next().unwrap().values.keys().collect();
    assert_eq!(edit(&|f| f.params.push(values[0])), [3]);
    assert_eq!(edit(&|f| f.values[values[1]].def = ValueDef::Param(7)), [3]);
    assert_eq!(edit(&|f| f.params.truncate(1)), [3, 4]);
    assert_eq!(edit(&|f| f.nodes.values_mut().for_each(|n| n.results[0] = values[0])), [3]);
}

#[test]
fn rule_4_definitions_precede_uses() {
    check("fn fn0 @f() -> (v0) { v0: f32[] = unary v1 {op: exp} v1: f32[] = unary v0 {op: exp} }", &[4]);
    check("fn fn0 @f() -> () { v0: f32[] = unary v0 {op: exp} }", &[4]);
    let mut module = parse("module \"m\" fn fn0 @f(v0: f32[]) -> (v0) {}", |_| None).unwrap();
    module.functions.values_mut().for_each(|f| f.values.clear());
    assert_eq!(broken(&module), [3, 4]);
}

#[test]
fn rule_5_operators_fit() {
    let node =
        |node: &str| format!("fn fn0 @f(v0: f32[2,3], v1: i32[2,3], v2: mxfp8@1[2,3]) -> () {{ {node} }}");
    for bad in [
        "v3: f32[2,3] = unary v0, v0 {op: exp}",
        "v3: f32[2,3] = unary {op: exp}",
        "v3: f32[3,2] = unary v0 {op: exp}",
        "v3: f32[2,3] = unary v0 {op: isnan}",
        "v3: f32[2,3], v4: f32[2,3] = unary v0 {op: exp}",
        "v3: f32[2,3] = unary v0 {op: not}",
        "v3: f32[2,3] = binary v0, v0 {op: shl}",
        "v3: f32[2,3] = binary v0, v1 {op: add}",
        "v3: mxfp8@1[2,3] = binary v2, v2 {op: add}",
        "v3: mxfp8@1[2,3] = slice v2 {starts: [0,1], shape: [2,2], steps: [1,1]}",
        "v3: f32[6] = reshape v2 {shape: [6]}",
        "v3: f32[7] = reshape v0 {shape: [7]}",
        "v3: f32[1] = reshape v0 {shape: [4294967296,4294967296,6]}",
        "v3: f32[2,3] = permute v0 {perm: [0,0]}",
        "v3: f32[2,4] = slice v0 {starts: [0,0], shape: [2,4], steps: [1,1]}",
        "v3: f32[2,3] = slice v0 {starts: [0,0], shape: [2,3], steps: [1,0]}",
        "v3: f32[2,6] = concat v0, v1 {axis: 1}",
        "v3: f32[] = const {value: c0}",
        "v3: f32[] = call v0 {func: fn9}",
        "v3: f32[2,3] = mx_decode v0 {to: f32}",
        "v3: i32[2,3] = mx_decode v2 {to: i32}",
        "v3: f32[2,3] = dequantize v0, v0 {blocks: [1,1], to: f32}",
        "v3: f32[2,3] = dequantize v2, v0 {blocks: [1,1], to: f32}",
        "v3: f32[2,3] = softmax v1 {axis: 0, log: false}",
        "v3: f32[3] = reduce v0 {op: sum, axes: [2]}",
        "v3: f32[2,2] = contract v0, v0 {map: \"mk,nk->mm\", elem: f32}",
        "v3: f32[2,2] = contract v0, v0 {map: \"mk,nj->mn\", elem: f32}",
        "v3: f32[2,2] = contract v2, v0 {map: \"km,kn->mn\", elem: f32}",
        "v3: f32[] = window v0 {axes: [0], sizes: [0], strides: [1], dilations: [1]}",
        "v3: f32[] = window v0 {axes: [0], sizes: [1], strides: [0], dilations: [1]}",
        "v3: f32[] = pad v0, v0 {low: [0,0], high: [0,0]}",
        "v3: f32[2,18446744073709551615] = broadcast v0 {dims: [0,1], shape: [2,18446744073709551615]}",
    ] {
        let rules = if bad.contains("18446744073709551615") { &[1, 5][..] } else { &[5] };
        check(&node(bad), rules);
    }
}

#[test]
fn rule_6_calls_are_acyclic_and_shallow() {
    check("fn fn0 @f() -> () { = call {func: fn0} }", &[6]);
    check("fn fn0 @f() -> () { = call {func: fn1} } fn fn1 @g() -> () { = call {func: fn0} }", &[6]);
    let chain = |n: usize| {
        let calls = (1..n).map(|i| {
            format!("fn fn{i} @f() -> () {{ = call {{func: fn{}}} = call {{func: fn0}} }}\n", i - 1)
        });
        format!("fn fn0 @f() -> () {{}}\n{}", calls.collect::<String>())
    };
    check(&chain(65), &[]);
    check(&chain(66), &[6]);
}

#[test]
fn rule_7_origins_exist_and_ascend() {
    let text = |list: &str| {
        format!(
            "origin o0 \"a\" \"A\" origin o1 \"b\" \"B\" fn fn0 @f(v0: f32[]) -> () {{ v1: f32[] = unary v0 {{op: exp}} @ [{list}] }}"
        )
    };
    check(&text("o0, o1"), &[]);
    check(&text("o1, o0"), &[7]);
    check(&text("o1, o1"), &[7]);
    check(&text("o2"), &[7]);
}

#[test]
fn rule_8_entries_name_functions() {
    let text = |entries: &str| format!("fn fn0 @f(v0: f32[], v1: f32[]) -> (v0) {{}} {entries}");
    check(&text("entry \"e\" fn0 (\"a\", \"b\") -> (\"c\")"), &[]);
    check(&text("entry \"e\" fn1 () -> ()"), &[8]);
    check(&text("entry \"e\" fn0 (\"a\") -> (\"c\")"), &[8]);
    check(&text("entry \"e\" fn0 (\"a\", \"b\") -> ()"), &[8]);
    check(&text("entry \"e\" fn0 (\"a\", \"a\") -> (\"c\")"), &[8]);
    check(&text("entry \"e\" fn0 (\"a\", \"b\") -> (\"c\") entry \"e\" fn0 (\"a\", \"b\") -> (\"c\")"), &[8]);
}

#[test]
fn every_violation_is_reported() {
    let text = "const c0 \"\" f32[2] = bytes \"00\" fn fn0 @f() -> () { v0: f32[] = unary v0 {op: exp} @ [o0] } entry \"\" fn3 () -> ()";
    check(text, &[2, 4, 7, 8]);
}

#[test]
fn the_sample_of_every_operator_evaluates() {
    let module = common::every_operator();
    assert_eq!(broken(&module), []);
    let entry = &module.entries[0];
    let x: Vec<f64> = (0..16).map(|i| f64::from(i) / 8.0 - 1.0).collect();
    let x = Tensor::from_f64(ScalarType::F32, [2u64, 8].as_slice(), &x).unwrap();
    let i = Tensor::from_f64(ScalarType::I64, [3u64].as_slice(), &[7.0, 0.0, 3.0]).unwrap();
    for mode in [Mode::Typed, Mode::Real] {
        let outputs = eval(&module, entry.func, &[x.clone(), i.clone()], mode).unwrap();
        assert_eq!(outputs.len(), entry.outputs.len());
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    /// A number in `low..high`.
    fn next(&mut self, low: i64, high: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((self.0 >> 33) % (high - low) as u64) as i64
    }

    /// `[n, n, ..]` of numbers in `low..high`.
    fn list(&mut self, n: usize, low: i64, high: i64) -> String {
        format!("{:?}", (0..n).map(|_| self.next(low, high)).collect::<Vec<_>>())
    }
}

/// Whatever attributes a node has: if it is verified, it evaluates, and to a sound tensor.
#[test]
fn verified_nodes_evaluate() {
    let mut r = Numbers(1);
    let mut evaluated = [0; 13];
    for attempt in 0..45_000 {
        let dims: Vec<u64> = (0..3).map(|_| r.next(0, 5) as u64).collect();
        let op = attempt % evaluated.len();
        let node = match op {
            0 => format!(
                "slice v0 {{starts: {}, shape: {}, steps: {}}}",
                r.list(3, -1, 4),
                r.list(3, 0, 3),
                r.list(3, -2, 3)
            ),
            1 => format!(
                "window v0 {{axes: {}, sizes: {}, strides: {}, dilations: {}}}",
                ["[0,1]", "[2,0]", "[1,2]", "[1,1]"][r.next(0, 4) as usize],
                r.list(2, 0, 4),
                r.list(2, 0, 4),
                r.list(2, 0, 3)
            ),
            2 => format!("permute v0 {{perm: {}}}", r.list(3, 0, 3)),
            3 => format!(
                "broadcast v0 {{dims: [0,{},3], shape: [{},{},3,{}]}}",
                r.next(0, 4),
                dims[0],
                dims[1],
                dims[2]
            ),
            4 => format!(
                "conv v0, v0 {{attrs: {{x: [{}], w: [0,1,2], out: [1,0,2], strides: {}, dilations: {}, \
                 x_dilations: {}, low: {}, high: {}, groups: {}}}, elem: f32}}",
                ["0,1,2", "1,0,2", "2,1,0", "0,0,1"][r.next(0, 4) as usize],
                r.list(1, 0, 3),
                r.list(1, 0, 3),
                r.list(1, 0, 3),
                r.list(1, -3, 4),
                r.list(1, -3, 4),
                r.next(0, 3)
            ),
            5 => format!("norm v0 {{axes: {}, centre: true, eps: 0.0}}", r.list(2, 0, 4)),
            6 => format!("softmax v0 {{axis: {}, log: true}}", r.next(0, 4)),
            7 => format!("mx_quantize v0 {{format: mxfp4, axis: {}, mode: even}}", r.next(0, 4)),
            8 => format!("arg_reduce v0 {{max: false, axis: {}, last: true}}", r.next(0, 4)),
            9 => format!("cumulate v0 {{op: mean, axis: {}, exclusive: true, reverse: true}}", r.next(0, 4)),
            11 => format!("sort v0 {{k: {}, descending: {}}}", r.next(0, 4), r.next(0, 2) == 0),
            10 => format!("reduce v0 {{op: mean, axes: {}}}", r.list(2, 0, 4)),
            _ => format!(
                "contract v0, v0 {{map: \"{}\", elem: bf16}}",
                ["abc,abc->", "abc,abd->cd", "abc,ade->abcde", "abc,cba->b", "abc,abc->ca"]
                    [r.next(0, 5) as usize]
            ),
        };
        // The type comes from the violation that a wrong guess gives.
        let shape = Shape(dims.clone());
        let text =
            |ty: &str| format!("module \"m\" fn fn0 @f(v0: f32{shape}) -> (v1) {{ v1: {ty} = {node} }}");
        let guess = parse(&text("f32[9,9,9]"), |_| None).unwrap_or_else(|e| panic!("{e}"));
        let Err(violations) = verify(&guess) else { panic!("{node} of {shape} is f32[9,9,9]") };
        let Some((_, rest)) = violations[0].message.split_once("v1 is ") else { continue };
        let ty = rest.split(", recorded").next().unwrap_or("");
        let module = parse(&text(ty), |_| None).unwrap();
        assert_eq!(broken(&module), []);
        let func = module.functions.keys().next().unwrap();
        let x: Vec<f64> = (0..shape.elements()).map(|i| i as f64).collect();
        let x = Tensor::from_f64(ScalarType::F32, shape, &x).unwrap();
        let out = eval(&module, func, &[x], Mode::Typed).unwrap_or_else(|e| panic!("{node}: {e}"));
        assert!(Tensor::new(out[0].ty.clone(), out[0].data.clone()).is_ok(), "{node}");
        evaluated[op] += 1;
    }
    assert!(evaluated.iter().all(|&n| n > 50), "too few sound nodes of one kind: {evaluated:?}");
}
