"""Trains `adder-llama`, a small Llama that adds three-digit numbers.

A sequence reads `^123+456=9750`: the sum is padded to four digits and written
backwards, so that each digit depends on columns already seen. The last digit is
predicted but never read, hence it is no part of the input.
"""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import common

SYMBOLS = "0123456789+=^"
N_NUMBERS = 1000
N_ANSWER = 4
SEQUENCE = len("^123+456=975")
FIRST_SCORED = SEQUENCE - N_ANSWER

N_LAYERS = 4
WIDTH = 128
N_HEADS = 4
N_KV_HEADS = 2
HEAD_DIM = WIDTH // N_HEADS
FEED_FORWARD = 384
ROPE_BASE = 10000.0
EPS = 1e-5

N_HELD_OUT = 8192
N_TEST = 256
BATCH = 512
STEPS = 600
WARMUP = 50
PEAK_LR = 2e-3
MIN_EXACT = 0.99


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def rope_tables():
    """Cosine and sine of every position, for the two halves of a head alike."""
    freqs = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = torch.arange(SEQUENCE)[:, None] * freqs
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Rotates each pair (i, i + HEAD_DIM / 2) by the angle of its position."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class Attention(nn.Module):
    """Causal attention in which N_HEADS / N_KV_HEADS query heads share a key head."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, N_HEADS * HEAD_DIM, bias=False)
        self.key = nn.Linear(WIDTH, N_KV_HEADS * HEAD_DIM, bias=False)
        self.value = nn.Linear(WIDTH, N_KV_HEADS * HEAD_DIM, bias=False)
        self.out = nn.Linear(N_HEADS * HEAD_DIM, WIDTH, bias=False)

    def forward(self, x, cos, sin):
        n, length, _ = x.shape
        q = self.query(x).view(n, length, N_HEADS, HEAD_DIM).transpose(1, 2)
        k = self.key(x).view(n, length, N_KV_HEADS, HEAD_DIM).transpose(1, 2)
        v = self.value(x).view(n, length, N_KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        x = F.scaled_dot_product_attention(q, share(k), share(v), is_causal=True)
        return self.out(x.transpose(1, 2).reshape(n, length, WIDTH))


def share(x):
    """Repeats each key or value head for the query heads that use it."""
    n, _, length, _ = x.shape
    x = x[:, :, None].expand(-1, -1, N_HEADS // N_KV_HEADS, -1, -1)
    return x.reshape(n, N_HEADS, length, HEAD_DIM)


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.up = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.down = nn.Linear(FEED_FORWARD, WIDTH, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = RmsNorm()
        self.attention = Attention()
        self.feed_forward_norm = RmsNorm()
        self.feed_forward = FeedForward()

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(SYMBOLS), WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.norm = RmsNorm()
        self.head = nn.Linear(WIDTH, len(SYMBOLS), bias=False)
        cos, sin = rope_tables()
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module):
        """Scales the branches' last layers so that the residual stream stays at 1."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(WIDTH))
        if isinstance(module, Block):
            for layer in (module.attention.out, module.feed_forward.down):
                layer.weight.data /= math.sqrt(2 * N_LAYERS)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def digits(values, n_digits):
    """The decimal digits of each value, most significant first."""
    return values[:, None] // 10 ** torch.arange(n_digits - 1, -1, -1) % 10


def sequences(pairs):
    """Returns input tokens and labels [N, SEQUENCE] for pairs coded a * 1000 + b."""
    a, b = pairs // N_NUMBERS, pairs % N_NUMBERS
    answer = digits(a + b, N_ANSWER).flip(1)
    plus, equals, start = (
        torch.full((len(pairs), 1), SYMBOLS.index(symbol)) for symbol in "+=^"
    )
    question = [start, digits(a, 3), plus, digits(b, 3), equals]
    tokens = torch.cat([*question, answer[:, :-1]], dim=1)
    labels = torch.full_like(tokens, -1)
    labels[:, FIRST_SCORED:] = answer
    return tokens, labels


def learning_rate(step):
    """Linear warm-up, then a cosine down to zero, as a factor of the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def exact_match(logits, labels):
    """The share of sequences with all answer digits right."""
    right = (logits.argmax(-1) == labels) | (labels < 0)
    return float(right.all(1).mean())


def train(model, pairs):
    """Trains on random batches of `pairs`, with the loss on answer digits only."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    model.train()
    began = time.monotonic()
    for step in range(STEPS):
        tokens, labels = sequences(pairs[torch.randint(len(pairs), (BATCH,))])
        logits = model(tokens)[:, FIRST_SCORED:]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, FIRST_SCORED:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            seconds = time.monotonic() - began
            print(f"step {step + 1}: loss {loss.item():.4f}, {seconds:.0f} s", flush=True)


def main():
    out = common.out_dir(__doc__)
    torch.set_num_threads(2)
    common.seed_everything(0)
    order = torch.randperm(N_NUMBERS * N_NUMBERS)
    held_out, pairs = order[:N_HELD_OUT], order[N_HELD_OUT:]
    model = Llama()
    train(model, pairs)

    model.eval()
    with torch.no_grad():
        tokens, labels = sequences(held_out)
        logits = torch.cat([model(part) for part in tokens.split(1024)])
    exact = exact_match(logits.numpy(), labels.numpy())
    print(f"adder-llama: exact match {exact:.4f} on {N_HELD_OUT} held-out pairs")
    assert exact >= MIN_EXACT

    tokens, labels = tokens[:N_TEST], labels[:N_TEST].numpy()
    model_dir = out / "adder-llama"
    common.export(model, (tokens,), model_dir / "model.onnx", ["tokens"], ["logits"])
    outputs = common.write_test(model_dir, {"tokens": tokens.numpy()}, labels)
    exact = exact_match(outputs["logits"], labels)
    print(f"adder-llama: exact match {exact:.4f} on the {N_TEST} pairs of the data set")
    assert exact >= MIN_EXACT
    np.testing.assert_allclose(outputs["logits"], logits[:N_TEST], rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    main()
