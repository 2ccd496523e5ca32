//! Tests of assembler and disassembler.

use proptest::prelude::*;

use super::*;
use crate::disasm::{Weights, disassemble, print_object};
use crate::testing;

#[test]
fn the_sample_reads_well() {
    let mut object = testing::sample();
    object.weights = Blob::new([vec![0; 300], (0..100).collect(), [1, 2].repeat(200), vec![7]].concat());
    insta::assert_snapshot!(disassemble(&object));
}

#[test]
fn the_sample_assembles_to_the_same_bytes() {
    let object = testing::sample();
    let again = assemble(&disassemble(&object)).unwrap();
    assert_eq!(again, object);
    assert_eq!(again.write().unwrap(), object.write().unwrap());
}

/// The file of a target is one line of text for each of its own, or one name with all of them.
#[test]
fn target_files_are_written_line_by_line() {
    for file in ["name = \"mine\"\nbase = 'mtia-300'\n", "a\r\n\n\tb", "one line"] {
        let object = Object { target_file: file.to_owned(), ..testing::sample() };
        let text = disassemble(&object);
        assert!(text.lines().all(|line| line.len() < 200), "{text}");
        assert_eq!(assemble(&text).unwrap(), object);
        let (head, rest) = text.split_once("figures {").unwrap();
        let (_, rest) = rest.split_once("\n}\n").unwrap();
        let whole = format!("{head}figures {}\n{rest}", crate::disasm::quoted(file));
        assert_eq!(assemble(&whole).unwrap(), object);
    }
}

#[test]
fn elided_weights_come_from_elsewhere() {
    let object = testing::sample();
    let text = print_object(&object, Weights::Elided);
    assert_eq!(assemble_with(&text, object.weights.clone()).unwrap(), object);
    assert_eq!(assemble(&text).unwrap_err()[0].message, "the weights are elided, and none are given");
    let error = assemble_with(&text, Blob::new(vec![0])).unwrap_err();
    assert_eq!(error[0].message, "1 bytes of weights are given");
}

#[test]
fn errors_point_at_their_place() {
    let text = disassemble(&testing::sample());
    let broken = text
        .replace("zero b2+:v3", "zreo b2+:v3")
        .replace("cast=col", "cast=column")
        .replace("pop b2, n=1", "pop b64, n=1")
        .replace("binary.max.f32", "binary.maxx.f32")
        .replace("tensor r1", "tensor r2")
        .replace("buffer b3 \"out\"", "buffer b3 \"out")
        .replace("trip t0 2", "tripp t0 2")
        .replace("launch #0 k0", "launch #0 o0")
        .replace("(64, 64) hbm:0", "(64, 64] hbm:0");
    let errors: Vec<String> = assemble(&broken).unwrap_err().iter().map(AsmError::to_string).collect();
    insta::assert_snapshot!(errors.join("\n\n"));
}

#[test]
fn hostile_texts_are_refused() {
    let check = |text: &str, expect: &str| {
        let errors = assemble(text).unwrap_err();
        assert!(errors.iter().any(|e| e.message.contains(expect)), "{errors:?}");
    };
    check("", "0 `object` statements");
    check("weights 99999999999999 {\n repeat 99999999999999 00\n}", "more than 4294967296 bytes");
    check("weights 4 {\n repeat 99999999999999999 0011\n}", "more than 4 bytes");
    check("weights 4 {\n 00112\n}", "pairs of hexadecimal digits");
    check("weights 4 {\n 0011\n}", "2 bytes of weights follow");
    check("weights 4 {", "a block does not end");
    check("kernel k0 \"\\q\" grid 1x1x1x1 {\n}", "unknown escape");
    check("kernel k0 \"k\" grid 1x1x1 {\n}", "a grid of four sizes");
    check("knrnel", "expected a statement");
}

/// A model of some megabytes must take about a second at most in an optimised build.
#[test]
fn megabytes_of_weights_are_quick() {
    let mut object = testing::sample();
    let mut state = 1u32;
    let bytes: Vec<u8> = (0..4 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    object.weights = Blob::new(bytes);
    let begin = std::time::Instant::now();
    assert_eq!(assemble(&disassemble(&object)).unwrap(), object);
    let seconds = begin.elapsed().as_secs_f64();
    assert!(seconds < 5.0, "{seconds} s");
}

proptest! {
    #[test]
    fn damaged_texts_never_panic(
        object in prop_oneof![testing::object(), Just(testing::sample())],
        edits in proptest::collection::vec((any::<prop::sample::Index>(), "[ -~\n]{0,2}", 0..4usize), 1..6),
    ) {
        let mut text: Vec<char> = print_object(&object, Weights::Elided).chars().collect();
        for (at, insert, n_deleted) in edits {
            let i = at.index(text.len() + 1);
            let end = (i + n_deleted).min(text.len());
            text.splice(i..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = assemble_with(&text, object.weights.clone()) {
            for error in errors {
                prop_assert!(error.line >= 1 && error.column >= 1);
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
