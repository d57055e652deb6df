"""Configs of the step *merge_adapters* and of its methods. Light to import."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.reuse.methods.config import DENSITY, DareLinearConfig, DareTiesConfig, ElectionOptions, TaskArithmeticConfig

Option = bool | int | float | str | list[float]


class MergeAdaptersConfig(MethodChoice):
    step = "merge_adapters"

    method: str = Field("lora_linear", description="Merge method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field({}, description='Options of the method, e.g. {"rank": 16}.', json_schema_extra={"section": "Method"})
    heads: Literal["first", "mean"] = Field(
        "first",
        description="Heads that the adapters were trained with (of classifiers): the first adapter's, or their mean.",
        json_schema_extra={"section": "Result"},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of what is dropped at random, and of chosen examples.", json_schema_extra={"section": "Result"}
    )


class RankOption(Config):
    rank: int = Field(
        0, ge=0, le=4096, description="Largest rank of a layer of the result; 0: the largest that one of the adapters has there."
    )


class SpaceOption(RankOption):
    space: Literal["product", "factors"] = Field(
        "product",
        description="What is merged: the change B·A of each layer, cut to the rank by a singular value decomposition; or A and B apart, "
        "cheap and rough.",
    )


class LoraLinearConfig(TaskArithmeticConfig, SpaceOption):
    """As :class:`TaskArithmeticConfig`, in a space."""


class LoraDareLinearConfig(DareLinearConfig, SpaceOption):
    """As :class:`DareLinearConfig`, in a space."""


class LoraDareTiesConfig(DareTiesConfig, SpaceOption):
    """As :class:`DareTiesConfig`, in a space."""


class LoraTrimConfig(LoraLinearConfig):
    density: float = DENSITY


class KnotsConfig(ElectionOptions, RankOption):
    trim: ClassVar[str] = "tensor"
    density: float = DENSITY


class LoraTiesConfig(KnotsConfig, SpaceOption):
    """As :class:`KnotsConfig`, in a space."""


class LorahubConfig(SpaceOption):
    examples: int = Field(16, ge=1, le=1024, description="Labelled rows of the data set's split train that the weights are chosen on.")
    evaluations: int = Field(60, ge=5, le=10_000, description="How often the loss is measured, at most.")
    penalty: float = Field(0.05, ge=0, le=10, description="Factor of the sum of the weights' magnitudes, added to the loss.")
    bound: float = Field(1.5, gt=0, le=100, description="Largest magnitude of a weight.")

    def at(self, weights: list[float]) -> LoraLinearConfig:
        """The merge with these weights."""
        return LoraLinearConfig(weights=weights, space=self.space, rank=self.rank)
