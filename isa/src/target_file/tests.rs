//! All shipped files, and files that must be refused.

use super::*;

#[test]
fn every_shipped_file_loads() {
    for text in FILES {
        let loaded = TargetFile::parse(text);
        assert!(loaded.is_ok(), "{loaded:?}");
    }
    assert_eq!(targets().len(), FILES.len());
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
}

#[test]
fn a_waiver_admits_a_missed_peak() {
    let text = FILES[0].replace("value = 1120", "value = 1500");
    assert!(TargetFile::parse(&text).is_err());
    let text = text.replacen("[[macs]]", "[[macs]]\nwaiver = \"a reason\"", 1);
    assert!(TargetFile::parse(&text).is_ok());
}
