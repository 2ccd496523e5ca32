"""Writes what ONNX Runtime computes for every tensor of a model, for `lacuna verify --layers --reference FOLDER`.

    python reference_tensors.py MODEL.onnx INPUTS.npz FOLDER

INPUTS.npz has an array for each input of the graph, by its name. The runtime's own rewrites are switched off, so that each tensor is what
its node computes. Tensors are called as `lacuna run --output` calls them: characters of a name other than letters, digits, `.`, `_` and
`-` become `_`. Where two names would be equal but for their case, only the first is written.
"""

import argparse
import pathlib
import re

import numpy as np
import onnx
import onnxruntime
from onnx import helper


def file_name(name):
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "unnamed"


def with_all_outputs(model):
    """The model with every tensor whose type is known as an output."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {port.name: port for port in inferred.graph.value_info}
    outputs = {port.name for port in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name in known and name not in outputs and known[name].type.HasField("tensor_type"):
                elem = known[name].type.tensor_type.elem_type
                model.graph.output.append(helper.make_tensor_value_info(name, elem, None))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()

    model = with_all_outputs(onnx.load(args.model))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = dict(np.load(args.inputs))
    names = [port.name for port in session.get_outputs()]
    wanted = {port.name for port in session.get_inputs()}
    found = session.run(names, {name: array for name, array in inputs.items() if name in wanted})

    args.folder.mkdir(parents=True, exist_ok=True)
    taken = set()
    for name, array in zip(names, found):
        file = file_name(name)
        # A type that NumPy has not, such as bfloat16, is left to the evaluator.
        if file.lower() in taken or not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            continue
        taken.add(file.lower())
        np.save(args.folder / f"{file}.npy", array)
    print(f"{args.folder}: {len(taken)} of {len(names)} tensors")


if __name__ == "__main__":
    main()
