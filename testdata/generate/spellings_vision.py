"""Parts of image models: blocks of known architectures, heads and pruned layers."""

import torch
import torch.nn.functional as F
from torch import nn

from spellings_language import WIDTH, layer_norm, prune_half

CHANNELS = WIDTH
SIZE = 6


def image():
    """Random activations of one image."""
    return torch.randn(1, CHANNELS, SIZE, SIZE)


def random_batch_norm(channels):
    """A batch normalisation as after training."""
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.6, 1.2)
    nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.uniform_(norm.running_var, 0.8, 1.2)
    return norm


class ConvNext(nn.Module):
    """A ConvNeXt block: depthwise convolution, then a channels-last MLP."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.norm = layer_norm(eps=1e-6)
        self.up = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.down = nn.Linear(2 * CHANNELS, CHANNELS)
        self.gamma = nn.Parameter(torch.empty(CHANNELS).uniform_(0.1, 0.3))

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(F.gelu(self.up(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """A channels-last model in a channels-first format: transposes around operators."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 16, 3)
        self.second = nn.Conv2d(16, 8, 1)

    def inputs(self):
        return {"x": torch.randn(1, SIZE, SIZE, CHANNELS)}

    def forward(self, x):
        y = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1))
        y = self.first(y).permute(0, 2, 3, 1)
        y = torch.where(y > 0, y, 0.1 * y)
        y = self.second(y.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


class SegmentationHead(nn.Module):
    """Everything that a caller with channels last wants to know of a feature map."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Conv2d(CHANNELS, 8, 1)

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        p = self.classes(x).softmax(1)
        certain = (p > 0.15).permute(0, 2, 3, 1)
        saliency = x.abs().mean(1).transpose(1, 2)
        descriptor = x.permute(0, 2, 3, 1).mean((1, 2))
        framed = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        return p.permute(0, 2, 3, 1), certain, saliency, descriptor, framed


class DenseBlock(nn.Module):
    """Convolutions with biases between batch normalisations, as in pre-activation nets."""

    def __init__(self):
        super().__init__()
        self.first = random_batch_norm(CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.second = random_batch_norm(CHANNELS)
        self.out = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        y = self.conv(F.relu(self.first(x)))
        return x + self.out(self.second(y))


class NormalisedImage(nn.Module):
    """A stem that normalises its image itself: means and deviations of the data set."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.conv = nn.Conv2d(3, CHANNELS, 3)

    def inputs(self):
        return {"image": torch.rand(1, 3, SIZE, SIZE)}

    def forward(self, image):
        return self.conv((image - self.mean) / self.std)


class Mixer(nn.Module):
    """An MLP-Mixer layer: tokens are mixed across, then channels."""

    def __init__(self):
        super().__init__()
        tokens, hidden = 16, 32
        self.token_norm = layer_norm()
        self.token_up = nn.Linear(tokens, hidden)
        self.token_down = nn.Linear(hidden, tokens)
        self.channel_norm = layer_norm()
        self.channel_up = nn.Linear(CHANNELS, CHANNELS)
        self.channel_down = nn.Linear(CHANNELS, CHANNELS)

    def inputs(self):
        return {"x": torch.randn(1, 16, CHANNELS)}

    def forward(self, x):
        y = self.token_norm(x).transpose(1, 2)
        x = x + self.token_down(F.gelu(self.token_up(y))).transpose(1, 2)
        return x + self.channel_down(F.gelu(self.channel_up(self.channel_norm(x))))


class Pillars(nn.Module):
    """Two levels of a PointPillars neck, upsampled by their factors: 1 and 2."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(CHANNELS, CHANNELS, 1, stride=2)
        self.first = nn.ConvTranspose2d(CHANNELS, 16, 1, stride=1, bias=False)
        self.second = nn.ConvTranspose2d(CHANNELS, 16, 2, stride=2, bias=False)

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        levels = [self.first(x), self.second(F.relu(self.down(x)))]
        return torch.cat(levels, dim=1)


class Pruned(nn.Module):
    """Half of the filters between two convolutions pruned away, and half of the last."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        prune_half(self.first, spread=True)
        prune_half(self.last, spread=False)

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        y = self.second(F.relu(self.first(x)))
        return torch.cos(self.last(y))


class EmptyBranch(nn.Module):
    """A residual block before training, whose last scale is 0, and a control branch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.norm = random_batch_norm(CHANNELS)
        nn.init.zeros_(self.norm.weight)
        self.control = nn.Conv2d(CHANNELS, CHANNELS, 1)
        nn.init.zeros_(self.control.weight)
        nn.init.zeros_(self.control.bias)

    def inputs(self):
        return {"x": image(), "hint": image()}

    def forward(self, x, hint):
        return F.relu(x + self.norm(self.conv(x))) + self.control(hint)


class GlobalContext(nn.Module):
    """The mean of an image at every position beside the image, then a convolution."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.refine = nn.Conv2d(CHANNELS, 8, 3, padding=1)

    def inputs(self):
        return {"x": image()}

    def forward(self, x):
        context = F.relu(self.squeeze(x.mean((2, 3), keepdim=True))).expand_as(x)
        return self.refine(context)


class Frames(nn.Module):
    """Spectrogram frames, made the first dimension, and what changed since the last one."""

    def __init__(self):
        super().__init__()
        self.frame = nn.Linear(CHANNELS, CHANNELS)
        self.change = nn.Linear(CHANNELS, CHANNELS)

    def inputs(self):
        return {"x": torch.randn(1, CHANNELS, 16)}

    def forward(self, x):
        frames = x.transpose(1, 2)
        return self.frame(frames[:, 1:]) + self.change(frames[:, 1:] - frames[:, :-1])


class Streaming(nn.Module):
    """A causal convolution over a stream: the end of each chunk is kept for the next."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3)

    def inputs(self):
        return {"x": torch.randn(1, CHANNELS, 8), "cache": torch.randn(1, CHANNELS, 2)}

    def forward(self, x, cache):
        x = torch.cat([cache, x], dim=2)
        y = self.conv(x)
        return y[:, : CHANNELS // 2, 2:], x[:, :, -2:]
