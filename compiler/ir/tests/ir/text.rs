//! The text form: what is printed reads back as the same module, and no text makes the parser panic.

use std::collections::HashMap;

use crate::common;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::text::{TextError, parse, print};
use lacuna_ir::verify::verify;
use lacuna_ir::{ConstantData, Module};
use proptest::prelude::*;

/// Parses with a module's own constants at hand.
fn reparse(module: &Module, text: &str) -> Result<Module, TextError> {
    let data: HashMap<[u8; 32], ConstantData> =
        module.constants.values().map(|c| (*c.hash(), c.data.clone())).collect();
    parse(text, |hash| data.get(hash).cloned())
}

/// Everything that a module holds, constants by content.
fn contents(module: &Module) -> String {
    let constants: Vec<_> = module
        .constants
        .values()
        .map(|c| {
            let data = match &c.data {
                ConstantData::Dense(blob) => format!("{:?}", blob.bytes()),
                ConstantData::Splat(code) => format!("splat {code}"),
            };
            (&c.name, &c.ty, data)
        })
        .collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        module.name, module.functions, module.entries, module.origins, constants
    )
}

#[track_caller]
fn check_round_trip(module: &Module) {
    let text = print(module);
    let again = reparse(module, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&again), text);
    assert_eq!(contents(&again), contents(module));
}

#[test]
fn every_operator_reads_back() {
    let module = common::every_operator();
    verify(&module).unwrap();
    check_round_trip(&module);
    insta::assert_snapshot!(print(&module));
    for name in lacuna_ir_operator_names() {
        assert!(print(&module).contains(&format!("= {name}")), "{name} is not in the sample");
    }
}

fn lacuna_ir_operator_names() -> Vec<&'static str> {
    macro_rules! names {
        ($($(#[$doc:meta])* $name:ident $text:literal $arity:tt $fields:tt)*) => { vec![$($text),*] };
    }
    lacuna_ir::for_each_op!(names)
}

#[test]
fn unusual_text_parses() {
    let text = r#"; a comment
        module "m" entry "e" fn1 () -> ("o")   ; items in any order
        fn fn0 @"odd name"() -> () { }
        fn fn1 @g() -> (v0) { v0: f64[] "\u{e9}\t" = iota {elem: f64, shape: [], axis: 0} = call {func: fn0}
        }"#;
    let module = parse(text, |_| None).unwrap();
    assert_eq!(module.functions.len(), 2);
    assert_eq!(module.functions.values().nth(1).unwrap().values.values().next().unwrap().name, "é\t");
    check_round_trip(&module);
}

/// The rendered error of a text.
fn error(text: &str) -> String {
    parse(text, |_| None).expect_err("not a module").to_string()
}

#[test]
fn errors_show_the_place_and_a_near_name() {
    let texts = [
        "modul \"m\"",
        "module \"m\"\nconts c0 \"\" f32[1] = [0x0]",
        "module \"m\"\nfn fn0 @f(v0: f32[2]) -> (v1) {\n  v1: f32[2] = unray v0 {op: exp}\n}",
        "module \"m\"\nfn fn0 @f(v0: f32[2]) -> (v1) {\n  v1: f32[2] = unary v0 {op: tahn}\n}",
        "module \"m\"\nfn fn0 @f(v0: f23[2]) -> (v0) {}",
        "module \"m\"\nfn fn0 @f(v0: f32[2]) -> (v1) {}",
        "module \"m\"\nfn fn0 @f(v0: f32[2], v2: f32[2]) -> (v0) {}",
        "module \"m\"\nfn fn0 @f(v0: f32[2], v0: f32[2]) -> (v0) {}",
        "module \"m\"\nfn fn1 @f() -> () {}",
        "module \"m\"\nconst c0 \"w\" f32[100] = blake3:0000000000000000000000000000000000000000000000000000000000000000",
        "module \"m\"\nconst c0 \"w\" f32[100] = blake3:12",
        "module \"m\"\nconst c0 \"w\" u4[2] = [0x1, 0x10]",
        "module \"m\"\nconst c0 \"w\" u4[2] = [0x1]",
        "module \"m\"\nconst c0 \"w\" mxfp8[2] = bytes \"00\"",
        "module \"m\" \"é\" $",
    ];
    insta::assert_snapshot!(texts.map(error).join("\n\n"));
}

#[test]
fn content_of_another_hash_is_refused() {
    let module = common::every_operator();
    let other = |_: &[u8; 32]| Some(ConstantData::Splat(0));
    let error = parse(&print(&module), other).expect_err("the content differs");
    assert!(error.message.contains("hash"), "{error}");
}

/// Evaluates every function on zeros; a result is not expected, a panic is a failure.
fn evaluate_if_small(module: &Module) {
    let elements =
        |f: &lacuna_ir::Function| f.values.values().map(|v| v.ty.shape.elements().min(1 << 20)).sum::<u64>();
    if module.functions.values().map(elements).sum::<u64>() > 100_000 {
        return;
    }
    for (id, function) in &module.functions {
        let zero = |&p: &lacuna_ir::Value| {
            let ty = function.ty(p).clone();
            let bytes = vec![0; ty.bytes() as usize];
            Tensor::from_bytes(ty, &bytes).expect("as long as the type says")
        };
        let inputs: Vec<Tensor> = function.params.iter().map(zero).collect();
        let _ = eval(module, id, &inputs, Mode::Typed);
    }
}

proptest! {
    #[test]
    fn random_graphs_read_back(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..24)) {
        let module = common::random_graph(&choices);
        prop_assert!(verify(&module).is_ok());
        check_round_trip(&module);
    }

    #[test]
    fn mutated_text_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..5, any::<char>()), 1..6)) {
        let module = common::every_operator();
        let mut chars: Vec<char> = print(&module).chars().collect();
        for (index, kind, c) in edits {
            let at = index.index(chars.len());
            let special = "()[]{},:=@->\"0x9vcf;\n-.e".chars().nth(c as usize % 24).unwrap_or('"');
            match kind {
                0 if chars.len() > 1 => { chars.remove(at); }
                1 => chars.insert(at, c),
                2 => chars[at] = special,
                3 => chars.truncate(at.max(1)),
                _ => { let copied = chars[at..].to_vec(); chars.extend(copied); }
            }
        }
        let text: String = chars.into_iter().collect();
        if let Ok(parsed) = reparse(&module, &text) {
            // What parses prints and, once verified, is a module like any other.
            let printed = print(&parsed);
            if verify(&parsed).is_ok() {
                prop_assert_eq!(print(&reparse(&module, &printed).unwrap()), printed);
                evaluate_if_small(&parsed);
            }
        }
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, |_| None);
    }
}
