//! Questions that take one command: what a file is, whether it is legal, whether a model computes what one's own data says.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::{Dim, F32, check_failure, floats, json_in, lacuna_in, model, node, port, save, testdata};

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
    check_failure(at, &["info", "text"], 2, "L0023");
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

/// A fault of the tables has the line of the statement that is at fault, as one of a stream has.
#[test]
fn every_fault_of_a_text_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let digits = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    assert!(lacuna_in(at, &["compile", &digits, "--prune", "2:4", "-o", "m.lac"]).status.success());
    assert!(lacuna_in(at, &["disasm", "m.lac", "-o", "m.s"]).status.success());
    let text = fs::read_to_string(at.join("m.s")).unwrap();
    // The first line that begins so and has `from`, and what it becomes.
    let check = |start: &str, from: &str, to: &str, expect: &str| {
        let found = |line: &str| line.trim_start().starts_with(start) && line.contains(from);
        let number = text.lines().position(found).unwrap_or_else(|| panic!("no {start} with {from}"));
        let edit = |(i, line): (usize, &str)| {
            if i == number { line.replacen(from, to, 1) + "\n" } else { format!("{line}\n") }
        };
        fs::write(at.join("bad.s"), text.lines().enumerate().map(edit).collect::<String>()).unwrap();
        let output = lacuna_in(at, &["check", "bad.s"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(2 | 3)), "{start}: {errors}");
        let place = format!("bad.s:{}: ", number + 1);
        assert!(errors.contains(&place) && errors.contains(expect), "{start} {from}: no {place} in {errors}");
        assert!(
            errors.matches("reason: bad.s").count() == errors.matches("reason: bad.s:").count(),
            "{errors}"
        );
    };
    check("object", "target \"mtia-300\"", "target \"mtia-3000\"", "mtia-3000");
    check("object", "sram ", "sram 9", "");
    check("kernel k0", "grid ", "grid 9", "");
    check("tensor r0", "planes 0", "planes 99999999999", "plane of tensor r0");
    check("buffer b0", " x ", " x 9", "slots");
    check("view v0", " k", " k9", "");
    check("view", " 2:4 ", " 3:7 ", "no pattern 3:7");
    check("launch #0 k0", "k0", "k99", "no kernel 99");
    check("launch #0", "(", "(sram:0, ", "bases for");
    check("input", "hbm:", "hbm:9999999999", "leaves its memory");
    check("output", "hbm:", "sram:", "is not in HBM");
    check("chain #1", "#1", "#999", "no launch 999");
    check("loop t0", "loop t0", "loop t99", "no trip t99");
    check("run", " p0", " p99", "no program p99");
    check("stream s0", "s0 b2", "s0 b33", "no buffer b33");
    check("load.f32", "s1", "s7", "no stream s7");
    check("end", "end", "halt", "`halt`");
}

/// A folder with a model and its data is one of the things that hold a model.
#[test]
fn a_test_folder_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let digits = testdata("digits-cnn").to_string_lossy().into_owned();
    assert_eq!(json_in(at, &["info", &digits]).1["kind"], "model");
    assert_eq!(json_in(at, &["compile", &digits, "-o", "m.lac"]).0, 0);
    let whole = json_in(at, &["profile", &digits]);
    assert_eq!(whole, json_in(at, &["profile", "m.lac"]));
    assert_eq!(json_in(at, &["inspect", &digits, "--stage", "imported"]).0, 0);
    fs::create_dir(at.join("empty")).unwrap();
    for command in ["compile", "profile", "info", "inspect", "check"] {
        let stage = if command == "inspect" { &["--stage", "all"][..] } else { &[] };
        check_failure(at, &[&[command, "empty"], stage].concat(), 2, "L0012");
    }
    // There is nothing to check in a model, and what to do is said.
    let json = check_failure(at, &["check", &digits], 2, "L0001");
    assert!(json["error"]["hint"].as_str().unwrap().contains("lacuna compile"), "{json}");
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

