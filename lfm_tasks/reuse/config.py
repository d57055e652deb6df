"""Config of the step *merge*. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import MethodChoice

Option = bool | int | float | str | list[float]


class MergeConfig(MethodChoice):
    step = "merge"

    method: str = Field("linear", description="Merge method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"density": 0.2}.', json_schema_extra={"section": "Method"}
    )
    split: Literal["auto", "train", "validation"] = Field(
        "auto",
        description="Rows of the input 'datasets' that a method with data looks at; auto: validation for the soups, which choose by "
        "them, else train. The test split is for evaluation alone.",
        json_schema_extra={"section": "Method"},
    )
    keep: list[str] = Field(
        [],
        max_length=64,
        description="Names of tensors that are not merged but taken from the base, or from the first model without one; * is any text, "
        "e.g. classifier.*",
        json_schema_extra={"section": "Result"},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the result; auto: as the base has it, or the first model without one. Sums are in float32 always.",
        json_schema_extra={"section": "Result"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is dropped at random.", json_schema_extra={"section": "Result"})
    checkpoint_every: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Keep a checkpoint every so many tensors; 0 only when stopped.",
        json_schema_extra={"section": "Machine", "unit": "tensors", "cache": False},
    )
