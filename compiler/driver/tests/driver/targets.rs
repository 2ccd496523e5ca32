//! Targets of the user's own: files, changed figures, objects that carry them.

use std::fs;

use crate::common::{check_failure, json_in, lacuna_in, testdata};

fn cycles(folder: &std::path::Path, options: &[&str]) -> u64 {
    let model = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    let (exit, json) =
        json_in(folder, &[&["profile", model.as_str(), "--precision", "mxfp8"], options].concat());
    assert_eq!(exit, 0, "{options:?}: {json}");
    json["cycles"].as_u64().expect("cycles")
}

#[test]
fn a_changed_figure_and_a_file_with_it_are_the_same_target() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (target, figure, value, unit) in [
        ("mtia-300", "hbm_bandwidth", "8", "TB/s"),
        ("tpu-v5p", "launch", "100", "cycle"),
        ("mtia-500", "clock", "2.5", "GHz"),
    ] {
        let plain = cycles(at, &["--target", target]);
        let set = format!("{figure}={value}{unit}");
        let changed = cycles(at, &["--target", target, "--set", &set]);
        assert_ne!(changed, plain, "{target} {set}");
        let on_base = format!("name = \"mine\"\nbase = \"{target}\"\n{figure} = \"{value} {unit}\"\n");
        fs::write(at.join("mine.toml"), on_base).unwrap();
        assert_eq!(cycles(at, &["--target", "mine.toml"]), changed, "{target} {set}");
    }
    // A whole file, without changes and with one figure that stands in it.
    assert!(lacuna_in(at, &["targets", "new", "--from", "mtia-300", "-o", "whole.toml"]).status.success());
    assert_eq!(cycles(at, &["--target", "whole.toml"]), cycles(at, &[]));
    let text = fs::read_to_string(at.join("whole.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("hbm_bandwidth")).unwrap();
    let other = line.replacen("value = 6.1", "value = 8", 1);
    assert_ne!(line, other);
    fs::write(at.join("whole.toml"), text.replacen(line, &other, 1)).unwrap();
    assert_eq!(cycles(at, &["--target", "whole.toml"]), cycles(at, &["--set", "hbm_bandwidth=8TB/s"]));
}

/// Machines of the future ship as questions, and are asked like others.
#[test]
fn questions_ship() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, base, figures) in [
        ("mtia-300-hybrid-bonded", "mtia-300", 3),
        ("mtia-500-hbm4-fast", "mtia-500", 1),
        ("mtia-500-optical", "mtia-500", 2),
    ] {
        let (exit, json) = json_in(at, &["targets", name]);
        assert_eq!(exit, 0, "{json}");
        let asked = json["figures"].as_array().unwrap().iter().filter(|f| f["status"] == "what-if").count();
        assert_eq!(asked, figures, "{name}");
        assert!(cycles(at, &["--target", name]) <= cycles(at, &["--target", base]), "{name}");
        assert!(
            lacuna_in(at, &["targets", "new", "--from", name, "-o", "mine.toml", "--force"]).status.success()
        );
        assert_eq!(cycles(at, &["--target", "mine.toml"]), cycles(at, &["--target", name]), "{name}");
    }
    // Patterns and energies are figures too.
    let energy = |options: &[&str]| {
        let model = testdata("digits-cnn-24").join("model.onnx").to_string_lossy().into_owned();
        let (exit, json) = json_in(at, &[&["profile", model.as_str()], options].concat());
        assert_eq!(exit, 0, "{json}");
        (json["cycles"].as_u64().unwrap(), json["energy"]["hbm"].as_f64().unwrap())
    };
    let plain = energy(&[]);
    let cheap = energy(&["--set", "energy.hbm=1.72pJ/bit"]);
    assert!(cheap.0 == plain.0 && (2.0 * cheap.1 / plain.1 - 1.0).abs() < 1e-9, "{plain:?} {cheap:?}");
    assert!(energy(&["--set", "pattern.2:4=none"]).0 > plain.0);
}

