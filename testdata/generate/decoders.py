"""Exports small decoders with caches, as exporters of today write them, with random weights.

Each folder of `testdata/decoders` has the model, and in `decoder.json` how to compile it (one object
for each list of options), a prompt, and the tokens that ONNX Runtime finds likeliest behind it.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import DynamicCache, StaticCache

import common

VOCABULARY = 41
LAYERS = 2
HEADS = 4
HEAD = 16
# Rows of the caches that tests compile with.
ROWS = 48
PROMPT = [3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 4, 3, 38]
COUNT = 16
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
             num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=64,
             bos_token_id=1, eos_token_id=2)  # fmt: skip


def decoders():
    llama = LlamaConfig(**SIZES, head_dim=HEAD)
    qwen = Qwen3Config(**SIZES, head_dim=HEAD)
    gemma = Gemma2Config(**SIZES, head_dim=HEAD, sliding_window=8, query_pre_attn_scalar=HEAD, pad_token_id=0)
    gemma._attn_implementation = "eager"
    gpt = GPT2Config(vocab_size=VOCABULARY, n_embd=HEADS * HEAD, n_layer=LAYERS, n_head=HEADS, n_positions=64)
    return {
        "llama": LlamaForCausalLM(llama),
        "qwen3": Qwen3ForCausalLM(qwen),
        "gemma2": Gemma2ForCausalLM(gemma),
        "gpt2": GPT2LMHeadModel(gpt),
    }


class Growing(nn.Module):
    """Caches that come back with a row more for each token."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits, *[t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]


