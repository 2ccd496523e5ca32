"""Language, speech and recommendation models with random weights, each a module and its inputs.

Small in depth and width, and complete in what their kind needs: caches with a position,
relative biases, cross attention, experts, tables, recurrent layers.
"""

import torch
import torch.nn.functional as F
import transformers
from torch import nn

# Above what trained models start from, so that attention is far from uniform.
INIT = {"initializer_range": 0.08}
VOCAB = 1000


def randomise(model):
    """Makes biases and norms distinct, which initially are all 0 and all 1."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            scale = 0.1 if name.endswith("bias") else 0.3
            nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=scale)
    return model.eval()


def tokens(batch, length):
    return torch.randint(1, VOCAB, (batch, length))


class Logits(nn.Module):
    """A language model that maps tokens to logits, without a cache.

    The mask, though of ones, spares a search for packed sequences that the older exporter lacks.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(
            input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False, return_dict=False
        )[0]


def causal(config, build, batch=2, length=20):
    return randomise(Logits(build(config))), {"input_ids": tokens(batch, length)}


# T5's fused attention cannot be exported.
EAGER = {"attn_implementation": "eager"}

DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
} | INIT


def gpt2():
    config = transformers.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=128, n_layer=2, n_head=4)
    return causal(config, transformers.GPT2LMHeadModel)


def llama(dtype=torch.float32):
    model, inputs = causal(transformers.LlamaConfig(**DECODER), transformers.LlamaForCausalLM)
    return model.to(dtype), inputs


def qwen3():
    return causal(transformers.Qwen3Config(**DECODER), transformers.Qwen3ForCausalLM)


def gemma2():
    config = transformers.Gemma2Config(**DECODER, query_pre_attn_scalar=32, sliding_window=8)
    return causal(config, transformers.Gemma2ForCausalLM)


class Bert(nn.Module):
    """An encoder that takes its inputs by position."""

    def __init__(self):
        super().__init__()
        sizes = DECODER | {"num_hidden_layers": 2}
        self.bert = transformers.BertModel(transformers.BertConfig(**sizes))

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids, attention_mask, return_dict=False)


def bert(batch=2, length=48):
    live = torch.tensor([[length], [length - 17]])[:batch]
    mask = (torch.arange(length)[None] < live).long()
    return randomise(Bert()), {"input_ids": tokens(batch, length) * mask, "attention_mask": mask}


class DecodeStep(nn.Module):
    """One layer of a decoder that writes a cache of fixed size at a position of its input."""

    def __init__(self, width=128, heads=4, kv_heads=2, most=96):
        super().__init__()
        self.dim, self.shared = width // heads, heads // kv_heads
        self.norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.value = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.embed = nn.Embedding(VOCAB, width)
        angles = torch.arange(most)[:, None] * 1e4 ** (-torch.arange(self.dim // 2) / self.dim * 2)
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1))

    def split(self, x):
        return x.unflatten(-1, (-1, self.dim)).transpose(1, 2)

    def rotate(self, x, cos, sin):
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def forward(self, token, position, keys, values):
        x = self.embed(token)
        y = self.norm(x)
        cos, sin = self.cos[position], self.sin[position]
        q = self.rotate(self.split(self.query(y)), cos, sin)
        k = self.rotate(self.split(self.key(y)), cos, sin)
        keys = keys.index_copy(2, position, k)
        values = values.index_copy(2, position, self.split(self.value(y)))
        live = (torch.arange(keys.shape[2]) <= position)[None, None, None]
        k, v = (z.repeat_interleave(self.shared, 1) for z in (keys, values))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=live)
        return x + self.out(y.transpose(1, 2).flatten(2)), keys, values


def decode(batch=2):
    caches = {name: torch.randn(batch, 2, 96, 32) for name in ("keys", "values")}
    inputs = {"token": tokens(batch, 1), "position": torch.tensor([41])}
    return randomise(DecodeStep()), inputs | caches


