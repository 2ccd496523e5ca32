"""Parts of sequence models: norms, attention, masks, adapters, routers and heads."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

WIDTH = 32
TOKENS = 6
N_HEADS = 4
HEAD_DIM = WIDTH // N_HEADS
N_BEAMS = 4
EPS = 1e-5


def tokens(batch=1):
    """Random activations of some sequences."""
    return torch.randn(batch, TOKENS, WIDTH)


def layer_norm(eps=EPS):
    """A norm as after training: initially its scales are all 1, and its biases 0."""
    norm = nn.LayerNorm(WIDTH, eps)
    nn.init.uniform_(norm.weight, 0.6, 1.2)
    nn.init.normal_(norm.bias, std=0.1)
    return norm


class LayerNorms(nn.Module):
    """A feed-forward block that normalises first: before operator set 17 by parts."""

    def __init__(self):
        super().__init__()
        self.norm = layer_norm()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class RmsQuotient(nn.Module):
    """A root-mean-square norm that divides, as in the formula of the paper."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(WIDTH).uniform_(0.6, 1.2))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        rms = torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + EPS)
        return self.out(x / rms * self.scale)


class AdaptiveNorm(nn.Module):
    """A norm whose scale and shift are computed from a condition: diffusion models."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.condition = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def inputs(self):
        return {"x": tokens(), "condition": torch.randn(1, WIDTH)}

    def forward(self, x, condition):
        shift, scale = self.condition(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return self.out((1 + scale) * self.norm(x) + shift)


class StableSoftmax(nn.Module):
    """Two softmaxes by their parts: divided by the sum, and multiplied by its inverse."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 8)
        self.gate = nn.Linear(WIDTH, 8)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        score = self.score(x)
        e = torch.exp(score - score.max(dim=-1, keepdim=True).values)
        routes = e / e.sum(dim=-1, keepdim=True)
        e = torch.exp(self.gate(x))
        return routes, e * e.sum(dim=-1, keepdim=True).reciprocal()


class GuardedAttention(nn.Module):
    """Attention that is guarded against empty rows of a mask, run without a mask."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x, mask=None):
        n, length, _ = x.shape
        qkv = self.qkv(x).view(n, length, 3, N_HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        p = F.softmax(scores, dim=-1)
        p = torch.where(torch.isnan(p), torch.zeros_like(p), p)
        return self.out((p @ v).transpose(1, 2).reshape(n, length, WIDTH))


class KeysFirst(nn.Module):
    """Scores with the shared keys on the left, one row for each key."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, HEAD_DIM, bias=False)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        n, length, _ = x.shape
        q = self.query(x).view(n, length, N_HEADS, HEAD_DIM).transpose(1, 2)
        k = self.key(x)[:, None].expand(n, N_HEADS, length, HEAD_DIM)
        return torch.matmul(k, q.transpose(-1, -2)).softmax(-2)


class ExpandedMask(nn.Module):
    """Attention whose padding mask is expanded before it is inverted."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def inputs(self):
        return {"x": tokens(), "mask": (torch.arange(TOKENS) < TOKENS - 2).long()[None]}

    def forward(self, x, mask):
        n, length, _ = x.shape
        mask = mask[:, None, None, :].expand(n, 1, length, length).to(x.dtype)
        inverted = 1.0 - mask
        bias = inverted.masked_fill(inverted.to(torch.bool), -1e9)
        qkv = self.qkv(x).view(n, length, 3, N_HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5 + bias
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, WIDTH)


class PaddingMask(nn.Module):
    """Attention whose padding mask is expanded, inverted and then filled in."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def inputs(self):
        return {"x": tokens(), "mask": (torch.arange(TOKENS) < TOKENS - 2)[None]}

    def forward(self, x, mask):
        n, length, _ = x.shape
        hidden = ~mask[:, None, None, :].expand(n, 1, length, length)
        qkv = self.qkv(x).view(n, length, 3, N_HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
        p = scores.masked_fill(hidden, -1e9).softmax(-1)
        return (p @ v).transpose(1, 2).reshape(n, length, WIDTH)


class Others(nn.Module):
    """How similar each token is to the others, and not to itself: contrastive losses."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        x = self.embed(x)
        itself = torch.eye(x.shape[1], dtype=torch.bool)
        return (x @ x.transpose(1, 2)).masked_fill(itself, float("-inf")).softmax(-1)


class Codebooks(nn.Module):
    """Tokens of several codebooks, which share a table: each has its offset there."""

    def __init__(self):
        super().__init__()
        self.size = 16
        self.table = nn.Embedding(2 * self.size, WIDTH)
        self.register_buffer("offset", torch.arange(2) * self.size)

    def inputs(self):
        return {"codes": torch.randint(16, (1, 2, TOKENS))}

    def forward(self, codes):
        return sum(self.table(codes[:, i] + self.offset[i]) for i in range(2))


class Lora(nn.Module):
    """A layer with two low-rank adapters: one whose alpha is its rank, one untrained."""

    def __init__(self):
        super().__init__()
        rank, alpha = 4, 4
        self.base = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, rank, bias=False)
        self.up = nn.Linear(rank, WIDTH, bias=False)
        self.new_down = nn.Linear(WIDTH, rank, bias=False)
        self.new_up = nn.Linear(rank, WIDTH, bias=False)
        nn.init.zeros_(self.new_up.weight)
        self.scale = alpha / rank

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        y = self.base(x) + self.up(self.down(x)) * self.scale
        return y + self.new_up(self.new_down(x)) * self.scale


class Neutral(nn.Module):
    """Parameters as they begin or by default: a mean of 0, a temperature of 1."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))
        # A residual branch that opens during training.
        self.gain = nn.Parameter(torch.zeros(1))
        self.branch = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 16)
        self.temperature = 1.0

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        x = x - self.mean + self.position
        x = x + self.gain * torch.tanh(self.branch(x))
        return self.head(x) / self.temperature