/// What a person reads first when something is wrong says what is wrong.
#[test]
fn mistakes_have_the_right_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    check_failure(at, &["explain", "nope.onnx"], 2, "L0002");
    check_failure(at, &["explain", "nope"], 2, "L0018");
    for code in ["l0201", "L201", "l201"] {
        assert_eq!(json_in(at, &["explain", code]).1["code"], "L0201", "{code}");
    }
    // Sizes that do not meet are named without the letters of a map.
    let [x, y] = [("x", 32), ("y", 10)].map(|(name, n)| port(name, F32, &[Dim::N(4), Dim::N(n)]));
    let mut product = model(vec![x], vec![node("MatMul", &["x", "w"], "y")], vec![y]);
    product.graph.as_mut().unwrap().initializer.push(floats("w", &[64, 10], &[0.5; 640]));
    save(&at.join("bad.onnx"), &product);
    let json = check_failure(at, &["compile", "bad.onnx"], 2, "L0111");
    let message = json["errors"][0]["message"].as_str().unwrap();
    assert!(message.ends_with("have the sizes 32 and 64"), "{message}");
    // A tensor of more elements than a view counts.
    save_two_outputs(at);
    let json = check_failure(at, &["compile", "m.onnx", "--dim", "batch=5000000000"], 3, "L0401");
    let message = json["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("has more elements than a view counts"), "{message}");
    // A reference of another shape is compared with nothing.
    fs::write(at.join("x.npy"), npy(&[1.0, -2.0])).unwrap();
    fs::write(at.join("y.npy"), npy(&[1.0, -2.0, 3.0, 4.0])).unwrap();
    let text = lacuna_in(at, &["verify", "m.onnx", "--input", "x=x.npy", "--expect", "z=y.npy"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("it is f32[1,2] instead of f32[2,2]") && !text.contains("exact"), "{text}");
}

/// The tiles of a node, and behind them the kernels that implement it, with their bodies.
#[test]
fn kernels_of_a_node_are_shown() {
    let path = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    let args = ["inspect", &path, "--stage", "tiled", "--node", "node_Conv_67"];
    let text = String::from_utf8(lacuna_in(Path::new("."), &args).stdout).unwrap();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    assert!(place("launch ") < place("kernel k") && place("kernel k") < place(" mm"), "{text}");
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

#[test]
fn layers_are_compared_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let spelling = |name: &str| testdata("../spellings").join(name).to_string_lossy().into_owned();
    for name in ["mixer", "guarded-attention", "convnext", "qdq"] {
        let model = spelling(name);
        let (exit, json) = json_in(at, &["verify", &model, "--layers"]);
        assert_eq!((exit, json["first"].is_null()), (0, true), "{name}: {json}");
        let layers = json["layers"].as_array().unwrap();
        assert!(layers.len() > 3, "{name}");
        // In mxfp4 the products differ most, and nothing is held to a bound.
        let options =
            ["verify", &model, "--layers", "--precision", "mxfp4", "--top", "1", "--csv", "all.csv"];
        let (exit, json) = json_in(at, &options);
        assert_eq!((exit, json["layers"].as_array().map(Vec::len)), (0, Some(1)));
        let rows = fs::read_to_string(at.join("all.csv")).unwrap().lines().count();
        assert_eq!(rows, layers.len() + 1, "{name}");
    }
    // A reference of the user's own, which one element is off.
    save_two_outputs(at);
    fs::create_dir(at.join("references")).unwrap();
    fs::write(at.join("x.npy"), npy(&[1.0, -2.0])).unwrap();
    fs::write(at.join("references/z.npy"), npy(&[1.0, 2.5])).unwrap();
    let options = ["verify", "m.onnx", "--input", "x=x.npy", "--layers", "--reference", "references"];
    let (exit, json) = json_in(at, &options);
    // The tensor is what its operand gives; only the reference has it otherwise.
    let differs = |exit: i32, json: &serde_json::Value| {
        assert_eq!((exit, json["first"]["name"].as_str()), (1, Some("z")), "{json}");
        let z = json["layers"].as_array().unwrap().iter().find(|l| l["name"] == "z").unwrap();
        assert_eq!((z["given"].as_bool(), z["max_abs_err"].as_f64()), (Some(true), Some(0.5)));
        assert_eq!((z["violation"].is_null(), z["reference_violation"].is_null()), (true, false));
    };
    differs(exit, &json);
    let options = ["verify", "m.onnx", "--input", "x=x.npy", "--layers", "--expect", "z=references/z.npy"];
    let (exit, json) = json_in(at, &options);
    differs(exit, &json);
    // Pruned weights are asked for, so nothing is judged.
    let (exit, json) = json_in(at, &[&options[..], &["--prune", "2:4"]].concat());
    assert_eq!((exit, json["first"].is_null()), (0, true), "{json}");
    fs::create_dir(at.join("others")).unwrap();
    fs::write(at.join("others/nobody.npy"), npy(&[1.0, 2.5])).unwrap();
    let options = ["verify", "m.onnx", "--input", "x=x.npy", "--layers", "--reference", "others"];
    check_failure(at, &options, 2, "L0008");
    check_failure(at, &["verify", "m.onnx", "--top", "3"], 2, "L0001");
}
