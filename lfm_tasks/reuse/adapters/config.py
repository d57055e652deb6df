"""Configs of the step *merge_adapters* and of its methods. Light to import."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.reuse.methods.config import COMBINE, DENSITY, ELECT, Combine, Elect, TaskArithmeticConfig

Space = Literal["product", "factors"]
Option = bool | int | float | str | list[float]


class MergeAdaptersConfig(MethodChoice):
    step = "merge_adapters"

    method: str = Field("lora_linear", description="Merge method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"density": 0.2}.', json_schema_extra={"section": "Method"}
    )
    space: Space = Field(
        "product",
        description="What is merged: the change B·A of each layer, factored again by a singular value decomposition, "
        "or A and B apart (cheap and rough).",
        json_schema_extra={"section": "Method"},
    )
    rank: int = Field(
        0,
        ge=0,
        le=4096,
        description="Rank of the result where it comes from a decomposition; 0: the largest of the adapters.",
        json_schema_extra={"section": "Result"},
    )
    heads: Literal["first", "mean"] = Field(
        "first",
        description="Heads that the adapters were trained with (of classifiers): the first adapter's, or their mean.",
        json_schema_extra={"section": "Result"},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of what is dropped at random, and of chosen examples.", json_schema_extra={"section": "Result"}
    )


class LoraTiesConfig(TaskArithmeticConfig):
    trim: ClassVar[str] = "tensor"
    density: float = DENSITY
    elect: Elect = ELECT
    combine: Combine = COMBINE


class MagnitudePruneConfig(TaskArithmeticConfig):
    density: float = DENSITY


class LorahubConfig(Config):
    examples: int = Field(16, ge=1, le=1024, description="Labelled rows of the data set's split train that the weights are chosen on.")
    evaluations: int = Field(60, ge=5, le=10_000, description="How often the loss is measured, at most.")
    penalty: float = Field(0.05, ge=0, le=10, description="Factor of the sum of the weights' magnitudes, added to the loss.")
    bound: float = Field(1.5, gt=0, le=100, description="Largest magnitude of a weight.")
