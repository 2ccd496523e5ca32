//! Questions that take one command: what a file is, whether it is legal, whether a model computes what one's own data says.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::{Dim, F32, check_failure, json_in, lacuna_in, model, node, port, save};

/// `y = -x`, `z = |x|` over a batch of open size.
fn save_two_outputs(folder: &Path) {
    let batch = [Dim::Name("batch"), Dim::N(2)];
    let outputs = vec![port("a/y", F32, &batch), port("z", F32, &batch)];
    let nodes = vec![node("Neg", &["x"], "a/y"), node("Abs", &["x"], "z")];
    save(&folder.join("m.onnx"), &model(vec![port("x", F32, &batch)], nodes, outputs));
}

fn npy(values: &[f32]) -> Vec<u8> {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 2), }}\n", values.len() / 2);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn npz(path: &Path, members: &[(&str, &[f32])]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, values) in members {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&npy(values)).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_file_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save_two_outputs(at);
    let (exit, json) = json_in(at, &["info", "m.onnx"]);
    assert_eq!(exit, 0);
    assert_eq!(json["inputs"][0]["type"], "f32[batch,2]");
    assert_eq!(json["dims"][0], "batch");
    assert_eq!((json["nodes"].as_u64(), json["operators"][0]["supported"].as_bool()), (Some(2), Some(true)));
    assert!(lacuna_in(at, &["compile", "m.onnx", "--dim", "batch=3", "-o", "m.lac"]).status.success());
    let (exit, json) = json_in(at, &["info", "m.lac"]);
    assert_eq!((exit, json["target"].as_str()), (0, Some("mtia-300")));
    assert_eq!(json["entries"][0]["inputs"][0]["type"], "f32[3,2]");
    assert_eq!(json["entries"][0]["outputs"].as_array().unwrap().len(), 2);
    fs::write(at.join("text"), "\x07 no model").unwrap();
    check_failure(at, &["info", "text"], 2, "L0006");
}

#[test]
fn a_text_that_was_edited_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save_two_outputs(at);
    assert!(lacuna_in(at, &["compile", "m.onnx", "--dim", "batch=3", "-o", "m.lac"]).status.success());
    assert!(lacuna_in(at, &["disasm", "m.lac", "-o", "m.s"]).status.success());
    for file in ["m.lac", "m.s"] {
        assert_eq!(json_in(at, &["check", file]).0, 0);
    }
    // A load goes: what it would have pushed is missing one instruction later.
    let text = fs::read_to_string(at.join("m.s")).unwrap();
    let load = text.lines().position(|line| line.trim_start().starts_with("ld ")).unwrap();
    let edited: Vec<&str> =
        text.lines().enumerate().filter(|(i, _)| *i != load).map(|(_, line)| line).collect();
    fs::write(at.join("bad.s"), edited.join("\n") + "\n").unwrap();
    let json = check_failure(at, &["check", "bad.s"], 2, "L0022");
    let message = json["errors"][0]["message"].as_str().unwrap();
    let user = edited.iter().position(|line| line.trim_start().starts_with("run ")).unwrap();
    assert!(message.contains(&format!("bad.s:{}: pop-empty", user + 1)), "{message}");
    fs::write(at.join("bad.s"), "nonsense\n").unwrap();
    check_failure(at, &["check", "bad.s"], 2, "L0013");
}

#[test]
fn verify_takes_data_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save_two_outputs(at);
    let x = [1.0, -2.0, 3.5, 0.0, -0.25, 8.0];
    let (neg, abs) = (x.map(|v: f32| -v), x.map(f32::abs));
    fs::write(at.join("x.npy"), npy(&x)).unwrap();
    fs::write(at.join("y.npy"), npy(&neg)).unwrap();
    fs::create_dir(at.join("expected")).unwrap();
    fs::write(at.join("expected/a_y.npy"), npy(&neg)).unwrap();
    fs::write(at.join("expected/z.npy"), npy(&abs)).unwrap();
    npz(&at.join("x.npz"), &[("x", &x)]);
    npz(&at.join("both.npz"), &[("a/y", &neg), ("z", &abs)]);
    let outputs = |args: &[&str]| {
        let (exit, json) = json_in(at, &[&["verify", "m.onnx"], args].concat());
        (exit, json["outputs"].as_array().map_or(0, Vec::len), json["reference"].as_str().map(str::to_owned))
    };
    let given = Some("reference outputs".to_owned());
    assert_eq!(outputs(&["--input", "x=x.npy", "--expect", "a/y=y.npy"]), (0, 1, given.clone()));
    assert_eq!(outputs(&["--input", "x.npz", "--expect", "expected"]), (0, 2, given.clone()));
    assert_eq!(outputs(&["--input", "x.npz", "--expect", "both.npz"]), (0, 2, given.clone()));
    assert_eq!(outputs(&["--input", "x=x.npy", "--expect", "z=y.npy"]), (1, 1, given));
    let evaluator = Some("the IR evaluator on the given inputs".to_owned());
    assert_eq!(outputs(&["--input", "x=x.npy"]), (0, 2, evaluator));
    let fails =
        |args: &[&str], code: &str| check_failure(at, &[&["verify", "m.onnx"], args].concat(), 2, code);
    fails(&["--input", "q=x.npy"], "L0007");
    fails(&["--input", "x=x.npy", "--expect", "q=y.npy"], "L0007");
    fails(&["--input", "x=x.npy", "--input", "x.npz"], "L0007");
    fails(&["--expect", "z=y.npy"], "L0001");
    fails(&["--input", "x=none.npy"], "L0002");
    fs::write(at.join("broken.npz"), b"PK no archive").unwrap();
    fails(&["--input", "broken.npz"], "L0006");
    // `run` takes the same forms.
    assert!(lacuna_in(at, &["compile", "m.onnx", "--dim", "batch=3", "-o", "m.lac"]).status.success());
    let (exit, json) = json_in(at, &["run", "m.lac", "--input", "x.npz", "--output", "out"]);
    assert_eq!((exit, json["random_inputs"].as_array().map(Vec::len)), (0, Some(0)));
    assert_eq!(outputs(&["--input", "x.npz", "--expect", "out"]).0, 0);
}

#[test]
fn shells_and_man_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = lacuna_in(at, &["completions", shell]);
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("verify"),
            "{shell}"
        );
    }
    assert!(lacuna_in(at, &["man", "-o", "man"]).status.success());
    let page = fs::read_to_string(at.join("man/lacuna-compile.1")).unwrap();
    assert!(page.contains("\\-\\-precision"), "{page}");
    // No argument at all is no mistake.
    let output = lacuna_in(at, &[]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Usage"));
}
