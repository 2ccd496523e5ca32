"""A model whose weights and activations ONNX Runtime quantises ahead of time."""

import onnx
import torch
import torch.nn.functional as F
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

import common

CHANNELS = 32
TOKENS = 8
N_CALIBRATION = 4


class Net(nn.Module):
    """A convolution, tokens mixed by a weight on the left, and a layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.mix = nn.Parameter(torch.randn(TOKENS, TOKENS) / TOKENS**0.5)
        self.out = nn.Linear(CHANNELS, CHANNELS)

    def inputs(self):
        return {"x": torch.randn(1, CHANNELS, TOKENS)}

    def forward(self, x):
        y = F.relu(self.conv(x)).transpose(1, 2)
        return self.out(torch.matmul(self.mix, y))


class Calibration(CalibrationDataReader):
    """A few random inputs."""

    def __init__(self, inputs):
        def random():
            return {name: torch.randn_like(x).numpy() for name, x in inputs.items()}

        self.batches = iter([random() for _ in range(N_CALIBRATION)])

    def get_next(self):
        return next(self.batches, None)


def export(model, inputs, path, per_channel):
    """Exports, and then stores weights as integers with one scale, or one per channel."""
    whole = path.with_name("whole.onnx")
    common.export_traced(model, inputs, whole, opset=13)
    quantize_static(
        whole,
        path,
        Calibration(inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8,
    )
    whole.unlink()
    common.finish(onnx.load(path), path)
