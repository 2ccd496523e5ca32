"""Makes a folder for `lacuna verify`: a model with inputs, outputs and optionally labels.

    python make_test_folder.py MODEL.onnx INPUTS.npz FOLDER [--expect OUTPUTS.npz] [--labels LABELS.npy]

INPUTS.npz has an array for each input of the graph, by its name. Outputs are those of ONNX Runtime unless OUTPUTS.npz has them.
"""

import argparse
import pathlib

import numpy as np
import onnx
from onnx import numpy_helper


def write(folder, kind, number, name, array):
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    (folder / f"{kind}_{number}.pb").write_bytes(tensor.SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--expect")
    parser.add_argument("--labels")
    args = parser.parse_args()

    model = onnx.load(args.model)
    inputs = dict(np.load(args.inputs))
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [port.name for port in model.graph.input if port.name not in constants]
    missing = [name for name in names if name not in inputs]
    if missing:
        parser.error(f"{args.inputs} has nothing for {', '.join(missing)}")
    if args.expect:
        outputs = dict(np.load(args.expect))
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
        wanted = [port.name for port in session.get_outputs()]
        outputs = dict(zip(wanted, session.run(wanted, {name: inputs[name] for name in names})))

    data = args.folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(args.folder / "model.onnx"))
    for i, name in enumerate(names):
        write(data, "input", i, name, inputs[name])
    for i, port in enumerate(model.graph.output):
        write(data, "output", i, port.name, outputs[port.name])
    if args.labels:
        write(data, "labels", 0, "labels", np.load(args.labels).astype(np.int64))


if __name__ == "__main__":
    main()
