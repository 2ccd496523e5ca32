//! Commands that need no model: tables and explanations, for people and as JSON.

use std::path::Path;

use crate::common::{json_in, lacuna_in};

fn text(args: &[&str]) -> String {
    let output = lacuna_in(Path::new("."), args);
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    assert!(output.stderr.is_empty(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_names_every_command() {
    let help = text(&["--help"]);
    let commands = [
        "compile", "run", "verify", "inspect", "disasm", "asm", "profile", "sweep", "info", "check",
        "targets", "ops", "explain",
    ];
    for command in commands {
        assert!(help.contains(command), "{command}");
        assert!(text(&[command, "--help"]).contains("--json"), "{command}");
    }
}

#[test]
fn every_code_is_explained() {
    let (_, all) = json_in(Path::new("."), &["explain", "--all"]);
    let codes = all["codes"].as_array().unwrap();
    assert!(codes.len() > 30);
    for code in codes {
        let code = code["code"].as_str().unwrap();
        assert!(text(&["explain", code]).starts_with(&format!("{code}: ")), "{code}");
    }
}

#[test]
fn targets_show_their_sources() {
    let (_, all) = json_in(Path::new("."), &["targets"]);
    let all = all["targets"].as_array().unwrap();
    assert_eq!(all[0]["name"], "mtia-300");
    assert_eq!(all.len(), 17);
    for target in all {
        let name = target["name"].as_str().unwrap();
        let (_, one) = json_in(Path::new("."), &["targets", name]);
        let figures = one["figures"].as_array().unwrap();
        assert!(figures.iter().all(|f| f["source"].as_str().is_some_and(|s| !s.is_empty())), "{name}");
        let shown = text(&["targets", name]);
        assert!(shown.contains("status"), "{name}");
        assert_ne!(shown.contains("no table of energies"), one["has_energy"].as_bool().unwrap(), "{name}");
        let power = one["power_warnings"].as_array().unwrap();
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(power.iter().all(|w| words.contains(w.as_str().unwrap())), "{name}");
        let width = shown.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= 118, "{name}: a line of {width}");
        for peak in one["peaks"].as_array().unwrap() {
            let [declared, derived] =
                ["declared_tflops", "derived_tflops"].map(|f| peak[f].as_f64().unwrap());
            assert!((derived / declared - 1.0).abs() <= 0.05 || peak["waiver"].is_string(), "{name}: {peak}");
        }
    }
}

#[test]
fn operators_are_listed() {
    let (_, ops) = json_in(Path::new("."), &["ops"]);
    let n = ops["ops"].as_array().unwrap().len();
    assert!(text(&["ops"]).contains(&format!("{n} operators")));
    assert!(text(&["ops", "--markdown"]).contains("| Conv |"));
}
