"""Options of the methods that write facts into weights by gradients. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config


class TunedConfig(Config):
    layer: int = Field(
        -1, ge=-1, lt=10_000, description="Layer of the decoder that is edited, from 0; -1 takes the depth at which the method does best."
    )
    steps: int = Field(40, ge=1, le=10_000, description="Steps of the optimiser at the most.")
    learning_rate: float = Field(2e-3, gt=0, le=10, description="Step size of Adam.")
    enough: float = Field(1e-2, ge=0, le=10, description="Loss (nats a token, mean over the facts) below which the optimiser stops.")


class FtmConfig(TunedConfig):
    """Loss: the target's tokens, each given the prompt and those before."""


class FtlConfig(TunedConfig):
    ball: float = Field(0.1, gt=0, le=100, description="Farthest that an entry of the matrix may go, in root mean squares of its entries.")
    scoring: Literal["each", "prompt_last"] = Field(
        "each",
        description="Where a target's tokens are scored: each at its own place, or all at the prompt's last, as the authors' code does.",
    )


class LoraEditConfig(TunedConfig):
    learning_rate: float = Field(5e-3, gt=0, le=10, description="Step size of Adam.")
    rank: int = Field(8, ge=1, le=4096, description="Rank of the change of each layer's matrix.")
    span: int = Field(1, ge=1, le=1000, description="Layers that are edited, from 'layer' on.")


class UltraEditConfig(Config):
    layer: int = Field(
        -1, ge=-1, lt=10_000, description="Layer of the decoder that is edited, from 0; -1 takes the depth at which the method does best."
    )
    span: int = Field(1, ge=1, le=1000, description="Layers that are edited, from 'layer' on.")
    shift: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Size of the change of a value, in root mean squares of the layer's outputs (the paper's eta, scaled).",
    )
    ridge: float = Field(1.0, gt=0, le=1e9, description="What is added to the diagonal of the keys' product.")
    tokens: Literal["answer", "all"] = Field("answer", description="Tokens whose keys are written: those before the target's, or all.")
