//! Bad input gives a diagnostic with its code and exit status: never a panic, never a part of an output.

use std::fs;

use crate::common::{
    Dim, F32, I64, check_failure, floats, json_in, lacuna_in, model, names, node, port, relu, save,
};
use lacuna_onnx::proto::{StringStringEntryProto, TensorProto};

#[test]
fn usage() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    for args in [
        &["compile"][..],
        &["frobnicate"],
        &["compile", "relu.onnx", "--dim", "N"],
        &["compile", "relu.onnx", "--dim", "N=-1"],
        &["compile", "relu.onnx", "--precision", "f12"],
        &["verify", "relu.onnx", "--rtol", "-1"],
        &["verify", "relu.onnx", "--min-agreement", "101"],
        &["inspect", "relu.onnx", "--stage", "no"],
        &["compile", "relu.onnx", "--dim", "N=1", "--dim", "N=2"],
    ] {
        check_failure(at, args, 2, "L0001");
    }
    check_failure(at, &["compile", "relu.onnx", "--target", "mtia-9000"], 2, "L0004");
    check_failure(at, &["targets", "mtia-9000"], 2, "L0004");
    check_failure(at, &["explain", "L9999"], 2, "L0018");
    check_failure(at, &["compile", "relu.onnx", "--state", "a=b"], 2, "L0025");
    assert_eq!(names(at), ["relu.onnx"]);
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    fs::create_dir(at.join("empty")).unwrap();
    check_failure(at, &["compile", "missing.onnx"], 2, "L0002");
    check_failure(at, &["compile", "empty"], 2, "L0012");
    check_failure(at, &["compile", "relu.onnx", "-o", "missing/out.lac"], 2, "L0003");
    check_failure(at, &["compile", "relu.onnx", "-o", "empty"], 2, "L0003");
    check_failure(at, &["compile", "relu.onnx", "-o", "relu.onnx"], 2, "L0003");
    check_failure(at, &["verify", "empty"], 2, "L0012");
    assert_eq!(names(at), ["empty", "relu.onnx"]);
}

/// An index that is known only at run time and is out of range stops the program, and the node is named.
#[test]
fn indices_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let check = |op: &str, shape: &[i64], legal: &[i64], wrong: &[i64]| {
        let dims: Vec<Dim> = shape.iter().map(|&n| Dim::N(n)).collect();
        let inputs = vec![port("x", F32, &[Dim::N(3), Dim::N(4)]), port("i", I64, &dims)];
        let out = port("y", F32, &[]);
        save(&at.join("m.onnx"), &model(inputs, vec![node(op, &["x", "i"], "y")], vec![out]));
        assert!(lacuna_in(at, &["compile", "m.onnx", "-o", "m.lac"]).status.success(), "{op}");
        for (values, exit) in [(legal, 0), (wrong, 4)] {
            let int64_data = values.to_vec();
            let i =
                TensorProto { dims: shape.to_vec(), data_type: I64, int64_data, ..TensorProto::default() };
            save(&at.join("i.pb"), &i);
            let args = ["run", "m.lac", "--input", "i=i.pb"];
            if exit == 0 {
                assert!(lacuna_in(at, &args).status.success(), "{op} by {values:?}");
                continue;
            }
            let value = check_failure(at, &args, exit, "L0015");
            assert!(value["error"]["node"].as_str().unwrap().contains("/y"), "{value}");
        }
    };
    check("Gather", &[2], &[2, -3], &[0, 3]);
    check("Gather", &[2], &[0, 1], &[-4, 1]);
    check("GatherElements", &[2, 4], &[0, 2, -1, -3, 0, 1, 2, 0], &[0, 1, 2, 3, 0, 0, 0, 0]);
    check("GatherND", &[2, 2], &[0, 3, -1, -4], &[0, 3, 0, 4]);
    check("GatherND", &[2, 2], &[0, 0, 2, 3], &[1, -5, 0, 0]);
}

