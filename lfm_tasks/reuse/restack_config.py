"""Config of the step *restack*. Light to import."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError

Number = Annotated[int, Field(ge=0, lt=10_000)]


class Slice(Config):
    """Some layers of one model, in their order."""

    model: int = Field(0, ge=0, lt=64, description="Place of the model among the input 'models', from 0.")
    layers: list[Number] = Field(min_length=2, max_length=2, description="First layer, and the one after the last; from 0.")
    scale: dict[str, float] = Field(
        {}, description="Factors of tensors by their names, * is any text; the factors of all patterns that fit are multiplied."
    )

    @field_validator("layers")
    @classmethod
    def _forwards(cls, layers: list[int]) -> list[int]:
        if layers[0] >= layers[1]:
            raise ConfigError(f"{layers} holds no layer. Give the first, and the one after the last.")
        return layers


class RestackConfig(Config):
    slices: list[Slice] = Field(
        min_length=1,
        max_length=256,
        description='Layers of the result, from the first on, e.g. [{"layers": [0, 24]}, {"layers": [8, 32], "scale": {"*o_proj*": 0}}].',
    )
    frame: int = Field(
        0, ge=0, lt=64, description="Place of the model that gives the tensors outside of layers, config, tokenizer and dtypes."
    )