class Dlrm(nn.Module):
    """A recommendation model: tables, pairwise products of features, two perceptrons."""

    def __init__(self, tables=8, rows=1000, width=32):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in range(tables))
        self.bottom = nn.Sequential(
            nn.Linear(13, 128), nn.ReLU(), nn.Linear(128, width), nn.ReLU()
        )
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(
            nn.Linear(width + pairs, 128), nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid()
        )
        rows, columns = torch.tril_indices(tables + 1, tables + 1, -1)
        self.register_buffer("pairs", rows * (tables + 1) + columns)

    def forward(self, dense, bags):
        x = self.bottom(dense)
        features = [x] + [table(bags[:, i]) for i, table in enumerate(self.tables)]
        z = torch.stack(features, 1)
        products = (z @ z.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return self.top(torch.cat([x, products], 1))


class PlainDlrm(Dlrm):
    """The same, whose bags are lookups that are then summed."""

    def forward(self, dense, bags):
        x = self.bottom(dense)
        features = [x] + [t.weight[bags[:, i]].sum(1) for i, t in enumerate(self.tables)]
        z = torch.stack(features, 1)
        products = (z @ z.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return self.top(torch.cat([x, products], 1))


def dlrm(build=PlainDlrm, batch=5):
    bags = torch.randint(0, 1000, (batch, 8, 3))
    return randomise(build()), {"dense": torch.randn(batch, 13), "bags": bags}


class Recurrent(nn.Module):
    """A tagger: an embedding, recurrent layers, a classifier of each token."""

    def __init__(self, layer, width):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 48)
        self.layer = layer
        self.head = nn.Linear(width, 9)

    def forward(self, input_ids):
        return self.head(self.layer(self.embed(input_ids))[0])


def lstm():
    layer = nn.LSTM(48, 40, num_layers=2, bidirectional=True, batch_first=True)
    return randomise(Recurrent(layer, 80)), {"input_ids": tokens(3, 24)}


def gru():
    layer = nn.GRU(48, 56, batch_first=True)
    return randomise(Recurrent(layer, 56)), {"input_ids": tokens(3, 24)}


class Experts(nn.Module):
    """A mixture of experts of which each token takes the best two, all computed densely."""

    def __init__(self, width=64, hidden=128, experts=8, chosen=2):
        super().__init__()
        self.chosen = chosen
        self.norm = nn.LayerNorm(width)
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) / hidden**0.5)

    def forward(self, x):
        y = self.norm(x).flatten(0, 1)
        weights, which = self.router(y).softmax(-1).topk(self.chosen, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        gates = torch.zeros(y.shape[0], self.up.shape[0]).scatter(1, which, weights)
        hidden = F.silu(torch.einsum("nd,edh->enh", y, self.up))
        outputs = torch.einsum("enh,ehd->end", hidden, self.down)
        return x + torch.einsum("ne,end->nd", gates, outputs).view_as(x)


def experts():
    return randomise(Experts()), {"x": torch.randn(2, 10, 64)}


class Transcriber(nn.Module):
    """An encoder of audio and a decoder of tokens with cross attention."""

    def __init__(self):
        super().__init__()
        config = transformers.WhisperConfig(
            vocab_size=VOCAB, d_model=96, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192,
            decoder_ffn_dim=192, max_source_positions=100, max_target_positions=40,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
        self.model = transformers.WhisperForConditionalGeneration(config)

    def forward(self, input_features, decoder_input_ids):
        return self.model(
            input_features, decoder_input_ids=decoder_input_ids, use_cache=False, return_dict=False
        )[0]


def whisper():
    inputs = {"input_features": torch.randn(1, 80, 200), "decoder_input_ids": tokens(1, 12)}
    return randomise(Transcriber()), inputs


class Translator(nn.Module):
    """An encoder and a decoder whose attention has a bias by relative position."""

    def __init__(self):
        super().__init__()
        config = transformers.T5Config(
            vocab_size=VOCAB, d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        )
        self.model = transformers.T5ForConditionalGeneration._from_config(config, **EAGER)

    def forward(self, input_ids, decoder_input_ids):
        return self.model(
            input_ids, decoder_input_ids=decoder_input_ids, use_cache=False, return_dict=False
        )[0]


def t5():
    return randomise(Translator()), {"input_ids": tokens(2, 18), "decoder_input_ids": tokens(2, 11)}


def builders():
    """What makes each model and its inputs, by name."""
    return {
        "bert": bert,
        "gpt2": gpt2,
        "llama": llama,
        "llama-f16": lambda: llama(torch.float16),
        "llama-bf16": lambda: llama(torch.bfloat16),
        "llama-decode": decode,
        "qwen3": qwen3,
        "gemma2": gemma2,
        "dlrm": dlrm,
        "dlrm-bags": lambda: dlrm(Dlrm),
        "lstm": lstm,
        "gru": gru,
        "experts": experts,
        "whisper": whisper,
        "t5": t5,
    }