/// The same of updates, which are stored one after the other where there are many.
#[test]
fn updates_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (rows, count) = (1200, 900);
    let sized = |n: i64| [Dim::N(n)];
    let inputs =
        vec![port("x", F32, &sized(rows)), port("i", I64, &sized(count)), port("u", F32, &sized(count))];
    let scatter = node("ScatterElements", &["x", "i", "u"], "y");
    save(&at.join("m.onnx"), &model(inputs, vec![scatter], vec![port("y", F32, &[])]));
    assert!(lacuna_in(at, &["compile", "m.onnx", "-o", "m.lac"]).status.success());
    for (last, holds) in [(rows - 1, true), (-rows, true), (rows, false), (-rows - 1, false)] {
        let int64_data = (0..count - 1).chain([last]).collect();
        let i = TensorProto { dims: vec![count], data_type: I64, int64_data, ..TensorProto::default() };
        save(&at.join("i.pb"), &i);
        let args = ["run", "m.lac", "--input", "i=i.pb"];
        if holds {
            assert!(lacuna_in(at, &args).status.success(), "{last}");
            continue;
        }
        let value = check_failure(at, &args, 4, "L0015");
        assert!(value["error"]["node"].as_str().unwrap().contains("/y"), "{value}");
    }
}

/// A bound input is a constant: the object has no such input, and data for it is left out.
#[test]
fn bound_inputs_are_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ports = vec![
        port("x", F32, &[Dim::N(6)]),
        port("starts", I64, &[Dim::N(1)]),
        port("ends", I64, &[Dim::N(1)]),
    ];
    let m = model(ports, vec![node("Slice", &["x", "starts", "ends"], "y")], vec![port("y", F32, &[])]);
    let set = at.join("test_data_set_0");
    fs::create_dir(&set).unwrap();
    save(&at.join("model.onnx"), &m);
    let int = |value: i64| TensorProto {
        dims: vec![1],
        data_type: I64,
        int64_data: vec![value],
        ..TensorProto::default()
    };
    // Files without names, the bound ones in the middle and at the end.
    save(&set.join("input_0.pb"), &floats("", &[6], &[0., 1., 2., 3., 4., 5.]));
    save(&set.join("input_1.pb"), &int(1));
    save(&set.join("input_2.pb"), &int(4));
    save(&set.join("output_0.pb"), &floats("", &[3], &[1., 2., 3.]));
    for precision in ["f32", "auto"] {
        let (exit, report) = json_in(at, &["verify", ".", "--precision", precision]);
        assert_eq!((exit, &report["bound_inputs"]), (0, &serde_json::json!(["starts", "ends"])), "{report}");
    }
    save(&at.join("starts.pb"), &int(1));
    save(&at.join("ends.pb"), &int(4));
    let bind = ["--bind", "starts=starts.pb", "--bind", "ends=ends.pb"];
    let (exit, report) = json_in(at, &[&["verify", "."][..], &bind].concat());
    assert_eq!((exit, &report["bound_inputs"]), (0, &serde_json::json!([])), "{report}");
    let compiled = lacuna_in(at, &[&["compile", "model.onnx", "-o", "m.lac"][..], &bind].concat());
    assert!(compiled.status.success());
    save(&at.join("x.pb"), &floats("x", &[6], &[0.; 6]));
    let (exit, report) = json_in(at, &["run", "m.lac", "--input", "x=x.pb"]);
    assert_eq!((exit, &report["random_inputs"]), (0, &serde_json::json!([])), "{report}");
    check_failure(at, &["run", "m.lac", "--input", "x=x.pb", "--input", "starts=ends.pb"], 2, "L0007");
}

/// A pipe without a writer must not be waited for.
#[cfg(unix)]
#[test]
fn pipes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let made =
        std::process::Command::new("mkfifo").arg(at.join("pipe.onnx")).arg(at.join("pipe.npy")).status();
    assert!(made.unwrap().success());
    check_failure(at, &["verify", "pipe.onnx"], 2, "L0002");
    check_failure(at, &["verify", "relu.onnx", "--bind", "x=pipe.npy"], 2, "L0002");
    check_failure(at, &["run", "pipe.onnx"], 2, "L0002");
}

