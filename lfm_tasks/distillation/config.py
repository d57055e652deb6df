"""Configs of the steps *distill*, *record_signals* and *cut_student*. Light to import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError
from lfm_tasks.training.config import TrainingConfig, section

Temperature = Annotated[float, Field(gt=0, le=1000)]
Number = Annotated[int, Field(ge=0, lt=10_000)]
Objective = Literal["auto", "completion", "tokens", "labels"]


class DistillConfig(TrainingConfig):
    step = "distill"

    method: str = Field(
        "forward_kl",
        description="How student and teacher are compared; an API's answers: by alm or hybrid.",
        json_schema_extra=section("Method"),
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of the teacher; the rest is cross-entropy with the labels. 0 asks no teacher: the baseline.",
        json_schema_extra=section("Method"),
    )
    temperature: Temperature = Field(
        2.0, description="Both sides' logits are divided by it, the loss is multiplied by its square.", json_schema_extra=section("Method")
    )
    combine: Literal["mean", "confidence", "instance"] = Field(
        "mean",
        description="Weights of several teachers: equal; by exp(-entropy) at each place; or by how likely each finds the label there.",
        json_schema_extra=section("Method", labels={"mean": "Equal", "confidence": "By confidence", "instance": "By instance"}),
    )
    learning_rate: float = Field(1e-4, gt=0, le=10, description="Peak learning rate.", json_schema_extra=section("Optimiser"))
    on_policy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the rows whose completion the student writes itself, for the teacher to judge (GKD); no label is there.",
        json_schema_extra=section("Own texts"),
    )
    on_policy_schedule: Literal["constant", "adaptive"] = Field(
        "constant",
        description="adaptive: the share rises by 0.1 whenever the validation loss rises by more than 0.1 nats (DistiLLM).",
        json_schema_extra=section("Own texts", labels={"constant": "Constant", "adaptive": "As validation asks for it"}),
    )
    replay_size: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Own texts that are kept and used again, the more often the further the run is (DistiLLM: 1000). 0: all are new.",
        json_schema_extra=section("Own texts", unit="texts"),
    )
    max_new_tokens: int = Field(
        128, ge=1, le=4096, description="Length of an own text.", json_schema_extra=section("Own texts", unit="tokens")
    )
    prompt_tokens: int = Field(
        32,
        ge=1,
        le=4096,
        description="Of rows without a prompt, the beginning that the student goes on from; half of the row at the most.",
        json_schema_extra=section("Own texts", unit="tokens", advanced=True),
    )
    draw_temperature: float = Field(
        1.0, gt=0, le=10, description="Temperature of the drawing.", json_schema_extra=section("Own texts", advanced=True)
    )
    draw_top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Tokens are drawn from the likeliest that have this probability together.",
        json_schema_extra=section("Own texts", advanced=True),
    )
    teacher_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the teacher's distribution in what the tokens are drawn from (MiniLLM: 0.2).",
        json_schema_extra=section("Own texts", advanced=True),
    )


class RecordSignalsConfig(Config):
    objective: Objective = Field(
        "auto", description="Which targets are asked about; as in the step 'distill'.", json_schema_extra=section("What is kept")
    )
    temperatures: list[Temperature] = Field(
        [1.0, 2.0],
        min_length=1,
        max_length=16,
        description="Temperatures at which the signals are exact: four bytes a target for each.",
        json_schema_extra=section("What is kept"),
    )
    top: int = Field(
        64,
        ge=0,
        le=1_000_000,
        description="Likeliest tokens whose log-probabilities are kept; of a classifier all classes are.",
        json_schema_extra=section("What is kept", unit="tokens"),
    )
    samples: int = Field(
        0,
        ge=0,
        le=4096,
        description="Tokens drawn from what is not among the likeliest: for forward KL without bias. 0: one bucket for all of it.",
        json_schema_extra=section("What is kept", unit="tokens"),
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Of the log-probabilities; the normalisers are float32.", json_schema_extra=section("What is kept")
    )
    batch_size: int = Field(
        16, ge=1, le=4096, description="Most rows of a forward pass.", json_schema_extra=section("Machine", unit="rows")
    )
    rows_per_part: int = Field(256, ge=1, le=1_000_000, description="Rows of a file.", json_schema_extra=section("Machine", unit="rows"))
    checkpoint_every: int = Field(
        8,
        ge=0,
        le=1_000_000,
        description="Least parts between two checkpoints; 0 only when stopped.",
        json_schema_extra=section("Machine", unit="parts", cache=False),
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is drawn.", json_schema_extra=section("Machine"))

    @field_validator("samples")
    @classmethod
    def _keeps_something(cls, samples: int, info) -> int:
        if not samples and not info.data.get("top", 1):
            raise ConfigError("top=0 and samples=0 keep nothing of what the teacher says. Set one of them.")
        return samples


Width = Literal["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]


class CutStudentConfig(Config):
    depth: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Layers of the student, chosen evenly from first to last; 0: those named, all where a width is given, else half.",
        json_schema_extra=section("Depth", unit="layers"),
    )
    layers: list[Number] = Field(
        [],
        max_length=10_000,
        description="Layers of the teacher that the student is made of, in their order, e.g. [0, 2, 5].",
        json_schema_extra=section("Depth", advanced=True),
    )
    width: dict[Width, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        {},
        description='Sizes of the student by their names in the config, e.g. {"hidden_size": 384, "num_attention_heads": 6}; units are '
        "chosen evenly. Keep hidden_size / num_attention_heads as it is, so that whole heads are taken.",
        json_schema_extra=section("Width", advanced=True),
    )

    @model_validator(mode="after")
    def _cuts_one_way(self) -> CutStudentConfig:
        if self.depth and self.layers:
            raise ConfigError(f"depth={self.depth} and layers={self.layers} exclude one another. Give one of them.")
        return self
