"""Config of the steps *mix* and *unload*, and options of the methods. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice

Option = bool | int | float | str | list[float]
MAX_EXPERTS = 64


class MixConfig(MethodChoice):
    step = "mix"

    method: str = Field("smile", description="Kind of mixture; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field({}, description='Options of the method, e.g. {"rank": 64}.', json_schema_extra={"section": "Method"})
    modules: list[str] = Field(
        [],
        max_length=64,
        description="Names of the modules that are mixed; * is any text, e.g. *.mlp. None leaves the choice to the method.",
        json_schema_extra={"section": "Method"},
    )
    split: Literal["train", "validation"] = Field(
        "train",
        description="Rows of the input 'datasets' that a method with data learns from; the test split is for evaluation alone.",
        json_schema_extra={"section": "Method"},
    )
    keep: list[str] = Field(
        [],
        max_length=64,
        description="Names of tensors in which the models may differ in shape, and that are taken from the base; * is any text.",
        json_schema_extra={"section": "Result"},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of new weights and of the order of rows.", json_schema_extra={"section": "Result"}
    )


class SmileConfig(Config):
    rank: int = Field(64, ge=0, le=65_536, description="Rank of each expert's part of a layer; 0 keeps the whole difference.")
    gate_rank: int = Field(16, ge=1, le=65_536, description="Directions of each expert's difference that decide how it answers a token.")
    top_k: int = Field(1, ge=1, le=MAX_EXPERTS, description="Experts that answer each token.")
    others: Literal["base", "average"] = Field(
        "base", description="Whose tensors outside of the mixed layers are taken: the base's, or the average of the models'."
    )


class TrainedConfig(Config):
    initial: float = Field(0.3, ge=-10, le=10, description="Weight of every expert before training, and scale of what is not mixed.")
    steps: int = Field(1000, ge=0, le=1_000_000, description="Training steps; each takes a batch of every task.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Step size of Adam on the routers.")
    batch_size: int = Field(16, ge=1, le=4096, description="Rows of each task in a step.")


class WemoeConfig(TrainedConfig):
    router_depth: int = Field(1, ge=0, le=2, description="Linear layers of a router; with 0 it does not look at its input.")


class EWemoeConfig(WemoeConfig):
    density: float = Field(0.1, gt=0, le=1, description="Share of each task vector that is kept, the largest by magnitude.")


class ParetoConfig(TrainedConfig):
    router_depth: int = Field(1, ge=1, le=2, description="Linear layers of a router; with 0 it does not look at its input.")
    scalarisation: Literal["linear", "epo"] = Field(
        "linear", description="How the tasks' losses become one: their sum weighted by the preference, or exact Pareto optimality (EPO)."
    )
    preference: list[float] = Field(
        [], max_length=MAX_EXPERTS, description="Share of each task, in the models' order, as which the mixture is opened; none: equal."
    )


class UpcycleConfig(Config):
    gate: Literal["hidden", "random", "uniform"] = Field(
        "uniform",
        description="How tokens find their experts: by the mean hidden state of each task's prompts (needs data), at random, or all alike.",
    )
    experts_per_token: int = Field(2, ge=1, le=MAX_EXPERTS, description="Experts that answer each token.")
    rows: int = Field(64, ge=1, le=100_000, description="Rows of each task behind its mean hidden state.")


class UnloadConfig(Config):
    preference: list[float] = Field(
        [], max_length=MAX_EXPERTS, description="Share of each task, for pareto_moe; none takes the preference that it was mixed with."
    )