class Static(nn.Module):
    """Caches of fixed size, of which rows are written at positions."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, cache_position, *past):
        cache = StaticCache(config=self.model.config, max_cache_len=ROWS)
        for layer, kept in enumerate(cache.layers):
            kept.lazy_initialization(past[2 * layer], past[2 * layer + 1])
            kept.keys, kept.values = past[2 * layer], past[2 * layer + 1]
            kept.cumulative_length = cache_position[:1].clone()
        out = self.model(
            input_ids=input_ids, position_ids=cache_position[None], past_key_values=cache, use_cache=True
        )
        return out.logits, *[t for layer in cache.layers for t in (layer.keys, layer.values)]


def names(prefix):
    return [f"{prefix}.{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")]


def heads_of(model):
    return getattr(model.config, "num_key_value_heads", HEADS)


def export_growing(model, path, dynamo):
    past = [torch.randn(1, heads_of(model), 5, HEAD) for _ in names("past")]
    tokens = torch.randint(0, VOCABULARY, (1, 3))
    args = (tokens, torch.ones(1, 8, dtype=torch.int64), torch.arange(5, 8)[None], *past)
    given = ["input_ids", "attention_mask", "position_ids", *names("past_key_values")]
    made = ["logits", *names("present")]
    wrapped = Growing(model).eval()
    if dynamo:
        auto = torch.export.Dim.DYNAMIC
        shapes = ({1: auto}, {1: auto}, {1: auto}, tuple({2: auto} for _ in past))
        torch.onnx.export(wrapped, args, path, input_names=given, output_names=made, dynamic_shapes=shapes,
                          dynamo=True, external_data=False, opset_version=20)  # fmt: skip
    else:
        axes = {"input_ids": {1: "s"}, "attention_mask": {1: "t"}, "position_ids": {1: "s"}}
        axes |= {name: {2: "p"} for name in names("past_key_values")}
        torch.onnx.export(wrapped, args, path, input_names=given, output_names=made, dynamic_axes=axes,
                          dynamo=False, opset_version=17)  # fmt: skip


def export_static(model, path, width):
    past = [torch.zeros(1, heads_of(model), ROWS, HEAD) for _ in names("past")]
    args = (torch.randint(0, VOCABULARY, (1, width)), torch.arange(width), *past)
    torch.onnx.export(Static(model).eval(), args, path,
                      input_names=["input_ids", "cache_position", *names("past_key_values")],
                      output_names=["logits", *names("present")],
                      dynamo=True, external_data=False, opset_version=20)  # fmt: skip


def export_shared(model, folder):
    """The layout of onnxruntime-genai: GroupQueryAttention over buffers."""
    tokens = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as out:
        model.save_pretrained(source)
        PreTrainedTokenizerFast(tokenizer_object=tokens).save_pretrained(source)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", out]
        builder += ["-p", "fp32", "-e", "cpu", "-c", source, "--extra_options", "hf_token=false"]
        subprocess.run(builder, check=True, stdout=subprocess.DEVNULL)
        onnx.save(onnx.load(Path(out) / "model.onnx"), folder / "model.onnx")


def greedy(path, heads):
    """The likeliest tokens behind the prompt, one at a time, from caches that hold what there is."""
    session = onnxruntime.InferenceSession(path)
    inputs = {i.name: i for i in session.get_inputs()}
    fixed = "cache_position" in inputs
    rows = ROWS if fixed else 0
    state = {n: np.zeros([1, heads, rows, HEAD], np.float32) for n in inputs if "past" in n}
    outputs, sequence = [o.name for o in session.get_outputs()], list(PROMPT)
    for at in range(len(PROMPT) + COUNT - 1):
        feed = dict(state, input_ids=np.array([[sequence[at]]]))
        known = {
            "cache_position": np.array([at]),
            "position_ids": np.array([[at]]),
            "attention_mask": np.ones([1, at + 1], np.int64),
        }
        feed |= {name: value for name, value in known.items() if name in inputs}
        found = dict(zip(outputs, session.run(None, feed)))
        state = {n: found[n.replace("past_key_values", "present")] for n in state}
        if at + 1 >= len(PROMPT):
            sequence.append(int(found["logits"][0, -1].argmax()))
    return sequence[len(PROMPT) :]


def describe(folder, heads, options):
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        common.strip_metadata(model)
        for node in model.graph.node:
            del node.metadata_props[:]
        onnx.save(model, path)
    tokens = greedy(folder / "model.onnx", heads)
    content = {"options": options, "prompt": PROMPT, "tokens": tokens}
    (folder / "decoder.json").write_text(json.dumps(content, indent=1) + "\n")


def growing_options(seq, total, past):
    """A step alone, a first part without a past, and parts that go on."""
    step = [f"{seq}=1", f"{total}={ROWS}", *[f"{p}={ROWS - 1}" for p in past]]
    begin = [f"{seq}=8", f"{total}=8", *[f"{p}=0" for p in past]]
    go_on = [f"{seq}=8", f"{total}={ROWS}", *[f"{p}={ROWS - 8}" for p in past]]
    length = ["--state-length", str(ROWS - 1)]
    return [
        [option for dim in step for option in ("--dim", dim)],
        ["--entry", "prefill:" + ",".join(begin), "--entry", "decode:" + ",".join(step), *length],
        ["--entry", "prefill:" + ",".join(go_on), "--entry", "decode:" + ",".join(step), *length],
    ]


def dims_of(path):
    graph = onnx.load(path, load_external_data=False).graph
    dim = {i.name: [d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input}
    past = sorted({sizes[2] for name, sizes in dim.items() if "past" in name})
    return dim["input_ids"][1], dim["attention_mask"][1], past


def main(out):
    warnings.filterwarnings("ignore")
    torch.manual_seed(7)
    made = {name: model.eval() for name, model in decoders().items()}
    for name, dynamo in [("llama", False), ("qwen3", True), ("gemma2", True), ("gpt2", False)]:
        folder = out / "decoders" / f"{name}-growing"
        folder.mkdir(parents=True, exist_ok=True)
        export_growing(made[name], folder / "model.onnx", dynamo)
        describe(folder, heads_of(made[name]), growing_options(*dims_of(folder / "model.onnx")))
    folder = out / "decoders" / "llama-static"
    folder.mkdir(parents=True, exist_ok=True)
    export_static(made["llama"], folder / "model.onnx", 1)
    export_static(made["llama"], folder / "prefill.onnx", 8)
    describe(folder, 2, [[], ["prefill.onnx"]])
    folder = out / "decoders" / "llama-shared"
    folder.mkdir(parents=True, exist_ok=True)
    export_shared(made["llama"], folder)
    fixed = ["--dim", "batch_size=1", "--dim", f"total_sequence_length={ROWS}", "--dim", f"past_sequence_length={ROWS}"]
    fixed += ["--dim", f"kv_cache_dim={HEAD}"]
    both = ["--entry", "prefill:sequence_length=8", "--entry", "decode:sequence_length=1"]
    describe(folder, 2, [[*fixed, "--dim", "sequence_length=1"], [*fixed, *both]])


if __name__ == "__main__":
    main(common.out_dir(__doc__, common.DEFAULT_OUT.parent))
