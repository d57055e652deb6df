"""Toy networks whose units can change places, and copies of them with changed places."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from lfm_tasks.reuse.alignment.example import example_inputs, tensors_of
from lfm_tasks.reuse.alignment.specification import Permutations, Specification, specify

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TRANSFORMERS = {
    "bert": (BertForSequenceClassification, lambda: BertConfig(vocab_size=40, initializer_range=0.2, **SMALL)),
    "llama": (LlamaForCausalLM, lambda: LlamaConfig(vocab_size=40, num_key_value_heads=2, initializer_range=0.2, **SMALL, **IDS)),
    "gpt2": (GPT2LMHeadModel, lambda: GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, initializer_range=0.2, **IDS)),
    "vit": (ViTForImageClassification, lambda: ViTConfig(image_size=16, patch_size=8, initializer_range=0.2, **SMALL)),
    "resnet": (
        ResNetForImageClassification,
        lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic"),
    ),
}


class Residual(nn.Module):
    """A convolutional network with a skip connection, batch normalisation and flattened positions."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.inner, self.outer = nn.Conv2d(width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, width, 3, padding=1)
        self.act, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Linear(width * 9, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = x + self.outer(self.act(self.inner(x)))
        return self.head(self.pool(x).flatten(1))


def mlp(widths: tuple[int, ...], seed: int = 0) -> nn.Sequential:
    def make() -> nn.Sequential:
        layers = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(a, b), nn.GELU())]
        return nn.Sequential(*layers[:-1])

    return seeded(make, seed)


def seeded(make, seed: int) -> nn.Module:
    """In evaluation mode, with statistics of normalisation that are no longer 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.3, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.1, 1)
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.data += 0.1 * torch.randn(tensor.shape)
    return model


def network(name: str, seed: int = 0):
    """``(model, inputs)`` by name: a transformer of TRANSFORMERS, ``mlp`` or ``cnn``."""
    if name in TRANSFORMERS:
        architecture, config = TRANSFORMERS[name]
        model = seeded(lambda: architecture(config()), seed)
        model.set_attn_implementation("eager")
        return model, example_inputs(model)
    shape, make = {"mlp": ((9, 5), lambda: mlp((5, 16, 12, 3), seed)), "cnn": ((9, 2, 6, 6), Residual)}[name]
    return seeded(make, seed), torch.randn(shape, generator=torch.Generator().manual_seed(1))


def call(model: nn.Module, inputs):
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def outputs(model: nn.Module, inputs) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([tensor.flatten() for tensor in tensors_of(call(model, inputs))])


def specified(model: nn.Module, inputs, fixed: tuple[str, ...] = ()) -> Specification:
    return specify(model, lambda one: call(one, inputs), fixed)


def shuffled(specification: Specification, seed: int = 5) -> Permutations:
    generator = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(size, generator=generator) for group, size in specification.groups.items()}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def permute(specification: Specification, tensors, permutations: Permutations):
    return {
        name: specification.apply(name, tensor, permutations) if name in specification.axes else tensor for name, tensor in tensors.items()
    }


def with_state(name: str, tensors) -> nn.Module:
    model, _ = network(name)
    model.load_state_dict(tensors)
    return model
