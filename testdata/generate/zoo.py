"""Exports well-known architectures with random weights.

They test import, compilation and numerics at real sizes, and have no accuracy.
"""

import argparse
from pathlib import Path

import torch
import torchvision
from torch import nn
from transformers import BertConfig, BertModel

import common
import zoo_transformers

N_CALIBRATION = 4


def randomise_batch_norms(model):
    """Gives every batch normalisation distinct parameters and plausible statistics.

    Statistics are those of random images, layer after layer, and then disturbed, so
    that activations keep a magnitude near one through the whole depth.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.6, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.randn(N_CALIBRATION, 3, 224, 224))
    for norm in norms:
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.1 * deviation * torch.randn_like(deviation)
        norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)
        # Inference ignores it; the exporter writes it as an attribute all the same.
        norm.momentum = 0.1
    model.eval()


def export_resnet(build, name, out):
    """Exports a torchvision ResNet for one image."""
    common.seed_everything(0)
    model = build(weights=None)
    randomise_batch_norms(model)
    image = torch.randn(1, 3, 224, 224)
    path = out / name / "model.onnx"
    common.export(model, (image,), path, ["image"], ["logits"], fold_batch_norm=False)
    return common.write_test(path.parent, {"image": image.numpy()})


def randomise_vectors(model):
    """Makes every bias and layer norm distinct, which initially are all 0 and all 1.

    The exporter would merge equal ones into a single constant.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.6, 1.2)


class Bert(nn.Module):
    """A BERT encoder that takes its three inputs by position."""

    def __init__(self, config):
        super().__init__()
        self.bert = BertModel(config)

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.bert(input_ids, attention_mask, token_type_ids, return_dict=False)


SMALL_BERT = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    # Above BERT's 0.02, so that attention is far from uniform.
    "initializer_range": 0.08,
}
# The defaults have the sizes of BERT-base.
BASE_BERT = {"initializer_range": 0.04}


def export_bert(name, sizes, out):
    """Exports a BERT for one padded sequence of two segments."""
    common.seed_everything(0)
    config = BertConfig(max_position_embeddings=128, **sizes)
    length, first_segment, n_live = 128, 40, 100
    position = torch.arange(length)[None]
    attention_mask = (position < n_live).long()
    input_ids = torch.randint(1, config.vocab_size, (1, length)) * attention_mask
    token_type_ids = (position >= first_segment).long() * attention_mask
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
    }
    model = Bert(config)
    randomise_vectors(model)
    path = out / name / "model.onnx"
    outputs = ["last_hidden_state", "pooler_output"]
    common.export(model, tuple(inputs.values()), path, list(inputs), outputs)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return common.write_test(path.parent, arrays)


def report(name, outputs):
    """Prints the magnitude of each output."""
    for output, array in outputs.items():
        shape = "x".join(map(str, array.shape))
        print(f"{name}: {output} {shape}, deviation {array.std():.3f}", flush=True)


def builders():
    """What makes each model, by name."""
    resnets = {
        build.__name__: lambda out, build=build: export_resnet(build, build.__name__, out)
        for build in (torchvision.models.resnet18, torchvision.models.resnet50)
    }
    return resnets | {
        "bert-4l": lambda out: export_bert("bert-4l", SMALL_BERT, out),
        "bert-12l": lambda out: export_bert("bert-12l", BASE_BERT, out),
        "llama-8b-prefill": lambda out: zoo_transformers.export_llama(out, decode=False),
        "llama-8b-decode": lambda out: zoo_transformers.export_llama(out, decode=True),
        "relu-ffn": zoo_transformers.export_relu,
    }


def main():
    # These files are too large for the repository.
    known = builders()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(known), metavar="MODEL")
    args = parser.parse_args()
    torch.set_num_threads(2)
    for name in args.only or known:
        report(name, known[name](args.out))


if __name__ == "__main__":
    main()
