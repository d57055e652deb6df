"""What every step that trains a model is told: objective, optimiser, length, batches, machine. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lfm_tasks.config import MethodChoice
from lfm_tasks.errors import ConfigError

Option = str | int | float | bool | list[str]


def section(name: str, **extra: Any) -> dict[str, Any]:
    return {"section": name, **extra}


class TrainingConfig(MethodChoice):
    """Base of the config of a step that trains by a method of its own."""

    method: str = Field(description="Method; `lfm methods` lists them.", json_schema_extra=section("Method"))
    options: dict[str, Option] = Field({}, description='Options of the method, e.g. {"rank": 8}.', json_schema_extra=section("Method"))
    objective: Literal["auto", "completion", "tokens", "labels"] = Field(
        "auto",
        description="What the loss is taken over; auto follows the data set.",
        json_schema_extra=section(
            "Method",
            labels={
                "auto": "By the data set",
                "completion": "Tokens of the completion",
                "tokens": "Every token",
                "labels": "Class of the text",
            },
        ),
    )
    learning_rate: float = Field(3e-4, gt=0, le=10, description="Peak learning rate.", json_schema_extra=section("Optimiser"))
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="How the learning rate falls after the warm-up.", json_schema_extra=section("Optimiser")
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Steps of linear warm-up; 0 leaves it to the ratio.",
        json_schema_extra=section("Optimiser", unit="steps"),
    )
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="Share of all steps that warms up.", json_schema_extra=section("Optimiser"))
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay of matrices.", json_schema_extra=section("Optimiser", advanced=True)
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="Decay of Adam's first moment.", json_schema_extra=section("Optimiser", advanced=True)
    )
    adam_beta2: float = Field(
        0.999, ge=0, lt=1, description="Decay of Adam's second moment.", json_schema_extra=section("Optimiser", advanced=True)
    )
    adam_epsilon: float = Field(1e-8, gt=0, le=1, description="Adam's epsilon.", json_schema_extra=section("Optimiser", advanced=True))
    max_grad_norm: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="Gradients are scaled down to this norm; 0 leaves them alone.",
        json_schema_extra=section("Optimiser"),
    )

    epochs: int = Field(1, ge=1, le=10_000, description="Passes over the training split.", json_schema_extra=section("Length"))
    max_steps: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Stop after so many optimiser steps; 0 goes by epochs.",
        json_schema_extra=section("Length", unit="steps"),
    )
    evaluate_every: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Validation loss every so many steps; 0 once an epoch.",
        json_schema_extra=section("Length", unit="steps"),
    )
    evaluate_examples: int = Field(
        256,
        ge=0,
        le=1_000_000,
        description="Validation examples used, by content hash; 0 uses all.",
        json_schema_extra=section("Length", unit="examples"),
    )
    early_stopping_patience: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Evaluations without a better validation loss before stopping; the best weights are kept. 0 is off.",
        json_schema_extra=section("Length", unit="evaluations"),
    )

    batch_size: int = Field(
        8, ge=1, le=65_536, description="Examples per optimiser step.", json_schema_extra=section("Batches", unit="examples")
    )
    micro_batch_size: int = Field(
        8,
        ge=1,
        le=65_536,
        description="Most examples of a padded forward pass.",
        json_schema_extra=section("Batches", unit="examples"),
    )
    packing: bool = Field(
        True,
        description="Put several examples in one row, with no attention across them. Classification never packs.",
        json_schema_extra=section("Batches"),
    )
    pack_length: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="Most tokens of a forward pass, packed or padded; a longer example is alone. 0: 1,024 on a CPU, 16,384 on a GPU.",
        json_schema_extra=section("Batches", unit="tokens"),
    )

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="bfloat16 autocast; auto uses it where the device computes in it.", json_schema_extra=section("Machine")
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass to save memory.",
        json_schema_extra=section("Machine", advanced=True),
    )
    checkpoint_every: int = Field(
        50,
        ge=0,
        le=1_000_000,
        description="Keep a checkpoint every so many steps; 0 only when stopped.",
        json_schema_extra=section("Machine", unit="steps", cache=False),
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of order, initialisation and dropout.", json_schema_extra=section("Machine"))

    @model_validator(mode="after")
    def _warms_up_one_way(self) -> TrainingConfig:
        if self.warmup_steps and self.warmup_ratio:
            raise ConfigError(
                f"warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio} exclude one another. Set one of them to 0."
            )
        return self
