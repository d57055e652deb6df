"""A small convolutional generator: noise to images inside the input domain."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lfm_tasks.models.images import ImageSpace
from lfm_tasks.seeds import derive_seed


class Generator(nn.Module):
    """[batch, latent] to [batch, c, h, w], each channel between the domain's bounds. Batch norm goes by the batch alone: no state."""

    def __init__(self, latent: int, width: int, space: ImageSpace) -> None:
        super().__init__()
        self.latent, self.size = latent, (space.height, space.width)
        self.low, self.high = space.bounds()
        self.start = (2 * width, -(-space.height // 4), -(-space.width // 4))
        self.first = nn.Linear(latent, 2 * width * self.start[1] * self.start[2])
        self.blocks = nn.ModuleList([_block(2 * width, 2 * width), _block(2 * width, width)])
        self.norm = _norm(2 * width)
        self.last = nn.Sequential(nn.Conv2d(width, space.channels, 3, padding=1), _norm(space.channels))

    def forward(self, noise: Tensor) -> Tensor:
        x = self.norm(self.first(noise).unflatten(1, self.start))
        for block, size in zip(self.blocks, (tuple(-(-one // 2) for one in self.size), self.size), strict=True):
            x = block(nn.functional.interpolate(x, size=size, mode="nearest"))
        return self.low + (self.high - self.low) * torch.sigmoid(self.last(x))


def _block(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, padding=1), _norm(made), nn.LeakyReLU(0.2))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def new_generator(latent: int, width: int, space: ImageSpace, seed: int, *names: object) -> Generator:
    """Weights drawn for the purpose that ``names`` spell."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "generator", *names))
        return Generator(latent, width, space)


def reset_first(generator: Generator, seed: int, *names: object) -> None:
    """Draw the first layer anew."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "first layer", *names))
        generator.first.reset_parameters()
