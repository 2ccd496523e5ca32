"""Exports small modules as people write them, each for what an exporter makes of it.

The models are random and small. What matters is the graph: operators that a compiler
could do without, and normalisations, attention and quantisation in older or longer forms.
"""

import argparse
import functools
from pathlib import Path

import torch

import common
import spellings_language as language
import spellings_quantised as quantised
import spellings_vision as vision

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "spellings"


def trace(opset):
    """The older exporter, which records what PyTorch runs, for an operator set."""
    return functools.partial(common.export_traced, opset=opset)


def program(*, optimize=True, opset=common.OPSET):
    """The newer exporter, with or without its own optimiser."""
    return functools.partial(common.export_program, opset=opset, optimize=optimize)


def quantise(*, per_channel):
    """ONNX Runtime's static quantisation, of what the older exporter wrote."""
    return functools.partial(quantised.export, per_channel=per_channel)


# The module of each model, and what exports it.
MODELS = {
    "adaptive-norm": (language.AdaptiveNorm, trace(13)),
    "beams": (language.Beams, trace(14)),
    "channels-last": (vision.ChannelsLast, trace(13)),
    "codebooks": (language.Codebooks, trace(14)),
    "convnext": (vision.ConvNext, trace(13)),
    "dense-block": (vision.DenseBlock, program(optimize=False)),
    "empty-branch": (vision.EmptyBranch, trace(11)),
    "experts": (language.Experts, program(opset=20)),
    "frames": (vision.Frames, trace(13)),
    "global-context": (vision.GlobalContext, trace(13)),
    "graph-layer": (language.GraphLayer, trace(16)),
    "guarded-attention": (language.GuardedAttention, program()),
    "keys-first": (language.KeysFirst, trace(13)),
    "layer-norm": (language.LayerNorms, trace(9)),
    "lora": (language.Lora, trace(13)),
    "mixer": (vision.Mixer, trace(17)),
    "neutral": (language.Neutral, trace(13)),
    "normalised-image": (vision.NormalisedImage, trace(13)),
    "others": (language.Others, trace(13)),
    "padding-mask": (language.PaddingMask, trace(14)),
    "pillars": (vision.Pillars, trace(13)),
    "pruned": (vision.Pruned, trace(13)),
    "pruned-mlp": (language.PrunedMlp, program()),
    "qdq": (quantised.Net, quantise(per_channel=False)),
    "qdq-channels": (quantised.Net, quantise(per_channel=True)),
    "rms-norm": (language.RmsQuotient, program(opset=20)),
    "router": (language.Router, program()),
    "segmentation": (vision.SegmentationHead, trace(13)),
    "sequence-first": (language.SequenceFirst, program()),
    "stable-softmax": (language.StableSoftmax, trace(13)),
    "streaming": (vision.Streaming, trace(13)),
    "two-heads": (language.TwoHeads, trace(13)),
}
# Models that ONNX Runtime cannot run: it has no EyeLike of bool.
NOT_IMPLEMENTED = {"others"}


def export(name, out):
    """Exports a model and stores what ONNX Runtime, where it can, computes with it."""
    common.seed_everything(0)
    path = out / name / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    build, exporter = MODELS[name]
    model = build().eval()
    inputs = model.inputs()
    exporter(model, inputs, path)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    slow = name in NOT_IMPLEMENTED
    run = common.slow_reference if slow else common.reference
    return common.write_test(path.parent, arrays, reference=run)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), metavar="MODEL")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only or MODELS:
        outputs = export(name, args.out)
        size = (args.out / name / "model.onnx").stat().st_size
        shapes = ", ".join("x".join(map(str, a.shape)) for a in outputs.values())
        print(f"{name}: {shapes}; {size} bytes", flush=True)


if __name__ == "__main__":
    main()
