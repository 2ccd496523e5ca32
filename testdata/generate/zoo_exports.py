"""Exports each model of the zoo the way its users do: by both exporters, at several operator sets.

One folder for a model and an export, such as `swin-tiny@program20` and `gpt2@traced17`;
quantised ones are made by ONNX Runtime from an export.
"""

import argparse
import copy
import functools
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import torch
import torchvision
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import common
import zoo_language
import zoo_vision

# The exporter and the operator set. The older one leaves the size of batches open.
EXPORTS = {
    "program18": 18,
    "program20": 20,
    "program23": 23,
    "traced13": 13,
    "traced17": 17,
}


def export(model, inputs, path, kind):
    """Writes one model by one exporter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opset = EXPORTS[kind]
    if opset < 14:
        spell_attention(model)
    if kind.startswith("program"):
        common.export_program(model, inputs, path, opset)
        return
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        dynamic_axes={name: {0: "batch"} for name, x in inputs.items() if x.shape[0] > 1},
        opset_version=opset,
        dynamo=False,
    )
    common.finish(onnx.load(path), path)


def spell_attention(model):
    """Has `transformers` spell attention by its parts, as older exports must."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"


def write_test(path, inputs, module=None):
    """Writes the inputs and the reference outputs, ONNX Runtime's unless a module is given."""
    arrays = {name: array_of(tensor) for name, tensor in inputs.items()}
    reference = common.reference
    if module is not None:
        reference = functools.partial(module_outputs, module, inputs)
    outputs = common.write_test(path.parent, arrays, reference=reference)
    for name, array in outputs.items():
        assert np.isfinite(array.astype(np.float64)).all(), name


def array_of(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def module_outputs(module, inputs, path, _arrays):
    """Runs what was exported, where ONNX Runtime has no operators of its type on a CPU."""
    names = [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    with torch.no_grad():
        outputs = module(*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: array_of(x) for name, x in zip(names, outputs, strict=True)}


def write_criterion(path, model, name):
    """Says how close two correct computations come, where that is less than in f32."""
    narrow = {torch.float16: 45.0, torch.bfloat16: 30.0}
    types = {p.dtype for p in model.parameters()}
    least = min((narrow[t] for t in types if t in narrow), default=None)
    # A value beside the middle of two integers is rounded the other way for an ulp.
    if name in QUANTISED:
        least = 30.0
    if least is not None:
        (path.parent / "criterion.json").write_text(json.dumps({"min_sqnr_db": least}))


class Samples(quantization.CalibrationDataReader):
    """Random inputs for the calibration of a quantised model."""

    def __init__(self, inputs, count=4):
        arrays = [{n: np.random.randn(*x.shape).astype(np.float32) for n, x in inputs.items()}]
        self.left = iter(arrays * count)

    def get_next(self):
        return next(self.left, None)


def quantise_static(source, path, inputs):
    quantization.quantize_static(source, path, Samples(inputs), per_channel=True)


def quantise_dynamic(source, path, _inputs):
    types = ["MatMul", "Gemm", "Gather"]
    quantization.quantize_dynamic(source, path, op_types_to_quantize=types, per_channel=True)


def quantise_blocks(source, path, _inputs):
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=False)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


# What ONNX Runtime makes of a model: name, source, how.
QUANTISED = {
    "resnet18-int8": ("resnet18", quantise_static),
    "bert-dynamic": ("bert", quantise_dynamic),
    "llama-int4": ("llama", quantise_blocks),
}


def builders():
    """What makes each model and its inputs, by name."""
    resnet18 = {"resnet18": lambda: zoo_vision.published(torchvision.models.resnet18)}
    return zoo_vision.builders() | zoo_language.builders() | resnet18


def make(out, name, kind):
    """Exports one model in one way."""
    common.seed_everything(0)
    folder = out / f"{name}@{kind}"
    model, inputs = builders()[name]()
    export(copy.deepcopy(model).eval(), inputs, folder / "model.onnx", kind)
    narrow = any(p.dtype == torch.bfloat16 for p in model.parameters())
    write_test(folder / "model.onnx", inputs, model if narrow else None)
    write_criterion(folder / "model.onnx", model, name)
    return inputs, model


def make_quantised(out, name, kind, inputs, model):
    """Quantises an export that is there."""
    source, quantise = QUANTISED[name]
    path = out / f"{name}@{kind}" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    quantise(out / f"{source}@{kind}" / "model.onnx", path, inputs)
    write_test(path, inputs)
    write_criterion(path, model, name)


def attempt(out, name, kind, build):
    """Runs one builder; one exporter's limit is not the others'."""
    try:
        made = build()
        print(f"{name}@{kind}", flush=True)
        return made
    except Exception as error:
        shutil.rmtree(out / f"{name}@{kind}", ignore_errors=True)
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        print(f"{name}@{kind}: not exported: {reason[0]:.200}", flush=True)
        return None


def main():
    known = list(builders())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=known, metavar="MODEL", default=known)
    parser.add_argument("--exports", nargs="+", choices=list(EXPORTS), default=list(EXPORTS))
    args = parser.parse_args()
    torch.set_num_threads(2)
    for name in args.only:
        for kind in args.exports:
            made = attempt(args.out, name, kind, functools.partial(make, args.out, name, kind))
            for kin, (source, _) in QUANTISED.items():
                if source == name and made is not None:
                    build = functools.partial(make_quantised, args.out, kin, kind, *made)
                    attempt(args.out, kin, kind, build)


if __name__ == "__main__":
    main()
