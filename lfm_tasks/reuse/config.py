"""Config of the step *merge*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lfm_tasks.config import Config, parse_config
from lfm_tasks.errors import ConfigError, unknown_name

Option = bool | int | float | str | list[float]


class MergeConfig(Config):
    method: str = Field("linear", description="Merge method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"density": 0.2}.', json_schema_extra={"section": "Method"}
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

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        from lfm_tasks.catalogue import methods_of

        known = [card.name for card in methods_of("merge")]
        if name not in known:
            raise ConfigError(unknown_name("method", name, known))
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> MergeConfig:
        self.method_config()
        return self

    def method_config(self) -> Config:
        """The method's own config, with its defaults. Raises :class:`ConfigError` that names the method's options."""
        from lfm_tasks.catalogue import METHODS

        return parse_config(METHODS[self.method].config_class, self.options, where=f"options of {self.method}")

    def cache_fields(self) -> dict[str, Any]:
        return {**super().cache_fields(), "options": self.method_config().cache_fields()}
