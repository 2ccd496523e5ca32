//! All shipped files, and files that must be refused.

use super::*;

#[test]
fn every_shipped_file_loads() {
    for text in FILES {
        let loaded = TargetFile::parse(text);
        assert!(loaded.is_ok(), "{loaded:?}");
    }
    assert_eq!(targets().len(), FILES.len() + WHAT_IF.len());
    assert_eq!(targets()[0].name, DEFAULT_TARGET);
    assert!(target("mtia-9000").is_none());
}

/// Derived peaks in TFLOPS, from PEs, rate and clock.
#[test]
fn derived_peaks_meet_the_declared_ones() {
    let check = |name: &str, format: &str, declared: f64| {
        let target = target(name).unwrap();
        let format = Format::from_name(format).unwrap();
        let rate = target.mac_rate(format, format).unwrap();
        let derived = 2e-3 * rate * f64::from(target.n_pes()) * target.clock_ghz;
        assert!((derived / declared - 1.0).abs() < PEAK_TOLERANCE, "{name} {format}: {derived}");
    };
    check("mtia-300", "e4m3", 1120.0);
    check("mtia-300", "mxfp4", 1120.0);
    check("mtia-300", "bf16", 560.0);
    check("mtia-500", "mxfp4", 30000.0);
    check("mtia-500", "mxfp4g16", 30000.0);
    check("mtia-500", "mxfp8", 10000.0);
    check("mtia-500", "bf16", 5000.0);
    check("mtia-2i", "i8", 354.0);
    check("mtia-2i", "bf16", 177.0);
    check("mtia-400", "mxfp4g16", 12000.0);
    check("mtia-400", "mxint8g16", 6000.0);
    check("mtia-400", "bf16", 3000.0);
    check("mtia-450", "mxfp4g16", 21000.0);
    check("mtia-450", "e4m3", 7000.0);
    check("mtia-450", "bf16", 3500.0);
    check("mtia-v3-reported", "bf16", 560.0);
    check("tpu-v5p", "i8", 918.0);
    check("tpu-v5p", "bf16", 459.0);
    check("tpu5-reported", "bf16", 459.0);
    check("tpu7x", "e4m3", 4614.0);
    check("tpu7x", "bf16", 2307.0);
    check("maia-100", "mxfp4g16", 3000.0);
    check("maia-100", "mxint8g16", 1500.0);
    check("maia-100-reported", "bf16", 800.0);
    check("mi350x", "mxfp4", 9230.0);
    check("mi350x", "mxfp6e3m2", 9230.0);
    check("mi350x", "e5m2", 4610.0);
    check("mi350x", "bf16", 2310.0);
    check("trainium2", "e4m3", 1299.0);
    check("trainium2", "f16", 667.0);
    check("trainium2-reported", "f32", 181.0);
}

#[test]
fn units_are_converted() {
    let t = target("mtia-300").unwrap();
    assert_eq!((t.local_bytes, t.sram_bytes, t.hbm_bytes), (512 << 10, 192 << 20, 216_000_000_000));
    assert!((t.local_bytes_per_cycle - 1000.0).abs() < 1e-9);
    assert!((t.hbm_bytes_per_cycle - 6100.0 / 1.9).abs() < 1e-6);
}