#[test]
fn models() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = fs::read(crate::common::testdata("digits-cnn").join("model.onnx")).unwrap();
    fs::write(at.join("cut.onnx"), &whole[..whole.len() / 2]).unwrap();
    fs::write(at.join("text.onnx"), b"this is no model").unwrap();
    fs::write(at.join("empty.onnx"), b"").unwrap();
    for name in ["cut.onnx", "text.onnx", "empty.onnx"] {
        let value = check_failure(at, &["compile", name, "-o", "out.lac"], 2, "L0101");
        assert_eq!(value["error"]["file"], name, "{value}");
        assert!(!value["error"]["hint"].as_str().unwrap().is_empty(), "{value}");
        assert!(value["error"]["message"].as_str().is_some_and(|m| !m.is_empty()));
    }

    let n = [Dim::Name("N"), Dim::N(4)];
    let symbolic = model(vec![port("x", F32, &n)], vec![node("Relu", &["x"], "y")], vec![port("y", F32, &n)]);
    save(&at.join("symbolic.onnx"), &symbolic);
    let value = check_failure(at, &["compile", "symbolic.onnx", "-o", "out.lac"], 2, "L0108");
    assert!(value["error"]["hint"].as_str().unwrap().contains("--dim N="), "{value}");
    check_failure(at, &["compile", "symbolic.onnx", "--dim", "N=2", "--dim", "M=2"], 2, "L0110");
    // 2^36 rows of 4 floats: a terabyte.
    check_failure(at, &["compile", "symbolic.onnx", "--dim", "N=68719476736"], 3, "L0011");

    let dims = [Dim::N(4)];
    let nodes = vec![node("Fft9", &["x"], "a"), node("Relu", &["a"], "b"), node("Bogus", &["b"], "y")];
    save(&at.join("unknown.onnx"), &model(vec![port("x", F32, &dims)], nodes, vec![port("y", F32, &dims)]));
    let value = check_failure(at, &["compile", "unknown.onnx", "-o", "out.lac"], 3, "L0201");
    let unsupported = value["unsupported"].as_array().unwrap();
    let found: Vec<_> =
        unsupported.iter().map(|u| (u["op"].as_str().unwrap(), u["node"].as_str().unwrap())).collect();
    assert_eq!(found, [("Fft9", "/a"), ("Bogus", "/y")]);
    assert!(unsupported.iter().all(|u| u["reason"].as_str().is_some_and(|r| !r.is_empty())));
    assert!(!at.join("out.lac").exists());
}

#[test]
fn external_data() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("model");
    fs::create_dir(&at).unwrap();
    fs::write(folder.path().join("secret"), [0; 32]).unwrap();
    fs::write(at.join("short"), [0; 31]).unwrap();
    let absolute = folder.path().join("secret").display().to_string();
    for location in ["missing", "../secret", "short", &absolute, "sub/../../secret"] {
        let entry =
            |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
        let mut external = relu();
        let graph = external.graph.as_mut().unwrap();
        graph.node = vec![node("Add", &["x", "w"], "y")];
        graph.initializer = vec![TensorProto {
            name: "w".to_owned(),
            dims: vec![8],
            data_type: F32,
            data_location: 1,
            external_data: vec![entry("location", location), entry("length", "32")],
            ..TensorProto::default()
        }];
        save(&at.join("model.onnx"), &external);
        check_failure(&at, &["compile", "model.onnx"], 2, "L0107");
    }
    assert_eq!(names(&at), ["model.onnx", "short"]);
}

