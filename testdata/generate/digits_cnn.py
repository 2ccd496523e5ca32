"""Trains `digits-cnn` and its 2:4 sparse variant on scikit-learn's digits."""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import common

N_TEST = 360
BATCH = 64
DENSE_EPOCHS = 40
SPARSE_EPOCHS = 20
MIN_ACCURACY = 0.97


class ConvNorm(nn.Module):
    """A 3x3 convolution without bias, followed by batch normalisation."""

    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x):
        return self.norm(self.conv(x))


class DigitsCnn(nn.Module):
    """Four convolutions, the last one residual, for 8x8 images of digits."""

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(1, 32)
        self.widen = ConvNorm(32, 64)
        self.shrink = ConvNorm(64, 128, stride=2)
        self.refine = ConvNorm(128, 128)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.widen(x))
        x = F.relu(self.shrink(x))
        x = F.relu(x + self.refine(x))
        return self.head(torch.flatten(self.pool(x), 1))


def load_data():
    """Returns train and test images, scaled to 0..1, with labels."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=N_TEST, stratify=labels, random_state=0
    )
    return torch.from_numpy(x), torch.from_numpy(y), x_test, y_test


def shift(images):
    """Moves each image by up to one pixel in each direction."""
    n = len(images)
    padded = F.pad(images, (1, 1, 1, 1))
    rows = torch.randint(0, 3, (n, 1)) + torch.arange(8)
    cols = torch.randint(0, 3, (n, 1)) + torch.arange(8)
    picked = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]]
    return picked[:, None]


def two_four_mask(weight):
    """Keeps the two largest of every four consecutive inputs at the same tap."""
    groups = weight.detach().abs().unflatten(1, (-1, 4))
    kept = groups.topk(2, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, kept, True).flatten(1, 2)


def sparse_masks(model):
    """Masks for every weight with a reduction of whole groups of four inputs."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return {m: two_four_mask(m.weight) for m in layers if m.weight.shape[1] % 4 == 0}


def apply_masks(masks):
    """Sets masked weights to positive zero."""
    with torch.no_grad():
        for layer, mask in masks.items():
            layer.weight.masked_fill_(~mask, 0.0)


def train(model, x, y, epochs, lr, masks):
    """Trains with AdamW on a one-cycle schedule, holding the masks fixed."""
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(shift(x[batch])), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            apply_masks(masks)
            schedule.step()


def save(model, model_dir, x_test, y_test):
    """Exports the model with its test set, and fails below the accuracy it must have."""
    images = torch.from_numpy(x_test)
    proto = common.export(
        model,
        (images,),
        model_dir / "model.onnx",
        ["images"],
        ["logits"],
        fold_batch_norm=False,
    )
    n_norms = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
    assert n_norms == 4, f"{n_norms} BatchNormalization nodes, expected 4"
    outputs = common.write_test(model_dir, {"images": x_test}, y_test)
    accuracy = (outputs["logits"].argmax(1) == y_test).mean()
    print(f"{model_dir.name}: accuracy {accuracy:.4f} on {len(y_test)} images")
    assert accuracy >= MIN_ACCURACY


def check_two_four(path):
    """Asserts that every exported weight but the first keeps the 2:4 pattern."""
    proto = onnx.load(path)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    n_checked = 0
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = arrays[node.input[1]]
        if weight.shape[1] % 4 != 0:
            continue
        groups = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
        assert np.count_nonzero(groups, axis=2).max() <= 2, node.name
        n_checked += 1
    assert n_checked == 4, f"{n_checked} sparse weights, expected 4"


def main():
    out = common.out_dir(__doc__)
    torch.set_num_threads(2)
    common.seed_everything(0)
    x, y, x_test, y_test = load_data()
    model = DigitsCnn()
    train(model, x, y, DENSE_EPOCHS, 4e-3, {})
    save(model, out / "digits-cnn", x_test, y_test)
    masks = sparse_masks(model)
    apply_masks(masks)
    train(model, x, y, SPARSE_EPOCHS, 2e-3, masks)
    save(model, out / "digits-cnn-24", x_test, y_test)
    check_two_four(out / "digits-cnn-24" / "model.onnx")


if __name__ == "__main__":
    main()
