//! Times of the interpreter.

use crate::common::{check_failure, json_in, testdata};

#[test]
fn times_are_of_the_runs_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = testdata("digits-cnn").join("model.onnx").to_string_lossy().into_owned();
    let (exit, json) = json_in(folder.path(), &["bench", &model, "--runs", "3", "--warmup", "0"]);
    assert_eq!(exit, 0, "{json}");
    let ms = |field: &str| json[field].as_f64().unwrap();
    assert!(0.0 < ms("least_ms") && ms("least_ms") <= ms("median_ms"), "{json}");
    assert!(ms("median_ms") <= ms("greatest_ms") && ms("first_ms") <= ms("greatest_ms"), "{json}");
    assert!(json["runs"] == 3 && json["macs"].as_u64().unwrap() > 0 && ms("gflops") > 0.0, "{json}");
    check_failure(folder.path(), &["bench", &model, "--runs", "0"], 2, "L0001");
}
