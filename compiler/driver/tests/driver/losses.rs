//! Nothing that belongs to the user is lost: no output replaces an input or another output, and what could not be written is said.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lacuna_onnx::proto::{StringStringEntryProto, TensorProto};

use crate::common::{
    Dim, F32, check_failure, json_in, lacuna_in, model, names, node, port, relu, save, testdata,
};

/// The bytes of every file below a folder that has no folders.
fn contents(folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    names(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn no_output_is_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let x = || port("x", F32, &[Dim::N(2)]);
    let mut external = model(vec![x()], vec![node("Add", &["x", "w"], "y")], vec![port("y", F32, &[])]);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    external.graph.as_mut().unwrap().initializer.push(TensorProto {
        dims: vec![2],
        data_type: F32,
        name: "w".into(),
        external_data: vec![entry("location", "weights.bin")],
        data_location: 1,
        ..TensorProto::default()
    });
    save(&at.join("m.onnx"), &external);
    fs::write(at.join("weights.bin"), [0u8; 8]).unwrap();
    let ok = |args: &[&str]| assert!(lacuna_in(at, args).status.success(), "{args:?}");
    ok(&["compile", "m.onnx", "-o", "m.lac"]);
    ok(&["disasm", "m.lac", "-o", "m.s"]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("weights.bin", at.join("link")).unwrap();
    let before = contents(at);
    for args in [
        &["compile", "m.onnx", "-o", "m.onnx"][..],
        &["compile", "m.onnx", "-o", "weights.bin"],
        &["compile", "m.onnx", "-o", "./weights.bin"],
        #[cfg(unix)]
        &["compile", "m.onnx", "-o", "link"],
        &["disasm", "m.lac", "-o", "m.lac"],
        &["asm", "m.s", "-o", "m.s"],
        &["profile", "m.lac", "--trace", "m.lac"],
        &["explain", "m.onnx", "--svg", "m.onnx"],
    ] {
        check_failure(at, args, 2, "L0003");
        assert_eq!(contents(at), before, "{args:?}");
    }
}

#[test]
fn every_output_has_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let outputs = ["a/b", "a b", "a_b", "A_B"];
    let nodes = outputs.iter().zip(["Sin", "Neg", "Exp", "Cos"]).map(|(name, op)| node(op, &["x"], name));
    let ports = outputs.iter().map(|name| port(name, F32, &[])).collect();
    save(&at.join("m.onnx"), &model(vec![port("x", F32, &[Dim::N(3)])], nodes.collect(), ports));
    assert!(lacuna_in(at, &["compile", "m.onnx", "-o", "m.lac"]).status.success());
    let (exit, json) = json_in(at, &["run", "m.lac", "--output", "out"]);
    assert_eq!(exit, 0);
    let files: BTreeSet<String> = json["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["file"].as_str().unwrap().to_lowercase())
        .collect();
    assert_eq!(files.len(), outputs.len());
    let bytes: BTreeSet<Vec<u8>> = contents(&at.join("out")).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes.len(), outputs.len());
    // What is written is read back under the names of the model, as outputs and as inputs.
    save_x(&at.join("in"));
    let run = ["run", "m.lac", "--input", "in", "--output", "own"];
    assert!(lacuna_in(at, &run).status.success());
    let (exit, json) = json_in(at, &["verify", "m.onnx", "--input", "in", "--expect", "own"]);
    assert_eq!(exit, 0, "{json}");
    let echo = outputs.iter().map(|name| node("Identity", &[name], &format!("{name} again")));
    let ports =
        |suffix: &str| outputs.iter().map(|n| port(&format!("{n}{suffix}"), F32, &[Dim::N(3)])).collect();
    save(&at.join("echo.onnx"), &model(ports(""), echo.collect(), ports(" again")));
    assert!(lacuna_in(at, &["compile", "echo.onnx", "-o", "echo.lac"]).status.success());
    let (exit, json) = json_in(at, &["run", "echo.lac", "--input", "own", "--output", "echoed"]);
    assert_eq!(exit, 0, "{json}");
    assert_eq!(contents(&at.join("echoed")).len(), outputs.len());
    let json =
        check_failure(at, &["verify", "m.onnx", "--input", "in", "--expect", "q=in/x.npy"], 2, "L0007");
    assert!(
        json["errors"][0]["message"].as_str().unwrap().starts_with("there is no such output: `q`"),
        "{json}"
    );
}

/// A folder with `x` of three elements.
fn save_x(folder: &std::path::Path) {
    let values: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(118u16.to_le_bytes());
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend(values);
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("x.npy"), bytes).unwrap();
}

#[test]
fn random_inputs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    assert!(lacuna_in(at, &["compile", "relu.onnx", "-o", "m.lac"]).status.success());
    let output = lacuna_in(at, &["run", "m.lac"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("random values of seed 0 for x"), "{errors}");
}

/// A full disk behind standard output.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    assert!(lacuna_in(at, &["compile", "relu.onnx", "-o", "m.lac"]).status.success());
    for args in [&["disasm", "m.lac"][..], &["targets"], &["targets", "--json"], &["--help"], &["--version"]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        let output = command.current_dir(at).args(args).stdout(full).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains("error[L0003]") && errors.contains("standard output"), "{args:?}: {errors}");
    }
}

/// A limit on the size of files is an error as a full disk is.
#[cfg(unix)]
#[test]
fn the_limit_of_a_files_size_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").join("model.onnx");
    let script =
        format!("ulimit -f 8; exec {} compile {} -o m.lac", env!("CARGO_BIN_EXE_lacuna"), model.display());
    let output = Command::new("sh").current_dir(at).args(["-c", &script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("error[L0003]") && errors.contains("m.lac"), "{errors}");
    assert!(names(at).is_empty(), "{:?}", names(at));
}

/// Kills the compiler at moments that are spread over its life: the old object or a new one is there, and nothing else.
#[cfg(unix)]
#[test]
fn signals_leave_nothing_behind() {
    const KILLS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let compile = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        command.current_dir(at).args(["compile", "relu.onnx", "-o", "m.lac"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // A run that is not killed, and the shell that kills, take about so long.
    let median = |command: &dyn Fn() -> Command| {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let started = Instant::now();
                assert!(command().status().unwrap().success());
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let life = median(&compile);
    let delay = median(&|| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "true"]);
        shell
    });
    let object = fs::read(at.join("m.lac")).unwrap();
    // Under `nohup` the command ignores HUP as its parents do; Linux says so.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    for (number, signal) in [(15, "TERM"), (1, "HUP"), (2, "INT")] {
        if ignored >> (number - 1) & 1 == 1 {
            continue;
        }
        // A run that ends before its kill says that the kills come late.
        let (mut killed, mut span) = (0, life);
        for n in 0.. {
            assert!(n < 20 * KILLS, "{killed} of {n} were killed before they were done");
            let mut child = compile().spawn().unwrap();
            std::thread::sleep((span * (n % KILLS) as u32 / KILLS as u32).saturating_sub(delay));
            // The shell's own `kill`, which every system has.
            let kill = format!("kill -{signal} {}", child.id());
            let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
            match child.wait().unwrap().success() {
                true => span = span * 49 / 50,
                false => killed += 1,
            }
            assert_eq!(names(at), ["m.lac", "relu.onnx"], "{signal} {n}");
            assert_eq!(fs::read(at.join("m.lac")).unwrap(), object, "{signal} {n}");
            if killed == KILLS {
                break;
            }
        }
    }
}
