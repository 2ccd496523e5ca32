//! States that stay between runs, entries side by side, and tokens made one after the other.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{check_failure, json_in, relu, save, testdata};

const STATE: [&str; 2] = ["--state", "past.*=present.*"];

/// Compiles the decode step of the adder, and more models, to `adder.lac`; the report.
fn compile(at: &Path, more: &[&str]) -> Value {
    let model = testdata("adder-decode").join("model.onnx");
    let args = [&["compile", model.to_str().unwrap(), "-o", "adder.lac"], &STATE[..], more].concat();
    let (exit, report) = json_in(at, &args);
    assert_eq!(exit, 0, "{report}");
    report
}

/// The ids of a question such as `^123+456=`.
fn question(a: u32, b: u32) -> String {
    let id = |symbol: char| "0123456789+=^".find(symbol).unwrap().to_string();
    format!("^{a:03}+{b:03}=").chars().map(id).collect::<Vec<_>>().join(",")
}

/// The digits of a sum, the last first.
fn answer(report: &Value) -> u32 {
    let digits = report["tokens"].as_array().unwrap();
    digits.iter().rev().fold(0, |sum, digit| 10 * sum + digit.as_u64().unwrap() as u32)
}

#[test]
fn sums_come_digit_by_digit() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for more in [&["--target", "mtia-300"][..], &["--target", "tpu7x"], &["--precision", "mxfp8"]] {
        let report = compile(at, more);
        assert_eq!(report["states"].as_array().unwrap().len(), 8, "{report}");
        assert!(!report["warnings"].to_string().contains("copied"), "{report}");
        for (a, b) in [(123, 456), (7, 998), (500, 500)] {
            let (exit, made) =
                json_in(at, &["generate", "adder.lac", "--prompt-ids", &question(a, b), "-n", "4"]);
            assert_eq!((exit, answer(&made)), (0, a + b), "{more:?}: {made}");
            assert!(made["token_microseconds"].as_f64().unwrap() > 0.0, "{made}");
        }
    }
    // The same seed gives the same tokens, and a candidate alone is the likeliest.
    let prompt = question(120, 3);
    let sample = |more: &[&str]| {
        let args = [&["generate", "adder.lac", "--prompt-ids", &prompt, "-n", "4"], more].concat();
        json_in(at, &args).1["tokens"].clone()
    };
    assert_eq!(
        sample(&["--temperature", "9", "--seed", "4"]),
        sample(&["--temperature", "9", "--seed", "4"])
    );
    assert_eq!(sample(&["--temperature", "9", "--top-k", "1"]), sample(&[]));
    assert_eq!(sample(&["--stop", "3"]).as_array().unwrap().len(), 1);
}

/// A step writes a row of each cache, and copies none.
#[test]
fn caches_stay_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    compile(at, &[]);
    let (_, profile) = json_in(at, &["profile", "adder.lac"]);
    let kernels = profile["kernels"].as_array().unwrap();
    let named = |name: &str| kernels.iter().filter(|kernel| kernel["name"] == name).count();
    assert_eq!((named("update"), named("copy")), (8, 0), "{profile}");
    // Weights once, caches read once, rows written once.
    let cache_bytes = 8 * 2 * 16 * 32 * 4;
    let bytes = profile["hbm_bytes"].as_u64().unwrap();
    let weights = json_in(at, &["info", "adder.lac"]).1["weight_bytes"].as_u64().unwrap();
    assert!(bytes <= (weights + cache_bytes) * 103 / 100, "{bytes} of {weights} and {cache_bytes}");
}

