"""Configs of the step *align* and of its methods. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice

Option = bool | int | float | str


class AlignConfig(MethodChoice):
    step = "align"

    method: str = Field(
        "weight_matching", description="Alignment method; `lfm methods` lists them.", json_schema_extra={"section": "Method"}
    )
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"regularization": 0.05}.', json_schema_extra={"section": "Method"}
    )
    fixed: list[str] = Field(
        [],
        max_length=64,
        description="Names of tensors whose axes stay in order, and all that goes in step with them; * is any text. "
        "*embed* leaves a transformer's residual stream alone.",
        json_schema_extra={"section": "Method"},
    )
    split: Literal["train", "validation"] = Field(
        "train", description="Split that activations are compared on.", json_schema_extra={"section": "Data"}
    )
    samples: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Most rows that activations are compared on.",
        json_schema_extra={"section": "Data", "unit": "rows"},
    )
    batch_size: int = Field(
        16,
        ge=1,
        le=4096,
        description="Rows of a forward pass.",
        json_schema_extra={"section": "Machine", "unit": "rows", "cache": False},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the order in which groups of units are matched.", json_schema_extra={"section": "Method"}
    )


class WeightMatchingConfig(Config):
    """Weight matching has no options."""


class ActivationMatchingConfig(Config):
    """Activation matching has no options."""


class TransportConfig(Config):
    ground: Literal["weights", "activations"] = Field("weights", description="What the cost between two units is taken from.")
    regularization: float = Field(
        0.05, ge=0, le=10, description="Entropy of the plans, as a share of the costs' range; 0 gives permutations."
    )


class ZipitConfig(Config):
    alpha: float = Field(0.3, gt=0, le=1, description="Factor of a merged feature's correlations: small values merge each feature once.")
    beta: float = Field(0.125, ge=0, le=1, description="Most features merged within one model, as a share of what it loses.")
