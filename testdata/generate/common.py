"""What all generators share: exporting one file, and writing the ONNX test layout."""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir.passes.common as passes
import onnxruntime
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from onnx import numpy_helper
from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule

OPSET = 18
WEIGHTS = "weights.bin"
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "models"

# The exporter records Python stack traces, which hold absolute paths of the machine.
# Name scopes and class hierarchy are kept: provenance is reported in their terms.
DROPPED_METADATA = {"pkg.torch.onnx.stack_trace"}


def out_dir(description, default=DEFAULT_OUT):
    """Parses the command line: one output directory, required if it has no default."""
    parser = argparse.ArgumentParser(description=description)
    if default is None:
        parser.add_argument("out", type=Path)
    else:
        parser.add_argument("out", nargs="?", type=Path, default=default)
    return parser.parse_args().out


def seed_everything(seed):
    """Fixes the initial weights, the order of the data and its augmentation."""
    torch.manual_seed(seed)
    np.random.seed(seed)


def export(
    model, args, path, input_names, output_names, fold_batch_norm=True, external=False
):
    """Exports `model` in evaluation mode with static shapes.

    Weights are embedded, or with `external` in the file `weights.bin` beside the model.

    The exporter's own optimiser folds batch normalisation into convolutions; without
    `fold_batch_norm` only constants are folded, and BatchNormalization remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        model.eval(),
        args,
        input_names=input_names,
        output_names=output_names,
        opset_version=OPSET,
        dynamo=True,
        optimize=fold_batch_norm,
        verbose=False,
    )
    if not fold_batch_norm:
        fold_constants(program.model)
    proto = program.model_proto
    strip_metadata(proto)
    onnx.checker.check_model(proto, full_check=True)
    # An existing file would be appended to.
    (path.parent / WEIGHTS).unlink(missing_ok=True)
    onnx.save(proto, path, save_as_external_data=external, location=WEIGHTS)
    return proto


def export_traced(model, inputs, path, opset):
    """Exports with the older exporter, which records what the model runs on its inputs."""
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        opset_version=opset,
        dynamo=False,
    )
    finish(onnx.load(path), path)


def export_program(model, inputs, path, opset=OPSET, optimize=True):
    """Exports with the newer exporter, with or without its own optimiser."""
    program = torch.onnx.export(
        model,
        tuple(inputs.values()),
        input_names=list(inputs),
        opset_version=opset,
        dynamo=True,
        optimize=optimize,
        verbose=False,
    )
    finish(program.model_proto, path)


def finish(proto, path):
    """Writes a model without what ties it to the machine that wrote it."""
    strip_metadata(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def fold_constants(model):
    """Turns computed constants into initialisers and drops zero convolution biases."""
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    onnxscript.rewriter.rewrite(model, [remove_optional_bias_from_conv_rule])
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)


def strip_metadata(proto):
    """Removes what would tie the file to the machine that wrote it."""
    graph = proto.graph
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for owner in [proto, graph, *graph.node, *values, *proto.functions]:
        owner.doc_string = ""
        kept = [p for p in owner.metadata_props if p.key not in DROPPED_METADATA]
        del owner.metadata_props[:]
        owner.metadata_props.extend(kept)


def reference(path, inputs):
    """Runs ONNX Runtime on the graph as written, without fusions of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def slow_reference(path, inputs):
    """Runs the evaluator of ONNX itself, which has every operator for every type."""
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def write_test(model_dir, inputs, labels=None, reference=reference):
    """Writes `test_data_set_0` beside `model.onnx` and returns the reference outputs.

    `inputs` maps graph input names, in graph order, to arrays.
    """
    outputs = reference(model_dir / "model.onnx", inputs)
    data_dir = model_dir / "test_data_set_0"
    data_dir.mkdir(parents=True, exist_ok=True)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for idx, (name, array) in enumerate(tensors.items()):
            write_tensor(data_dir / f"{kind}_{idx}.pb", array, name)
    if labels is not None:
        write_tensor(data_dir / "labels_0.pb", labels, "labels")
    return outputs


def write_tensor(path, array, name):
    """Writes one serialised TensorProto."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    path.write_bytes(tensor.SerializeToString())