/// Two runs that hand on their states give what the reference has for the third.
#[test]
fn states_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    compile(at, &[]);
    let data = testdata("adder-decode").join("test_data_set_0");
    let tensor = |name: &str, value: u8| {
        // A file of NumPy's: a header of 128 bytes, then one i64.
        let shape = if name == "token" { "(1, 1)" } else { "(1,)" };
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let header = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}");
        bytes.extend(format!("{header:<117}\n").bytes());
        bytes.extend([value, 0, 0, 0, 0, 0, 0, 0]);
        fs::write(at.join(format!("{name}{value}.npy")), bytes).unwrap();
        format!("{name}={name}{value}.npy")
    };
    // ^1, then the 2 of the reference.
    for (position, token) in [(0, 12), (1, 1), (2, 2)] {
        let (token, place) = (tensor("token", token), tensor("position", position));
        // The last states take the place of those before them.
        let (before, after) = (format!("s{position}"), format!("s{}", (position + 1).min(2)));
        let mut args = vec!["run", "adder.lac", "--input", &token, "--input", &place];
        args.extend(["--save-state", &after]);
        if position > 0 {
            args.extend(["--load-state", &before]);
        }
        args.extend(["--output", "out"]);
        let (exit, report) = json_in(at, &args);
        assert_eq!(exit, 0, "{report}");
    }
    let npy = fs::read(at.join("out/logits.npy")).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let stored = fs::read(data.join("output_0.pb")).unwrap();
    let made = floats(&npy[npy.len() - 13 * 4..]);
    // The raw data of a tensor with one name ends its message, or stands in front of it.
    let found = (0..stored.len() - 13 * 4 + 1).any(|from| {
        let wanted = floats(&stored[from..from + 13 * 4]);
        wanted.iter().zip(&made).all(|(a, b)| (a - b).abs() <= 1e-4 + 1e-3 * b.abs())
    });
    assert!(found, "{made:?}");

    check_failure(at, &["run", "adder.lac", "--load-state", "out"], 2, "L0007");
    fs::write(at.join("s1/past.0.key.npy"), fs::read(at.join("token12.npy")).unwrap()).unwrap();
    check_failure(at, &["run", "adder.lac", "--load-state", "s1"], 2, "L0008");
}

/// Where one kernel reads the old value and makes the new one, that is copied, with a warning; options that states go with.
#[test]
fn what_changes_whole_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let (exit, report) = json_in(at, &["compile", "relu.onnx", "--state", "x=y"]);
    assert_eq!(exit, 0, "{report}");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("state x is copied in each run"), "{warnings}");
    let (exit, report) = json_in(at, &["run", "relu.lac", "--save-state", "s"]);
    assert_eq!((exit, report["outputs"].as_array().unwrap().len()), (0, 0), "{report}");
    assert_eq!(json_in(at, &["run", "relu.lac", "--load-state", "s"]).0, 0);
    check_failure(at, &["run", "relu.lac", "--load-state", "missing"], 2, "L0002");
}

#[test]
fn entries_share_what_is_equal() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let alone = compile(at, &[])["weight_bytes"].as_u64().unwrap();
    save(&at.join("relu.onnx"), &relu());
    let both = compile(at, &["--entry", "first", "--entry", "second"]);
    assert_eq!(both["entries"], serde_json::json!(["first", "second"]));
    assert!(both["weight_bytes"].as_u64().unwrap() <= alone * 102 / 100, "{both}");
    let (exit, made) = json_in(at, &["generate", "adder.lac", "--prompt-ids", &question(21, 34), "-n", "4"]);
    assert_eq!((exit, answer(&made)), (0, 55), "{made}");
    let step = |entry: &str| json_in(at, &["profile", "adder.lac", "--entry", entry]).1["cycles"].clone();
    assert_eq!(step("first"), step("second"));

    let model = testdata("adder-decode").join("model.onnx");
    let args = ["compile", "relu.onnx", model.to_str().unwrap(), "-o", "two.lac"];
    let (exit, report) = json_in(at, &args);
    assert_eq!((exit, &report["entries"]), (0, &serde_json::json!(["relu", "adder-decode"])), "{report}");
    let (exit, report) = json_in(at, &["run", "two.lac", "--entry", "relu"]);
    assert_eq!((exit, report["outputs"].as_array().unwrap().len()), (0, 1), "{report}");
    // The entry that generates nothing does not stand in the way of the one without states.
    check_failure(at, &["generate", "two.lac", "--prompt-ids", "1"], 2, "L0001");
    let (exit, report) = json_in(at, &["check", "two.lac"]);
    assert_eq!(exit, 0, "{report}");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let model = testdata("adder-decode").join("model.onnx");
    let model = model.to_str().unwrap();
    let state = |pair: &str, exit: i32, code: &str| {
        check_failure(at, &["compile", model, "-o", "x.lac", "--state", pair], exit, code)
    };
    state("past.9=present.9", 2, "L0025");
    state("past.*=future.*", 2, "L0025");
    state("token=logits", 2, "L0025");
    state("past.0.key", 2, "L0001");
    let twice = ["--state", "past.0.key=present.1.key"];
    check_failure(at, &[&["compile", model, "-o", "x.lac"], &STATE[..], &twice].concat(), 2, "L0025");
    check_failure(at, &["verify", "relu.onnx", "--state", "x=y"], 2, "L0001");
    check_failure(at, &["compile", "relu.onnx", "relu.onnx", "-o", "x.lac"], 2, "L0026");
    check_failure(at, &["compile", "relu.onnx", model, "--entry", "a", "-o", "x.lac"], 2, "L0001");

    compile(at, &[]);
    let ask = |prompt: &str, more: &[&str]| -> Value {
        let args = [&["generate", "adder.lac", "--prompt-ids", prompt], more].concat();
        check_failure(at, &args, 2, "L0008")
    };
    ask("1,13", &[]);
    ask("1,2,3", &["-n", "15"]);
    ask("", &[]);
    ask("1", &["-n", "18446744073709551615"]);
    check_failure(at, &["generate", "adder.lac", "--prompt-ids", "1", "--token", "nothing"], 2, "L0001");
    check_failure(at, &["generate", "adder.lac", "--prompt-ids", "nofile"], 2, "L0002");
    check_failure(at, &["run", "adder.lac", "--entry", "nothing"], 2, "L0026");
    assert_eq!(json_in(at, &["compile", "relu.onnx"]).0, 0);
    check_failure(at, &["generate", "relu.lac", "--prompt-ids", "1"], 2, "L0001");
}