#[test]
fn inputs_of_run_and_verify() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let output = lacuna_in(at, &["compile", "relu.onnx"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    save(&at.join("good.pb"), &floats("x", &[2, 8], &[1.0; 16]));
    save(&at.join("shape.pb"), &floats("x", &[8, 2], &[1.0; 16]));
    save(
        &at.join("type.pb"),
        &TensorProto { dims: vec![2, 8], data_type: I64, int64_data: vec![1; 16], ..TensorProto::default() },
    );
    fs::write(at.join("bad.pb"), b"no tensor").unwrap();
    fs::write(at.join("bad.npy"), b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'").unwrap();
    let run = |input: &'static str, code| {
        check_failure(at, &["run", "relu.lac", "--input", input, "--output", "out"], 2, code);
    };
    run("z=good.pb", "L0007");
    run("x=shape.pb", "L0008");
    run("x=type.pb", "L0008");
    run("x=bad.pb", "L0006");
    run("x=bad.npy", "L0006");
    run("x=missing.npy", "L0002");
    assert!(!at.join("out").exists());

    // The same through the test layout.
    let set = at.join("set");
    let data = set.join("test_data_set_0");
    save(&set.join("model.onnx"), &relu());
    save(&data.join("output_0.pb"), &floats("y", &[2, 8], &[1.0; 16]));
    let verify = |code| check_failure(at, &["verify", "set"], 2, code);
    verify("L0012");
    save(&data.join("input_0.pb"), &floats("x", &[8, 2], &[1.0; 16]));
    verify("L0008");
    fs::write(data.join("input_0.pb"), b"no tensor").unwrap();
    verify("L0006");
    save(&data.join("input_0.pb"), &floats("x", &[2, 8], &[1.0; 16]));
    save(&data.join("labels_0.pb"), &floats("labels", &[2], &[1.0; 2]));
    verify("L0012");
    fs::remove_file(data.join("labels_0.pb")).unwrap();
    fs::remove_file(data.join("output_0.pb")).unwrap();
    verify("L0012");
}

#[test]
fn object_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let output = lacuna_in(at, &["compile", "relu.onnx"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = fs::read(at.join("relu.lac")).unwrap();
    let check = |bytes: &[u8]| {
        fs::write(at.join("bad.lac"), bytes).unwrap();
        for args in [&["run", "bad.lac"][..], &["disasm", "bad.lac", "-o", "bad.s"]] {
            check_failure(at, args, 2, "L0009");
        }
        assert!(!at.join("bad.s").exists());
    };
    for length in [0, 1, 63, 64, whole.len() / 2, whole.len() - 1] {
        check(&whole[..length]);
    }
    check(&[&whole[..], &[0]].concat());
    // One bit in each of several places: header, tables, streams.
    for part in 0..12 {
        let mut flipped = whole.clone();
        let at = (whole.len() - 1) * part / 11;
        flipped[at] ^= 1 << (part % 8);
        check(&flipped);
    }
    fs::write(at.join("bad.s"), "object \"x\" nonsense").unwrap();
    check_failure(at, &["asm", "bad.s", "-o", "out.lac"], 2, "L0013");
    assert!(!at.join("out.lac").exists());
    check_failure(at, &["inspect", "relu.lac", "--stage", "tiled"], 2, "L0017");
    check_failure(at, &["inspect", "relu.lac", "--stage", "machine", "--dim", "N=1"], 2, "L0001");
    check_failure(at, &["profile", "bad.lac"], 2, "L0009");
    check_failure(at, &["inspect", "relu.onnx", "--stage", "all", "--node", "/nothing"], 2, "L0016");
}

/// Scales and zero points of a table that are not one for each block.
#[test]
fn tables_of_codes_whose_blocks_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let bytes = |name: &str, dims: &[i64]| TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 2,
        raw_data: Some(vec![0; dims.iter().product::<i64>() as usize].into()),
        ..TensorProto::default()
    };
    for (scales, zeros) in
        [(&[][..], &[][..]), (&[1], &[4, 1]), (&[4, 2], &[4, 1]), (&[4, 1], &[]), (&[4, 1], &[2, 1])]
    {
        let mut gather = node("GatherBlockQuantized", &["d", "i", "s", "z"], "y");
        gather.domain = "com.microsoft".to_owned();
        let mut m = model(vec![port("i", I64, &[Dim::N(3)])], vec![gather], vec![port("y", F32, &[])]);
        m.opset_import
            .push(lacuna_onnx::proto::OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
        let ones = vec![1.0; scales.iter().product::<i64>() as usize];
        let tables = [bytes("d", &[4, 16]), floats("s", scales, &ones), bytes("z", zeros)];
        m.graph.as_mut().unwrap().initializer.extend(tables);
        save(&at.join("m.onnx"), &m);
        let json = check_failure(at, &["compile", "m.onnx"], 2, "L0111");
        assert_eq!(json["errors"][0]["node"], "/y", "{scales:?} {zeros:?}: {json}");
    }
}

/// A long chain of constants is computed node by node, whatever its depth.
#[test]
fn long_chains_of_constants() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for op in ["Neg", "Add"] {
        let mut deep = relu();
        let graph = deep.graph.as_mut().unwrap();
        graph.initializer = vec![floats("c0", &[8], &[0.5; 8]), floats("one", &[1], &[1.0])];
        for i in 0..10_000 {
            let operands =
                if op == "Neg" { vec![format!("c{i}")] } else { vec![format!("c{i}"), "one".into()] };
            let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
            graph.node.push(node(op, &operands, &format!("c{}", i + 1)));
        }
        graph.node.push(node("Mul", &["y", "c10000"], "z"));
        graph.output[0].name = "z".to_owned();
        save(&at.join("deep.onnx"), &deep);
        assert!(lacuna_in(at, &["compile", "deep.onnx", "-o", "deep.lac"]).status.success(), "{op}");
    }
}