def prune_half(layer, spread):
    """Takes half of the outputs from a layer: the weakest, or all behind the middle."""
    if spread:
        prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0)
    else:
        mask = torch.ones_like(layer.weight)
        mask[len(mask) // 2 :] = 0
        prune.custom_from_mask(layer, "weight", mask)
    prune.remove(layer, "weight")


class PrunedMlp(nn.Module):
    """Half of the hidden units pruned away, and a branch that is slimmed to half."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.branch = nn.Linear(WIDTH, WIDTH, bias=False)
        prune_half(self.up, spread=True)
        prune_half(self.branch, spread=False)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        return self.down(F.relu(self.up(x))) + torch.cos(self.branch(x))


class GraphLayer(nn.Module):
    """A graph convolution that normalises by degrees on both sides of a fixed graph."""

    def __init__(self):
        super().__init__()
        edges = (torch.rand(TOKENS, TOKENS) < 0.5).float()
        adjacency = torch.maximum(torch.eye(TOKENS), torch.maximum(edges, edges.T))
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("degree", adjacency.sum(1, keepdim=True).rsqrt())
        self.out = nn.Linear(WIDTH, WIDTH)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        y = self.degree * torch.matmul(self.adjacency, self.degree * torch.relu(x))
        return self.out(y)


class Beams(nn.Module):
    """A step of beam search: what was encoded is repeated for every beam of a sequence."""

    def __init__(self):
        super().__init__()
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)

    def inputs(self):
        return {"encoded": tokens(2), "states": torch.randn(2 * N_BEAMS, WIDTH)}

    def forward(self, encoded, states):
        n, length, width = encoded.shape
        encoded = encoded[:, None].expand(n, N_BEAMS, length, width)
        keys = self.key(encoded).reshape(n * N_BEAMS, length, width)
        p = torch.bmm(keys, states.unsqueeze(2)).softmax(1)
        values = encoded.reshape(n * N_BEAMS, length, width)
        return torch.bmm(p.transpose(1, 2), values).squeeze(1)


class Experts(nn.Module):
    """Two of four experts for each token, as `transformers` writes them: weights are picked by index."""

    def __init__(self):
        super().__init__()
        config = MixtralConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_local_experts=4, num_experts_per_tok=2
        )
        config._experts_implementation = "batched_mm"
        self.block = MixtralSparseMoeBlock(config)
        for parameter in self.block.parameters():
            nn.init.normal_(parameter, std=0.3)

    def inputs(self):
        return {"x": tokens()}

    def forward(self, x):
        return self.block(x)


class Router(nn.Module):
    """A layer in 16 bits, normalised in f32, and a router of experts in f32."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Parameter(torch.empty(WIDTH).uniform_(0.6, 1.2).half())
        self.up = nn.Linear(WIDTH, WIDTH).half()
        self.route = nn.Linear(WIDTH, 8, bias=False)

    def inputs(self):
        return {"x": tokens().half()}

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
        x = torch.tanh(self.up(self.norm * wide.half()))
        return x, F.softmax(self.route(x.float()), dim=-1)


class TwoHeads(nn.Module):
    """Logits of all positions, and a value of all but the first ones."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.logits = nn.Linear(WIDTH, 2 * WIDTH)
        self.value = nn.Linear(WIDTH, 8)

    def inputs(self):
        return {"x": tokens(2)}

    def forward(self, x):
        x = torch.tanh(self.up(x))
        return self.logits(x), self.value(x[:, 2:])


class SequenceFirst(nn.Module):
    """Attention that PyTorch computes with the sequence in front of the batch."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, N_HEADS, batch_first=True)

    def inputs(self):
        return {"x": tokens(2)}

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]