#[test]
fn an_object_carries_its_target() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    fs::write(at.join("mine.toml"), "name = \"mine\"\nbase = \"mtia-300\"\nlocal_memory = \"1 MiB\"\n")
        .unwrap();
    let ok = |args: &[&str]| {
        let output = lacuna_in(at, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    ok(&["compile", &model, "--target", "mine.toml", "-o", "m.lac"]);
    let before = json_in(at, &["profile", "m.lac"]).1;
    fs::remove_file(at.join("mine.toml")).unwrap();
    ok(&["run", "m.lac"]);
    assert_eq!(json_in(at, &["profile", "m.lac"]).1, before);
    ok(&["disasm", "m.lac", "-o", "m.s"]);
    ok(&["asm", "m.s", "-o", "again.lac"]);
    assert_eq!(fs::read(at.join("m.lac")).unwrap(), fs::read(at.join("again.lac")).unwrap());
    check_failure(at, &["profile", "m.lac", "--set", "clock=1GHz"], 2, "L0001");
}

#[test]
fn wrong_figures_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let check = |args: &[&str], expect: &str| {
        let json = check_failure(at, args, 2, "L0021");
        let message = json["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(expect), "{message}");
    };
    check(&["targets", "mtia-300", "--set", "hbm_bandwith=8TB/s"], "did you mean `hbm_bandwidth`?");
    check(&["targets", "mtia-300", "--set", "hbm_bandwidth=8TB"], "the unit is none of GB/s, TB/s");
    check(&["targets", "mtia-300", "--set", "hbm_bandwidth=-8TB/s"], "not a positive number");
    let beyond = ["clock=1e300GHz", "hbm_bandwidth=1e-30TB/s", "launch=1e12cycle", "hbm=1e-3B"];
    for figure in beyond {
        check(&["targets", "mtia-300", "--set", figure], "the value is not between");
    }
    check(&["targets", "mtia-300", "--set", "rate.mxfp9=8MAC/cycle"], "format `mxfp9`");
    assert!(lacuna_in(at, &["targets", "new", "--from", "mtia-300", "-o", "t.toml"]).status.success());
    let text = fs::read_to_string(at.join("t.toml")).unwrap();
    let line_of = |key: &str| text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let edit = |from: &str, to: &str| {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text);
        fs::write(at.join("t.toml"), edited).unwrap();
    };
    edit("unit = \"GHz\"", "unit = \"Hz\"");
    check(&["targets", "check", "t.toml"], &format!("t.toml:{}:1: `clock`", line_of("clock")));
    edit("value = 1.9, unit = \"GHz\"", "value = 1.2, unit = \"GHz\"");
    check(&["targets", "check", "t.toml"], &format!("t.toml:{}:1: ", line_of("peak")));
    edit("tdp =", "tpd =");
    check(&["targets", "check", "t.toml"], "tpd");
    check_failure(at, &["targets", "check", "none.toml"], 2, "L0002");
    fs::write(at.join("u.toml"), "name = \"mine\"\nbase = \"mtia-300\"\n[rate]\nmxfp9 = \"3 MAC/cycle\"\n")
        .unwrap();
    check(&["targets", "check", "u.toml"], "u.toml:4:1: format `mxfp9` is unknown: did you mean `mxfp");
    let json = check_failure(at, &["targets", "mtia300"], 2, "L0004");
    assert!(json["errors"][0]["hint"].as_str().unwrap().starts_with("did you mean `mtia-300`?"), "{json}");
    let twice = ["targets", "mtia-300", "--set", "clock=1GHz", "--set", "clock=2GHz"];
    let json = check_failure(at, &twice, 2, "L0001");
    assert!(
        json["errors"][0]["message"].as_str().unwrap().contains("--set gives `clock` more than one"),
        "{json}"
    );
    let (_, json) = json_in(at, &["targets", "mtia-300", "--set", "clock=1900MHz"]);
    assert_eq!(json["clock_ghz"], 1.9);
}

/// A file that was changed by hand is not written over, and `-` is standard output.
#[test]
fn new_files_replace_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let new = |options: &[&str]| lacuna_in(at, &[&["targets", "new"][..], options].concat());
    assert!(new(&["-o", "t.toml"]).status.success());
    fs::write(at.join("t.toml"), "changed").unwrap();
    let json = check_failure(at, &["targets", "new", "-o", "t.toml"], 2, "L0003");
    assert!(json["errors"][0]["hint"].as_str().unwrap().contains("--force"), "{json}");
    assert_eq!(fs::read_to_string(at.join("t.toml")).unwrap(), "changed");
    assert!(new(&["-o", "t.toml", "--force"]).status.success());
    assert!(fs::read_to_string(at.join("t.toml")).unwrap().contains("name = \"t\""));
    let shown = new(&["-o", "-"]);
    assert_eq!(shown.stdout, new(&[]).stdout);
    assert!(shown.stdout.starts_with(b"#") || shown.stdout.starts_with(b"name"));
    assert!(!at.join("-").exists());
}