/// Decoders as exporters write them, with caches that grow, of fixed size, or as the buffers of GroupQueryAttention: token for token what
/// ONNX Runtime finds likeliest, with and without an entry for several tokens.
#[test]
fn exported_decoders_say_what_the_reference_says() {
    let decoders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/decoders");
    let mut folders: Vec<_> = fs::read_dir(decoders).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 6, "{folders:?}");
    let scratch = tempfile::tempdir().unwrap();
    let object = scratch.path().join("decoder.lac");
    for (number, folder) in folders.iter().enumerate() {
        let told: Value = serde_json::from_slice(&fs::read(folder.join("decoder.json")).unwrap()).unwrap();
        let list = |value: &Value| -> Vec<String> {
            let of = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            value.as_array().unwrap().iter().map(of).collect()
        };
        let (prompt, tokens) = (list(&told["prompt"]).join(","), list(&told["tokens"]));
        for options in told["options"].as_array().unwrap() {
            let target = ["mtia-300", "mtia-500", "tpu-v5p"][number % 3];
            let options = list(options);
            let mut args = vec!["compile"];
            let (models, options): (Vec<&str>, Vec<&str>) =
                options.iter().map(String::as_str).partition(|option| option.ends_with(".onnx"));
            args.extend(models);
            args.extend(["model.onnx", "--state", "past_key_values.*=present.*", "--target", target]);
            args.extend(&options);
            args.extend(["-o", object.to_str().unwrap()]);
            let (exit, report) = json_in(folder, &args);
            assert_eq!(exit, 0, "{args:?}: {report}");
            let count = tokens.len().to_string();
            let generate = ["generate", object.to_str().unwrap(), "--prompt-ids", &prompt, "-n", &count];
            let (exit, made) = json_in(folder, &generate);
            assert_eq!((exit, list(&made["tokens"])), (0, tokens.clone()), "{args:?}: {made}");
        }
    }
}

#[test]
fn caches_that_grow_need_rows() {
    let scratch = tempfile::tempdir().unwrap();
    let object = scratch.path().join("decoder.lac");
    let object = object.to_str().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/decoders/llama-growing");
    let common =
        ["compile", "model.onnx", "--state", "past_key_values.*=present.*", "--dim", "s=4", "--dim", "t=4"];
    let args = [&common[..], &["--dim", "p=0", "-o", object]].concat();
    let refused = check_failure(&folder, &args, 2, "L0025");
    assert!(refused.to_string().contains("give it more rows by --state-length N"), "{refused}");
    let endless = ["--dim", "p=0", "--state-length", "18446744073709551615", "-o", object];
    let refused = check_failure(&folder, &[&common[..], &endless].concat(), 2, "L0025");
    assert!(refused.to_string().contains("give a smaller number by --state-length N"), "{refused}");
    let args = [&common[..], &["--dim", "p=0", "--state-length", "3", "-o", object]].concat();
    let (exit, report) = json_in(&folder, &args);
    assert_eq!(exit, 0, "{report}");
    let fixed = testdata("adder-decode").join("model.onnx");
    let (fixed, states) = (fixed.to_str().unwrap(), ["--state", "past.*=present.*", "--state-length", "8"]);
    let refused =
        check_failure(&folder, &[&["compile", fixed, "-o", object][..], &states].concat(), 2, "L0025");
    assert!(refused.to_string().contains("leave --state-length out"), "{refused}");
}
