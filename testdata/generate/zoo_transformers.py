"""Transformer parts at the sizes of well-known models, with random weights.

A 12-layer encoder (BERT-base), one decoder layer (Llama 3 8B) for 512 tokens and for one
token with a cache, and a feed-forward block whose hidden values are mostly zero.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import common

WIDTH = 4096
N_HEADS = 32
N_KV_HEADS = 8
HEAD_DIM = WIDTH // N_HEADS
FEED_FORWARD = 14336
ROPE_BASE = 500000.0
EPS = 1e-5
TOKENS = 512

RELU_HIDDEN = 11008
RELU_TOKENS = 64
# Of normally distributed values, this share is below the bias that it is turned into.
RELU_ZEROS = 0.65


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH).uniform_(0.6, 1.2))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def linear(inputs, outputs):
    """A layer without bias that keeps the magnitude of its input."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=1.0 / math.sqrt(inputs))
    return layer


def rope_tables(first, length):
    """Cosine and sine of positions, for the two halves of a head alike."""
    freqs = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = torch.arange(first, first + length)[:, None] * freqs
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Rotates each pair (i, i + HEAD_DIM / 2) by the angle of its position."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def share(x):
    """Repeats each key or value head for the query heads that use it."""
    n, _, length, _ = x.shape
    x = x[:, :, None].expand(-1, -1, N_HEADS // N_KV_HEADS, -1, -1)
    return x.reshape(n, N_HEADS, length, HEAD_DIM)


class LlamaLayer(nn.Module):
    """One decoder layer; keys and values of earlier tokens come in and go out."""

    def __init__(self):
        super().__init__()
        self.attention_norm = RmsNorm()
        self.query = linear(WIDTH, WIDTH)
        self.key = linear(WIDTH, N_KV_HEADS * HEAD_DIM)
        self.value = linear(WIDTH, N_KV_HEADS * HEAD_DIM)
        self.out = linear(WIDTH, WIDTH)
        self.feed_forward_norm = RmsNorm()
        self.gate = linear(WIDTH, FEED_FORWARD)
        self.up = linear(WIDTH, FEED_FORWARD)
        self.down = linear(FEED_FORWARD, WIDTH)
        self.set_positions(0, TOKENS)

    def set_positions(self, first, length):
        cos, sin = rope_tables(first, length)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def heads(self, x):
        return x.view(x.shape[0], x.shape[1], -1, HEAD_DIM).transpose(1, 2)

    def forward(self, x, past_key=None, past_value=None):
        n, length, _ = x.shape
        y = self.attention_norm(x)
        q = rotate(self.heads(self.query(y)), self.cos, self.sin)
        k = rotate(self.heads(self.key(y)), self.cos, self.sin)
        v = self.heads(self.value(y))
        causal = past_key is None
        if not causal:
            k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        y = F.scaled_dot_product_attention(q, share(k), share(v), is_causal=causal)
        x = x + self.out(y.transpose(1, 2).reshape(n, length, WIDTH))
        y = self.feed_forward_norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x if causal else (x, k, v)


def export_llama(out, decode):
    """Exports one layer for TOKENS tokens, or for one token after TOKENS - 1 others."""
    common.seed_everything(0)
    layer = LlamaLayer()
    inputs = {"x": torch.randn(1, 1 if decode else TOKENS, WIDTH)}
    outputs = ["y"]
    if decode:
        layer.set_positions(TOKENS - 1, 1)
        for name in ("past_key", "past_value"):
            inputs[name] = torch.randn(1, N_KV_HEADS, TOKENS - 1, HEAD_DIM)
        outputs += ["present_key", "present_value"]
    path = out / ("llama-8b-decode" if decode else "llama-8b-prefill") / "model.onnx"
    common.export(layer, tuple(inputs.values()), path, list(inputs), outputs, external=True)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return common.write_test(path.parent, arrays)


class ReluFeedForward(nn.Module):
    """A feed-forward block as in ReLU models, whose hidden activations are sparse."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, RELU_HIDDEN)
        self.down = nn.Linear(RELU_HIDDEN, WIDTH)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=1.0 / math.sqrt(layer.in_features))
        nn.init.constant_(self.up.bias, -torch.special.ndtri(torch.tensor(RELU_ZEROS)).item())
        nn.init.normal_(self.down.bias, std=0.1)

    def forward(self, x):
        return self.down(F.relu(self.up(x)))


def export_relu(out):
    """Exports the feed-forward block for RELU_TOKENS tokens."""
    common.seed_everything(0)
    model = ReluFeedForward()
    x = torch.randn(RELU_TOKENS, WIDTH)
    with torch.no_grad():
        zeros = (model.up(x) <= 0).float().mean().item()
    assert abs(zeros - RELU_ZEROS) < 0.02, zeros
    path = out / "relu-ffn" / "model.onnx"
    common.export(model, (x,), path, ["x"], ["y"], external=True)
    return common.write_test(path.parent, {"x": x.numpy()})