#[test]
fn bad_files_are_refused() {
    let check = |from: &str, to: &str, expect: &str| {
        let text = FILES[0].replacen(from, to, 1);
        assert_ne!(text, FILES[0], "{from}");
        let error = TargetFile::parse(&text).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(
        "value = 1.9, unit = \"GHz\"",
        "value = 1.5, unit = \"GHz\"",
        "derived peak 884.7 TFLOPS, declared 1120.0",
    );
    check("unit = \"GHz\"", "unit = \"W\"", "the unit is none of GHz, MHz");
    check("value = 912", "value = -1", "not a positive number");
    check("\"e4m3\"", "\"e9m9\"", "format `e9m9`");
    check("\"e5m2\"", "\"e4m3\"", "format `e4m3`");
    check("status = \"published\"", "status = \"rumoured\"", "unknown variant `rumoured`");
    check("tdp =", "tpd =", "tpd");
    check(
        "status = \"published\", source = \"ISCA 2026, MTIA 300\"",
        "status = \"published\", source = \" \"",
        "no source",
    );
    check("unit = \"pJ/bit\", ", "", "unit");
    check("status = \"secondary\", ", "", "status");
    check("unit = \"pJ/B\"", "unit = \"pJ\"", "the unit is none of pJ/B, pJ/bit");
    check("formats = [\"f32\"]\nmac", "formats = []\nmac", "energy of format `f32`");
    check("formats = [\"f32\"]\nmac", "formats = [\"f32\", \"i8\"]\nmac", "energy of format `i8`");
    check("formats = [\"f32\"]\nmac", "formats = [\"f32\", \"bf16\"]\nmac", "energy of format `bf16`");
    check("n = 2\nm = 4", "n = 4\nm = 4", "pattern 4:4");
    check("n = 2\nm = 4", "n = 2\nm = 17", "pattern 2:17");
    check("n = 2\nm = 4", "n = 2\nm = 4\nformats = [\"bf16\", \"bf16\"]", "two factors");
    check("n = 2\nm = 4", "n = 2\nm = 4\nformats = [\"i8\"]", "format `i8`");
}

#[test]
fn a_waiver_admits_a_missed_peak() {
    let text = FILES[0].replace("value = 1120", "value = 1500");
    assert!(TargetFile::parse(&text).is_err());
    let text = text.replacen("[[macs]]", "[[macs]]\nwaiver = \"a reason\"", 1);
    assert!(TargetFile::parse(&text).is_ok());
}

#[test]
fn the_targets_to_ship_are_shipped() {
    let names: Vec<&str> = targets().iter().map(|t| t.name.as_str()).collect();
    let expect = [
        "mtia-300",
        "mtia-2i",
        "mtia-400",
        "mtia-450",
        "mtia-500",
        "mtia-v3-reported",
        "tpu-v5p",
        "tpu7x",
        "tpu5-reported",
        "maia-100",
        "maia-100-reported",
        "mi350x",
        "trainium2",
        "trainium2-reported",
        "mtia-300-hybrid-bonded",
        "mtia-500-hbm4-fast",
        "mtia-500-optical",
    ];
    assert_eq!(names, expect);
    let distinct: std::collections::HashSet<&str> = names.into_iter().collect();
    assert_eq!(distinct.len(), expect.len());
}

/// That it has a status is the type's doing.
#[test]
fn every_figure_has_unit_and_source() {
    for file in targets() {
        let figures = file.all_figures();
        assert!(figures.len() > 20, "{}", file.name);
        let mut labels = std::collections::HashSet::new();
        for (label, figure) in figures {
            let place = format!("{}: {label}", file.name);
            assert!(!figure.unit.is_empty(), "{place} has no unit");
            assert!(figure.source.trim().len() >= 12, "{place} has no source: {:?}", figure.source);
            assert!(labels.insert(label), "{place} comes twice");
        }
    }
}

/// A declared peak is what somebody declared, and what news texts report stands in a file of its own.
#[test]
fn statuses_are_where_they_belong() {
    for file in targets() {
        for macs in &file.macs {
            let peak = macs.peak.iter().all(|p| matches!(p.status, Status::Published | Status::Secondary));
            assert!(peak, "{}: peak of {:?}", file.name, macs.formats);
        }
        let asked = file.all_figures().iter().filter(|(_, f)| f.status == Status::WhatIf).count();
        assert_eq!(asked > 0, file.summary.starts_with("what if: "), "{}", file.name);
        let reported = file.all_figures().iter().filter(|(_, f)| f.status == Status::Reported).count();
        assert_eq!(reported > 0, file.name.ends_with("-reported"), "{}", file.name);
    }
}

#[test]
fn energies_on_the_chip_are_of_one_node() {
    for file in targets() {
        let Some(energy) = &file.energy else { continue };
        let node = format!("{} nm", energy.node.value);
        for (label, figure) in energy.figures() {
            let off_chip = ["energy: node", "energy: HBM"].contains(&label.as_str());
            assert!(off_chip || figure.source.contains(&node), "{}: {label}", file.name);
        }
    }
}

/// Which targets have a table is a decision: one without an anchor for its memory has none.
#[test]
fn energies_are_there_or_visibly_absent() {
    let with: Vec<&str> = targets().iter().filter(|t| t.energy.is_some()).map(|t| t.name.as_str()).collect();
    let expect = [
        "mtia-300",
        "mtia-400",
        "mtia-450",
        "mtia-500",
        "tpu-v5p",
        "maia-100",
        "maia-100-reported",
        "mi350x",
        "mtia-300-hybrid-bonded",
        "mtia-500-hbm4-fast",
        "mtia-500-optical",
    ];
    assert_eq!(with, expect);
    for file in targets() {
        assert_eq!(file.resolve().unwrap().energy.is_some(), file.energy.is_some(), "{}", file.name);
    }
}

/// A target as reported is the published one but for what the reports contradict.
#[test]
fn reported_targets_differ_where_the_reports_do() {
    let check = |published: &str, reported: &str, expect: &[&str]| {
        let find = |name: &str| targets().iter().find(|t| t.name == name).unwrap();
        let (published, reported) = (find(published), find(reported));
        let all = published.all_figures();
        let differing: Vec<String> = reported
            .all_figures()
            .into_iter()
            .filter(|(label, figure)| {
                !all.iter()
                    .any(|(other, f)| other == label && (f.value, &f.unit) == (figure.value, &figure.unit))
            })
            .map(|(label, _)| label)
            .collect();
        assert_eq!(differing, expect);
    };
    check("mtia-300", "mtia-300-hybrid-bonded", &["hbm_bandwidth", "hbm_latency", "energy: HBM"]);
    check("mtia-500", "mtia-500-hbm4-fast", &["hbm_bandwidth"]);
    check("mtia-500", "mtia-500-optical", &["link_bandwidth", "link_latency"]);
    check("maia-100", "maia-100-reported", &["hbm_bandwidth", "energy: HBM"]);
    check("trainium2", "trainium2-reported", &["hbm_bandwidth"]);
    check("tpu-v5p", "tpu5-reported", &["hbm_bandwidth", "2:4 sparsity"]);
    check("mtia-300", "mtia-v3-reported", &["hbm_bandwidth", "link_latency", "2:4 sparsity"]);
}

/// Effective TFLOPS of a product whose second operand follows a pattern, skipped products counted.
#[test]
fn sparse_rates() {
    let check = |name: &str, a: &str, b: &str, n: u8, m: u8, expect: f64| {
        let t = target(name).unwrap();
        let [a, b] = [a, b].map(|f| Format::from_name(f).unwrap());
        let rate = t.product_rate(a, b, Some(Pattern { n, m }));
        let tflops = 2e-3 * rate * f64::from(t.n_pes()) * t.clock_ghz;
        assert!((tflops / expect - 1.0).abs() < PEAK_TOLERANCE, "{name} {a} {b} {n}:{m}: {tflops}");
    };
    check("mtia-2i", "i8", "i8", 2, 4, 708.0);
    check("mtia-2i", "bf16", "bf16", 2, 4, 354.0);
    check("mtia-2i", "bf16", "bf16", 4, 8, 177.0);
    for (n, m) in [(4, 16), (4, 12), (4, 8), (2, 8), (2, 4), (1, 4), (1, 2)] {
        check("trainium2", "e4m3", "e4m3", n, m, 2563.0);
        check("trainium2", "f32", "f32", n, m, 181.0);
    }
    check("trainium2", "bf16", "bf16", 4, 16, 2563.0);
    check("trainium2", "bf16", "bf16", 4, 12, 3.0 * 667.0);
    check("trainium2", "bf16", "bf16", 2, 4, 2.0 * 667.0);
    check("trainium2", "e4m3", "bf16", 1, 4, 2563.0);
    check("mi350x", "e4m3", "e4m3", 2, 4, 9220.0);
    check("mi350x", "mxfp4", "mxfp4", 2, 4, 9230.0);
    check("tpu-v5p", "bf16", "bf16", 2, 4, 459.0);
    check("tpu5-reported", "bf16", "bf16", 2, 4, 1.3 * 459.0);
}

#[test]
fn power_over_the_design_power_is_reported() {
    for file in targets() {
        let warnings = file.resolve().unwrap().power_warnings();
        let found: Vec<(String, f64)> =
            warnings.iter().map(|w| (w.format.to_string(), w.modelled_w.round())).collect();
        let expect: &[(&str, f64)] = match file.name.as_str() {
            "mtia-400" => &[("bf16", 1285.0), ("f16", 1285.0), ("f32", 1518.0)],
            "mtia-450" => &[("bf16", 1740.0), ("f16", 1740.0), ("f32", 2012.0)],
            "mtia-500" | "mtia-500-optical" => &[("bf16", 2538.0), ("f16", 2538.0), ("f32", 2928.0)],
            "mtia-500-hbm4-fast" => {
                &[("mxfp4", 1769.0), ("mxfp4g16", 1769.0), ("bf16", 2713.0), ("f16", 2713.0), ("f32", 3103.0)]
            }
            _ => &[],
        };
        let expect: Vec<(String, f64)> = expect.iter().map(|(f, w)| ((*f).to_owned(), *w)).collect();
        assert_eq!(found, expect, "{}", file.name);
        assert!(warnings.iter().all(|w| w.modelled_w > w.tdp_w && w.to_string().contains("design power")));
    }
    let hot = FILES[0].replace("value = 912", "value = 390");
    let warnings = TargetFile::parse(&hot).unwrap().resolve().unwrap().power_warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!((warning.format, warning.tdp_w, warning.node_nm), (Format::F32, 390.0, 7.0));
    let hbm_w = 6.1e12 * 8.0 * 3.44e-12;
    let macs_w = 72.0 * 1024.0 * 1.9e9 * 1.63e-12;
    assert!((warning.modelled_w - hbm_w - macs_w).abs() < 1e-6);
}
