"""Vision models as users have them, with random weights, each a module and its inputs.

Those of torchvision have their published sizes; the others are small models that need what
their kind needs: skip connections over resolutions, attention over pixels, transposed
convolutions, the best of many boxes.
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

IMAGE = 224
N_CALIBRATION = 4


def randomise(model, *inputs):
    """Gives a model weights with which activations keep a magnitude near one.

    Every batch normalisation gets distinct parameters, and statistics that are those of
    random inputs, layer after layer, then disturbed. Biases and the norms of transformers,
    which initially are all 0 and all 1, become distinct, else an exporter merges them.
    """
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    if not batch_norms:
        return model.eval()
    momenta = [norm.momentum for norm in batch_norms]
    for norm in batch_norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(*inputs)
    for norm, momentum in zip(batch_norms, momenta, strict=True):
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.1 * deviation * torch.randn_like(deviation)
        norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)
        norm.momentum = momentum
    return model.eval()


def published(build, batch=1, **options):
    """A model of torchvision, whose last layer is random where it starts as zeros."""
    model = build(weights=None, **options)
    if isinstance(model, torchvision.models.VisionTransformer):
        nn.init.normal_(model.heads.head.weight, std=0.05)
    randomise(model, torch.randn(max(batch, N_CALIBRATION), 3, IMAGE, IMAGE))
    return model, {"image": torch.randn(batch, 3, IMAGE, IMAGE)}


class Double(nn.Sequential):
    """Two convolutions, each with a norm and an activation."""

    def __init__(self, channels, filters):
        layers = []
        for n in (channels, filters):
            layers += [nn.Conv2d(n, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """A U-Net of three resolutions, upsampled once by interpolation and once by weights."""

    def __init__(self, width=24):
        super().__init__()
        self.down = nn.ModuleList([Double(3, width), Double(width, 2 * width)])
        self.bottom = Double(2 * width, 4 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = nn.ModuleList([Double(6 * width, 2 * width), Double(2 * width, width)])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, image):
        top = self.down[0](image)
        middle = self.down[1](F.max_pool2d(top, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        x = F.interpolate(x, size=middle.shape[2:], mode="bilinear", align_corners=False)
        x = self.join[0](torch.cat([middle, x], 1))
        return self.head(self.join[1](torch.cat([top, self.up(x)], 1)))


def unet(batch=2):
    model = UNet()
    randomise(model, torch.randn(N_CALIBRATION, 3, 96, 72))
    return model, {"image": torch.randn(batch, 3, 96, 72)}


class Segformer(nn.Module):
    """A SegFormer that answers with logits alone."""

    def __init__(self):
        super().__init__()
        config = SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 96, 128], num_labels=5)
        self.model = SegformerForSemanticSegmentation(config)

    def forward(self, pixel_values):
        return self.model(pixel_values, return_dict=False)[0]


def segformer(batch=2):
    model = Segformer()
    randomise(model, torch.randn(N_CALIBRATION, 3, 128, 160))
    return model, {"pixel_values": torch.randn(batch, 3, 128, 160)}


class Residual(nn.Module):
    """A residual block whose channels are shifted by an embedding of the time step."""

    def __init__(self, channels, filters, width):
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, filters, 3, padding=1)
        )
        self.shift = nn.Linear(width, filters)
        self.second = nn.Sequential(
            nn.GroupNorm(8, filters), nn.SiLU(), nn.Conv2d(filters, filters, 3, padding=1)
        )
        self.skip = nn.Conv2d(channels, filters, 1) if channels != filters else nn.Identity()

    def forward(self, x, time):
        y = self.first(x) + self.shift(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.second(y)


class CrossAttention(nn.Module):
    """Pixels that attend to themselves and then to a text, and a gated feed-forward layer."""

    def __init__(self, channels, context, heads=4):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        widths = [(channels, channels), (channels, context)]
        self.query = nn.ModuleList(nn.Linear(q, channels, bias=False) for q, _ in widths)
        self.key = nn.ModuleList(nn.Linear(k, channels, bias=False) for _, k in widths)
        self.value = nn.ModuleList(nn.Linear(k, channels, bias=False) for _, k in widths)
        self.out = nn.ModuleList(nn.Linear(channels, channels) for _ in widths)
        self.gate = nn.Linear(channels, 8 * channels)
        self.down = nn.Linear(4 * channels, channels)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, which, x, context):
        q = self.split(self.query[which](x))
        k = self.split(self.key[which](context))
        v = self.split(self.value[which](context))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out[which](y.transpose(1, 2).flatten(2))

    def forward(self, x, context):
        n, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        z = self.norms[0](y)
        y = y + self.attend(0, z, z)
        y = y + self.attend(1, self.norms[1](y), context)
        value, gate = self.gate(self.norms[2](y)).chunk(2, -1)
        y = y + self.down(value * F.gelu(gate))
        return x + y.reshape(n, h, w, c).permute(0, 3, 1, 2)


class Diffusion(nn.Module):
    """A step of a latent diffusion model: down, across, up."""

    def __init__(self, width=64, context=96):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.down = Residual(width, width, 4 * width)
        self.halve = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.middle = Residual(width, 2 * width, 4 * width)
        self.attention = CrossAttention(2 * width, context)
        self.widen = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = Residual(3 * width, width, 4 * width)
        self.last = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1)
        )

    def embed(self, step):
        half = self.width // 2
        rates = torch.exp(-9.2 * torch.arange(half, device=step.device) / half)
        angles = step[:, None].float() * rates
        return self.time(torch.cat([angles.cos(), angles.sin()], -1))

    def forward(self, latent, step, text):
        time = self.embed(step)
        top = self.down(self.first(latent), time)
        x = self.attention(self.middle(self.halve(top), time), text)
        x = self.widen(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.last(self.up(torch.cat([x, top], 1), time))


def diffusion(batch=2):
    model = randomise(Diffusion())
    inputs = {"latent": torch.randn(batch, 4, 32, 32), "step": torch.tensor([981, 3][:batch])}
    return model, inputs | {"text": torch.randn(batch, 77, 96)}


class Decoder(nn.Module):
    """A generator of images from a vector, by transposed convolutions alone."""

    def __init__(self, latent=64, width=32):
        super().__init__()
        layers, sizes = [], [latent, 4 * width, 2 * width, width]
        for idx, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False)):
            stride = {"stride": 1} if idx == 0 else {"stride": 2, "padding": 1}
            layers += [nn.ConvTranspose2d(n, m, 4, bias=False, **stride), nn.BatchNorm2d(m)]
            layers.append(nn.LeakyReLU(0.2))
        grow = nn.ConvTranspose2d(width, 3, 3, stride=2, padding=1, output_padding=1)
        self.layers = nn.Sequential(*layers, grow, nn.Tanh())

    def forward(self, z):
        return self.layers(z[:, :, None, None])


def decoder(batch=3):
    model = Decoder()
    randomise(model, torch.randn(N_CALIBRATION, 64))
    return model, {"z": torch.randn(batch, 64)}


class Detector(nn.Module):
    """A detector of one stage: features of two scales, decoded boxes, the best ones."""

    def __init__(self, width=32, classes=7, best=50):
        super().__init__()
        self.best = best
        self.outputs = 5 + classes
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 6, 2, 2), nn.BatchNorm2d(width), nn.SiLU(),
            nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.SiLU(),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.SiLU()
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.mix = nn.Conv2d(8 * width, 2 * width, 1)
        self.heads = nn.ModuleList(
            [nn.Conv2d(3 * width, 3 * self.outputs, 1), nn.Conv2d(2 * width, 3 * self.outputs, 1)]
        )
        self.register_buffer("anchors", torch.rand(2, 3, 2) * 40 + 8)

    def decode(self, x, level, stride):
        n, _, h, w = x.shape
        x = x.view(n, 3, self.outputs, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack([xs, ys], -1)[None, None].float()
        centre = (x[..., :2] * 2 - 0.5 + grid) * stride
        size = (x[..., 2:4] * 2) ** 2 * self.anchors[level][None, :, None, None]
        return torch.cat([centre, size, x[..., 4:]], -1).reshape(n, -1, self.outputs)

    def forward(self, image):
        fine = self.stem(image)
        coarse = self.coarse(fine)
        coarse = self.mix(torch.cat([coarse, *(pool(coarse) for pool in self.pools)], 1))
        fine = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1)
        boxes = torch.cat(
            [self.decode(self.heads[0](fine), 0, 4), self.decode(self.heads[1](coarse), 1, 8)], 1
        )
        score, label = (boxes[..., 4:5] * boxes[..., 5:]).max(-1)
        score, which = score.topk(self.best, -1)
        corners = boxes[..., :4].gather(1, which[..., None].expand(-1, -1, 4))
        return corners, score, label.gather(1, which)


def detector(batch=2):
    model = Detector()
    randomise(model, torch.randn(N_CALIBRATION, 3, 96, 128))
    return model, {"image": torch.randn(batch, 3, 96, 128)}


def builders():
    """What makes each model and its inputs, by name."""
    models = torchvision.models
    return {
        "resnet50-16": lambda: published(models.resnet50, 16),
        "mobilenet-v3": lambda: published(models.mobilenet_v3_large),
        "efficientnet-b0": lambda: published(models.efficientnet_b0),
        "convnext-tiny": lambda: published(models.convnext_tiny),
        "swin-tiny": lambda: published(models.swin_t),
        "vit-b16": lambda: published(models.vit_b_16),
        "vit-b16-8": lambda: published(models.vit_b_16, 8),
        "googlenet": lambda: published(models.googlenet, 2, aux_logits=False, init_weights=False),
        "shufflenet": lambda: published(models.shufflenet_v2_x1_0, 2),
        "squeezenet": lambda: published(models.squeezenet1_1, 2),
        "unet": unet,
        "segformer": segformer,
        "diffusion": diffusion,
        "decoder": decoder,
        "detector": detector,
    }
