//! Subgraphs, sequences and optionals, evaluated against values computed by hand.

mod common;

use common::*;
use lacuna_ir::eval::Tensor;
use lacuna_isa::format::ScalarType::{Bool, F32, I64};
use lacuna_onnx::Options;
use lacuna_onnx::proto::*;

/// A subgraph with named inputs and outputs, without types.
fn graph(inputs: &[&str], node: Vec<NodeProto>, constants: Vec<TensorProto>, outputs: &[&str]) -> GraphProto {
    let untyped = |names: &[&str]| -> Vec<ValueInfoProto> {
        names.iter().map(|n| ValueInfoProto { name: (*n).to_owned(), r#type: None }).collect()
    };
    GraphProto {
        node,
        initializer: constants,
        input: untyped(inputs),
        output: untyped(outputs),
        ..GraphProto::default()
    }
}

fn body(name: &str, g: GraphProto) -> AttributeProto {
    let kind = attribute_type::GRAPH;
    AttributeProto { name: name.to_owned(), g: Some(g), r#type: kind, ..AttributeProto::default() }
}

fn steps(count: f64) -> TensorProto {
    constant("steps", I64, &[], &[count])
}

fn plain(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    node(op, inputs, &[output], vec![])
}

/// Results of a model with the input `x`, f32[2], and these nodes.
fn results(
    x: [f64; 2],
    constants: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> Vec<Vec<f64>> {
    let model = model(vec![value("x", F32, &[2])], constants, nodes, outputs);
    run(&model, &[f32s(&[2], &x)]).iter().map(|t| t.to_f64().to_vec()).collect()
}

/// The codes of what is found in such a model.
fn refusals(constants: Vec<TensorProto>, nodes: Vec<NodeProto>, outputs: &[&str]) -> Vec<&'static str> {
    let model = model(vec![value("x", F32, &[2])], constants, nodes, outputs);
    import_proto(&model, &Options::default()).unwrap_err().iter().map(|d| d.code).collect()
}

#[test]
fn a_loop_carries_values_collects_rows_and_sees_outer_names() {
    let step = graph(
        &["i", "go", "sum"],
        vec![plain("Add", &["sum", "x"], "next"), node("Cast", &["i"], &["number"], vec![int("to", 1)])],
        vec![],
        &["go", "next", "number"],
    );
    let nodes = vec![node("Loop", &["steps", "", "x"], &["y", "rows"], vec![body("body", step)])];
    let found = results([1.0, -2.0], vec![steps(3.0)], nodes, &["y", "rows"]);
    assert_eq!(found, [vec![4.0, -8.0], vec![0.0, 1.0, 2.0]]);
}

#[test]
fn a_name_inside_hides_the_same_name_outside() {
    // The body's `x` is its own; after the loop, `x` is again the input.
    let step = graph(&["i", "go", "s"], vec![plain("Add", &["s", "s"], "x")], vec![], &["go", "x"]);
    let nodes = vec![
        node("Loop", &["steps", "", "x"], &["doubled"], vec![body("body", step)]),
        plain("Sub", &["doubled", "x"], "y"),
    ];
    assert_eq!(results([1.0, 3.0], vec![steps(2.0)], nodes, &["y"]), [[3.0, 9.0]]);
}

/// `sum += x` while the first element is below 5.
fn until_five() -> GraphProto {
    graph(
        &["i", "go", "sum"],
        vec![
            plain("Add", &["sum", "x"], "next"),
            plain("Gather", &["next", "zero"], "first"),
            plain("Less", &["first", "five"], "more"),
        ],
        vec![constant("zero", I64, &[], &[0.0]), constant("five", F32, &[], &[5.0])],
        &["more", "next"],
    )
}

#[test]
fn a_condition_at_run_time_ends_a_loop() {
    let nodes = || vec![node("Loop", &["steps", "", "x"], &["y"], vec![body("body", until_five())])];
    for (first, expect) in [(1.0, 5.0), (2.0, 6.0), (7.0, 14.0), (-1.0, -9.0)] {
        let found = results([first, 10.0], vec![steps(8.0)], nodes(), &["y"]);
        assert_eq!(found[0][0], expect, "steps of {first}");
        assert_eq!(found[0][1], expect / first * 10.0);
    }
    let endless = vec![node("Loop", &["", "", "x"], &["y"], vec![body("body", until_five())])];
    assert_eq!(refusals(vec![], endless, &["y"]), ["L0206"]);
}

#[test]
fn a_loop_that_is_too_long_is_refused() {
    let step = graph(&["i", "go", "s"], vec![plain("Neg", &["s"], "n")], vec![], &["go", "n"]);
    let nodes = vec![node("Loop", &["steps", "", "x"], &["y"], vec![body("body", step)])];
    assert_eq!(refusals(vec![steps(1e6)], nodes, &["y"]), ["L0207"]);
}

#[test]
fn a_node_that_every_step_refuses_is_reported_once() {
    let step = graph(&["i", "go", "s"], vec![plain("Nonsense", &["s"], "n")], vec![], &["go", "n"]);
    let nodes = vec![node("Loop", &["steps", "", "x"], &["y"], vec![body("body", step)])];
    assert_eq!(refusals(vec![steps(9.0)], nodes, &["y"]), ["L0201"]);
}

#[test]
fn a_loop_without_steps_gives_rows_of_the_right_shape() {
    let step = graph(&["i", "go", "s"], vec![plain("Neg", &["s"], "n")], vec![], &["go", "n", "n"]);
    let nodes = vec![node("Loop", &["steps", "", "x"], &["y", "rows"], vec![body("body", step)])];
    let model = model(vec![value("x", F32, &[2])], vec![steps(0.0)], nodes, &["y", "rows"]);
    let found = run(&model, &[f32s(&[2], &[1.0, 2.0])]);
    assert_eq!(found[0].to_f64().to_vec(), [1.0, 2.0]);
    assert_eq!(found[1].ty.to_string(), "f32[0,2]");
}

#[test]
fn a_condition_at_run_time_selects_between_branches() {
    let yes = graph(&[], vec![plain("Neg", &["x"], "a")], vec![], &["a"]);
    let no = graph(&[], vec![plain("Gather", &["x", "at"], "b")], vec![], &["b"]);
    let nodes = vec![node("If", &["c"], &["y"], vec![body("then_branch", yes), body("else_branch", no)])];
    let inputs = vec![value("x", F32, &[2]), value("c", Bool, &[]), value("at", I64, &[2])];
    let model = model(inputs, vec![], nodes, &["y"]);
    let run = |c: f64, at: [f64; 2]| {
        let c = Tensor::from_f64(Bool, [].as_slice(), &[c]).unwrap();
        let at = Tensor::from_f64(I64, [2].as_slice(), &at).unwrap();
        run(&model, &[f32s(&[2], &[1.0, 2.0]), c, at])[0].to_f64().to_vec()
    };
    assert_eq!(run(0.0, [1.0, 0.0]), [2.0, 1.0]);
    // The branch that is not taken may have indices out of range.
    assert_eq!(run(1.0, [100.0, -7.0]), [-1.0, -2.0]);
}

#[test]
fn branches_of_different_shapes_need_a_known_condition() {
    let yes = graph(&[], vec![plain("Neg", &["x"], "a")], vec![], &["a"]);
    let no = graph(&[], vec![plain("Concat", &["x", "x"], "b")], vec![], &["b"]);
    let mut no = no;
    no.node[0].attribute = vec![int("axis", 0)];
    let branches = || vec![body("then_branch", yes.clone()), body("else_branch", no.clone())];
    let known = vec![node("If", &["c"], &["y"], branches())];
    let found = results([1.0, 2.0], vec![constant("c", Bool, &[], &[0.0])], known, &["y"]);
    assert_eq!(found, [[1.0, 2.0, 1.0, 2.0]]);
    let nodes = vec![
        plain("ReduceMax", &["x"], "m"),
        plain("Less", &["m", "m"], "c"),
        node("If", &["c"], &["y"], branches()),
    ];
    assert_eq!(refusals(vec![], nodes, &["y"]), ["L0206"]);
}

#[test]
fn a_scan_runs_along_axes_in_both_directions() {
    let step = graph(&["s", "e"], vec![plain("Add", &["s", "e"], "n")], vec![], &["n", "n"]);
    let attributes = |input: i64, output: i64| {
        vec![
            body("body", step.clone()),
            int("num_scan_inputs", 1),
            ints("scan_input_directions", &[input]),
            ints("scan_output_directions", &[output]),
        ]
    };
    let zero = || vec![constant("zero", F32, &[], &[0.0])];
    for (input, output, expect) in
        [(0, 0, [1.0, 11.0]), (1, 0, [10.0, 11.0]), (0, 1, [11.0, 1.0]), (1, 1, [11.0, 10.0])]
    {
        let nodes = vec![node("Scan", &["zero", "x"], &["y", "rows"], attributes(input, output))];
        let found = results([1.0, 10.0], zero(), nodes, &["y", "rows"]);
        assert_eq!(found, [vec![11.0], expect.to_vec()], "directions {input} and {output}");
    }
}

#[test]
fn sequences_and_optionals_are_lists_of_values() {
    let index = |name: &str, i: f64| constant(name, I64, &[], &[i]);
    let constants = vec![index("last", -1.0), index("first", 0.0), index("one", 1.0)];
    let nodes = vec![
        plain("Neg", &["x"], "n"),
        plain("SequenceConstruct", &["x", "n"], "s"),
        plain("SequenceInsert", &["s", "n", "first"], "t"),
        plain("SequenceErase", &["t", "last"], "u"),
        plain("SequenceLength", &["t"], "length"),
        node("ConcatFromSequence", &["u"], &["y"], vec![int("axis", 0)]),
        plain("Optional", &["u"], "o"),
        plain("OptionalHasElement", &["o"], "has"),
        plain("OptionalGetElement", &["o"], "v"),
        plain("SequenceAt", &["v", "one"], "z"),
    ];
    let found = results([1.0, 2.0], constants, nodes, &["y", "length", "has", "z"]);
    assert_eq!(found, [vec![-1.0, -2.0, 1.0, 2.0], vec![3.0], vec![1.0], vec![1.0, 2.0]]);
}

#[test]
fn a_sequence_is_an_input_for_each_of_its_tensors() {
    let tensor = value("s", F32, &[2]).r#type.map(Box::new);
    let of_tensors =
        TypeProto { sequence_type: Some(ElementTypeProto { elem_type: tensor }), ..TypeProto::default() };
    let input = ValueInfoProto { name: "s".to_owned(), r#type: Some(of_tensors) };
    let step = graph(&["e"], vec![plain("Neg", &["e"], "n")], vec![], &["n"]);
    let nodes = vec![node("SequenceMap", &["s"], &["t"], vec![body("body", step)])];
    let model = model(vec![input], vec![], nodes, &["t"]);
    let codes: Vec<&str> =
        import_proto(&model, &Options::default()).unwrap_err().iter().map(|d| d.code).collect();
    assert_eq!(codes, ["L0108"]);
    let mut options = Options::default();
    options.dims.insert("s.length".to_owned(), 3);
    let imported = import_proto(&model, &options).unwrap();
    let entry = &imported.module.entries[0];
    assert_eq!(entry.inputs, ["s[0]", "s[1]", "s[2]"]);
    assert_eq!(entry.outputs, ["t[0]", "t[1]", "t[2]"]);
}
