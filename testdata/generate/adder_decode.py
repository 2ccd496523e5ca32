"""Exports `adder-decode`: one step of `adder-llama` with caches, for one token at a position.

The weights are those of the committed `adder-llama`. Each layer has a key and a value cache of
fixed size as inputs `past.N.key` and `past.N.value`; `present.N.key` and `present.N.value` are
the same with the row of the position written. Test data is the third symbol of a sum.
"""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

import adder_llama as adder
import common

LENGTH = 16
TOKENS = "^123+456="
POSITION = 2


class Step(nn.Module):
    """The model for one token: `position` is the row of the caches that it writes."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        freqs = adder.ROPE_BASE ** (-torch.arange(0, adder.HEAD_DIM, 2) / adder.HEAD_DIM)
        angles = torch.arange(LENGTH)[:, None] * freqs
        angles = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def attend(self, attention, x, position, keys, values):
        def heads(projection, count):
            return projection(x).view(1, 1, count, adder.HEAD_DIM).transpose(1, 2)

        cos, sin = self.cos[position], self.sin[position]
        q = adder.rotate(heads(attention.query, adder.N_HEADS), cos, sin)
        k = adder.rotate(heads(attention.key, adder.N_KV_HEADS), cos, sin)
        keys = keys.index_copy(2, position, k)
        values = values.index_copy(2, position, heads(attention.value, adder.N_KV_HEADS))
        live = (torch.arange(LENGTH) <= position)[None, None, None]
        y = F.scaled_dot_product_attention(
            q, adder.share(keys), adder.share(values), attn_mask=live
        )
        return attention.out(y.transpose(1, 2).reshape(1, 1, -1)), keys, values

    def forward(self, token, position, *past):
        x = self.model.embedding(token)
        present = []
        for n, block in enumerate(self.model.blocks):
            y, keys, values = self.attend(
                block.attention, block.attention_norm(x), position, *past[2 * n : 2 * n + 2]
            )
            present += [keys, values]
            x = x + y
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.model.head(self.model.norm(x)), *present


def trained():
    """The committed model's weights in the module that they were trained in."""
    stored = onnx.load(common.DEFAULT_OUT / "adder-llama" / "model.onnx").graph.initializer
    arrays = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in stored}
    # The exporter renames the weights of products and keeps their order.
    products = iter([a.T for n, a in arrays.items() if a.dim() == 2 and n.startswith("val_") and a.shape[0] != adder.SEQUENCE])
    model = adder.Llama()
    named = {n: a for n, a in arrays.items() if n.endswith("weight")}
    for block_name, block in [(f"blocks.{n}", b) for n, b in enumerate(model.blocks)]:
        attention, feed_forward = block.attention, block.feed_forward
        for linear in (
            *(attention.query, attention.key, attention.value, attention.out),
            *(feed_forward.gate, feed_forward.up, feed_forward.down),
        ):
            linear.weight.data = next(products)
        block.attention_norm.weight.data = named[f"{block_name}.attention_norm.weight"]
        block.feed_forward_norm.weight.data = named[f"{block_name}.feed_forward_norm.weight"]
    model.embedding.weight.data = named["embedding.weight"]
    model.norm.weight.data = named["norm.weight"]
    model.head.weight.data = next(products)
    return model.eval()


def caches():
    shape = (1, adder.N_KV_HEADS, LENGTH, adder.HEAD_DIM)
    return [torch.zeros(shape) for _ in range(2 * adder.N_LAYERS)]


def names(prefix):
    return [f"{prefix}.{n}.{kind}" for n in range(adder.N_LAYERS) for kind in ("key", "value")]


def main(out):
    step = Step(trained()).eval()
    ids = [adder.SYMBOLS.index(symbol) for symbol in TOKENS]
    state, answer = caches(), ""
    with torch.no_grad():
        for position in range(len(TOKENS) + adder.N_ANSWER - 1):
            inputs = [torch.tensor([[ids[position]]]), torch.tensor([position]), *state]
            if position == POSITION:
                shown = inputs
            logits, *state = step(*inputs)
            if position >= len(TOKENS) - 1:
                ids.append(int(logits[0, 0].argmax()))
                answer += adder.SYMBOLS[ids[-1]]
    assert answer[::-1] == "0579", answer
    path = out / "adder-decode" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    given = ["token", "position", *names("past")]
    torch.onnx.export(
        step,
        tuple(shown),
        path,
        input_names=given,
        output_names=["logits", *names("present")],
        opset_version=common.OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    common.finish(onnx.load(path), path)
    common.write_test(path.parent, dict(zip(given, [np.asarray(x) for x in shown], strict=True)))


if __name__ == "__main__":
    main(common.out_dir(__doc__))
