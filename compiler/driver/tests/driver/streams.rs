//! Standard input and output in place of files, and how much is said.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lacuna_onnx::proto::{StringStringEntryProto, TensorProto};

use crate::common::{F32, check_failure, lacuna_in, relu, save, testdata};

/// Runs the command with bytes on standard input.
fn piped(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.current_dir(folder).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn files_may_be_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("m.onnx"), &relu());
    let model = fs::read(at.join("m.onnx")).unwrap();
    assert!(lacuna_in(at, &["compile", "m.onnx"]).status.success());
    let object = fs::read(at.join("m.lac")).unwrap();

    let compiled = piped(at, &["compile", "-", "-o", "-"], &model);
    assert_eq!((compiled.status.code(), &compiled.stdout), (Some(0), &object));
    assert!(String::from_utf8_lossy(&compiled.stderr).contains("launches"));
    let text = piped(at, &["disasm", "-"], &object);
    assert_eq!(text.stdout, lacuna_in(at, &["disasm", "m.lac"]).stdout);
    assert_eq!(piped(at, &["disasm", "-", "-o", "-"], &object).stdout, text.stdout);
    assert_eq!(piped(at, &["asm", "-", "-o", "-"], &text.stdout).stdout, object);
    for (args, input) in [
        (&["verify", "-"][..], &model),
        (&["run", "-"], &object),
        (&["info", "-"], &model),
        (&["info", "-"], &object),
        (&["check", "-"], &object),
        (&["profile", "-"], &model),
        (&["profile", "-"], &object),
        (&["explain", "-"], &model),
        (&["inspect", "-", "--stage", "all"], &model),
    ] {
        let output = piped(at, args, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {errors}");
    }
    // A name for the object must come from somewhere, and standard output has one use.
    assert_eq!(piped(at, &["compile", "-"], &model).status.code(), Some(2));
    let both = piped(at, &["compile", "m.onnx", "-o", "-", "--json"], &model);
    assert!(both.status.code() == Some(2) && String::from_utf8_lossy(&both.stdout).contains("L0001"));
    assert_eq!(piped(at, &["compile", "-", "-o", "x.lac"], b"no model").status.code(), Some(2));
    assert_eq!(crate::common::names(at), ["m.lac", "m.onnx"]);
}

#[test]
fn quiet_and_verbose() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    let errors = |more: &[&str]| {
        let args = [&["compile", &model, "-o", "m.lac", "--precision", "mxfp8"][..], more].concat();
        let output = lacuna_in(at, &args);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let plain = errors(&[]);
    assert!(plain.starts_with("warning: ") && plain.lines().count() == 1, "{plain}");
    assert_eq!(errors(&["-q"]), "");
    let verbose = errors(&["-v"]);
    for step in ["importing", "optimizing", "selecting formats", "generating code", "checking", "done"] {
        assert!(
            verbose.lines().any(|line| line.contains(" s  ") && line.contains(step)),
            "{step}: {verbose}"
        );
    }
    assert!(verbose.ends_with(&plain), "{verbose}");
    check_failure(at, &["compile", &model, "-q", "-v"], 2, "L0001");
}

/// Of a command whose result is a file, quiet leaves nothing to say; what is the answer itself stays.
#[test]
fn quiet_says_nothing_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("m.onnx"), &relu());
    let said = |args: &[&str]| {
        let output = lacuna_in(at, args);
        assert!(output.status.success(), "{args:?}");
        (output.stdout.len(), output.stderr.len())
    };
    assert!(said(&["compile", "m.onnx"]).0 > 0);
    assert_eq!(said(&["disasm", "m.lac", "-o", "m.s"]), (0, 0));
    for args in [
        &["compile", "m.onnx", "-o", "m.lac"][..],
        &["compile", "m.onnx", "--precision", "int4:bf16", "-o", "m.lac"],
        &["asm", "m.s", "-o", "m.lac"],
        &["inspect", "m.onnx", "--stage", "all", "-o", "stages"],
        &["man", "-o", "pages"],
    ] {
        assert_eq!(said(&[args, &["-q"]].concat()), (0, 0), "{args:?}");
    }
    assert!(said(&["profile", "m.lac", "-q"]).0 > 0);
    assert!(!lacuna_in(at, &["compile", "none.onnx", "-q"]).stderr.is_empty());
}

/// What no program could hold is refused before it is tried, on the chip and on this computer.
#[test]
fn what_does_not_fit_is_said_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let batch = [crate::common::Dim::Name("batch"), crate::common::Dim::N(2)];
    let (x, y) = (crate::common::port("x", F32, &batch), crate::common::port("y", F32, &batch));
    save(
        &at.join("m.onnx"),
        &crate::common::model(vec![x], vec![crate::common::node("Neg", &["x"], "y")], vec![y]),
    );
    let json = check_failure(at, &["compile", "m.onnx", "--dim", "batch=100000000000"], 3, "L0011");
    assert!(json["error"]["message"].as_str().unwrap().contains("inputs and outputs take"), "{json}");
    // An object that takes 200 GB of the chip's HBM, which are more than most computers have.
    save(&at.join("relu.onnx"), &relu());
    assert!(lacuna_in(at, &["compile", "relu.onnx", "-o", "m.lac"]).status.success());
    let text = String::from_utf8(lacuna_in(at, &["disasm", "m.lac"]).stdout).unwrap();
    let (head, rest) = text.split_once(" hbm ").unwrap();
    let (_, rest) = rest.split_once(' ').unwrap();
    fs::write(at.join("m.s"), format!("{head} hbm 200000000000 {rest}")).unwrap();
    assert!(lacuna_in(at, &["asm", "m.s", "-o", "m.lac"]).status.success());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    if total.and_then(|kib| kib.trim().parse::<u64>().ok()).is_some_and(|kib| kib < 128 << 20) {
        check_failure(at, &["run", "m.lac"], 2, "L0024");
    }
}

/// A data file of a model is an input even if only a tensor that nothing uses is in it.
#[test]
fn data_files_that_nothing_reads_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let mut made = relu();
    made.graph.as_mut().unwrap().initializer.push(TensorProto {
        dims: vec![2],
        data_type: F32,
        name: "unused".into(),
        external_data: vec![entry("location", "unused.bin")],
        data_location: 1,
        ..TensorProto::default()
    });
    save(&at.join("m.onnx"), &made);
    fs::write(at.join("unused.bin"), [7u8; 8]).unwrap();
    check_failure(at, &["compile", "m.onnx", "-o", "unused.bin"], 2, "L0003");
    assert_eq!(fs::read(at.join("unused.bin")).unwrap(), [7u8; 8]);
}
