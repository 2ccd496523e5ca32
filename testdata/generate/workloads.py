"""Writes the workloads whose modelled time `cargo xtask performance` reports.

One folder each with `model.onnx` and its weights beside it, without test data: published
sizes, random weights. What is there already is kept.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

import common
import zoo_vision

VISION = {
    "resnet18": (torchvision.models.resnet18, [1]),
    "resnet50": (torchvision.models.resnet50, [1, 16]),
    "mobilenet-v3-large": (torchvision.models.mobilenet_v3_large, [1, 16]),
    "vit-b-16": (torchvision.models.vit_b_16, [1, 8]),
}
PRODUCTS = {"square-4096": (4096, 4096, 4096), "decode-product": (1, 4096, 14336)}
TOKENS = 128
HIDDEN, HEADS, KV_HEADS, HEAD = 4096, 32, 8, 128
PREFILL, CACHED = 512, 4095


def product(rows, summed, columns, path):
    """One MatMul by a constant."""
    values = np.random.default_rng(0).standard_normal((summed, columns), np.float32)
    weight = numpy_helper.from_array(values / 64, "weight")
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")],
        "product",
        [tensor("x", TensorProto.FLOAT, [rows, summed])],
        [tensor("y", TensorProto.FLOAT, [rows, columns])],
        [weight],
    )
    opsets = [helper.make_opsetid("", common.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


class Encoder(nn.Module):
    """BERT-base without its pooler, all tokens real."""

    def __init__(self):
        super().__init__()
        self.model = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, ids):
        return self.model(ids).last_hidden_state


def llama():
    """The one layer of a Llama of 8 billion parameters, and its rotary embedding."""
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=14336,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=32,
        max_position_embeddings=8192,
    )
    config._attn_implementation = "sdpa"
    model = LlamaModel(config)
    return model.layers[0], model.rotary_emb


class Prefill(nn.Module):
    """A layer over all tokens of a prompt."""

    def __init__(self, layer, rotary):
        super().__init__()
        self.layer, self.rotary = layer, rotary

    def forward(self, x):
        length = x.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        y = self.layer(
            x,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=self.rotary(x, positions),
        )
        return y[0] if isinstance(y, tuple) else y


class Decode(nn.Module):
    """A layer for one token: the caches are inputs, their new rows are outputs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, cos, sin, keys, values):
        attention, batch = self.layer.self_attn, x.shape[0]
        normed = self.layer.input_layernorm(x)

        def heads(projection, count):
            return projection(normed).view(batch, 1, count, HEAD).transpose(1, 2)

        def rotate(t):
            low, high = t[..., : HEAD // 2], t[..., HEAD // 2 :]
            return t * cos + torch.cat((-high, low), -1) * sin

        query = rotate(heads(attention.q_proj, HEADS))
        key = rotate(heads(attention.k_proj, KV_HEADS))
        value = heads(attention.v_proj, KV_HEADS)
        all_keys, all_values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        grouped = query.view(batch, KV_HEADS, HEADS // KV_HEADS, HEAD)
        scores = grouped @ all_keys.transpose(2, 3) * HEAD**-0.5
        mixed = (torch.softmax(scores, -1) @ all_values).view(batch, 1, HIDDEN)
        x = x + attention.o_proj(mixed)
        x = x + self.layer.mlp(self.layer.post_attention_layernorm(x))
        return x, key, value


def export(model, inputs, path):
    program = torch.onnx.export(
        model.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        opset_version=common.OPSET,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    common.strip_metadata(proto)
    (path.parent / common.WEIGHTS).unlink(missing_ok=True)
    onnx.save(proto, path, save_as_external_data=True, location=common.WEIGHTS)


def workloads():
    """Each name with what writes its file."""
    for name, shape in PRODUCTS.items():
        yield name, lambda path, shape=shape: product(*shape, path)
    for name, (build, batches) in VISION.items():
        for batch in batches:

            def vision(path, build=build, batch=batch):
                export(*zoo_vision.published(build, batch), path)

            yield f"{name}-b{batch}", vision
    for batch in [1, 8]:

        def bert(path, batch=batch):
            export(Encoder(), {"ids": torch.randint(0, 30000, (batch, TOKENS))}, path)

        yield f"bert-base-b{batch}", bert

    def prefill(path):
        export(Prefill(*llama()), {"x": torch.randn(1, PREFILL, HIDDEN)}, path)

    yield "llama-8b-prefill-512", prefill
    for batch in [1, 8]:

        def decode(path, batch=batch):
            caches = [torch.randn(batch, KV_HEADS, CACHED, HEAD) for _ in range(2)]
            angles = [torch.randn(1, 1, 1, HEAD) for _ in range(2)]
            inputs = [torch.randn(batch, 1, HIDDEN), *angles, *caches]
            names = ["x", "cos", "sin", "keys", "values"]
            export(Decode(llama()[0]), dict(zip(names, inputs, strict=True)), path)

        yield f"llama-8b-decode-4096-b{batch}", decode


def main(out: Path):
    for name, write in workloads():
        path = out / name / "model.onnx"
        if path.exists():
            continue
        print(name, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        common.seed_everything(0)
        write(path)


if __name__ == "__main__":
    main(common.out_dir(__doc__, None))
