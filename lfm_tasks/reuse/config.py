"""Config of the step *merge*. Light to import."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice, parse_config
from lfm_tasks.errors import ConfigError

Option = bool | int | float | str | list[float]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a tensor's name fits one of the patterns; * is any text."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Filter(Config):
    """Options of the tensors whose names fit."""

    tensors: str = Field(min_length=1, max_length=256, description="Pattern of names; * is any text.")
    options: dict[str, Option | list[list[float]]] = Field(
        description="Options of the method; a list where it takes one value is spread over the depth."
    )


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
    filters: list[Filter] = Field(
        [],
        max_length=64,
        description="Options of tensors by their names; the first filter that fits counts, * is any text, e.g. "
        '[{"tensors": "*self_attn*", "options": {"t": [0, 0.5, 1]}}, {"tensors": "*mlp*", "options": {"t": 0.3}}]. A list where the option '
        "takes one value, or a list of lists for weights, is spread over the depth, from the first layer to the last.",
        json_schema_extra={"section": "Method"},
    )
    keep: list[str] = Field(
        [],
        max_length=64,
        description="Names of tensors that are not merged but taken from the base, or from the first model without one; * is any text, "
        "e.g. classifier.*",
        json_schema_extra={"section": "Result"},
    )
    vocabulary: Literal["same", "base", "union"] = Field(
        "same",
        description="same: models of other vocabularies are refused. base: the result has the base's vocabulary, or the first model's "
        "without a base. union: and the tokens that only others have. Rows of embeddings are matched by token.",
        json_schema_extra={"section": "Result"},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the result; auto: as the base has it, or the first model without one. Sums are in float32 always.",
        json_schema_extra={"section": "Result"},
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of what is dropped at random, and of the order of the data.",
        json_schema_extra={"section": "Result"},
    )
    checkpoint_every: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Keep a checkpoint every so many tensors, and steps of learning; 0 only when stopped.",
        json_schema_extra={"section": "Machine", "unit": "tensors", "cache": False},
    )

    def options_of(self, tensor: str, depth: float) -> Config:
        """The method's config for a tensor at ``depth``: 0 in the first layer and outside of layers, 1 in the last."""
        chosen = next((one for one in self.filters if matches(tensor, [one.tensors])), None)
        return self.method_config() if chosen is None else self._filtered(chosen, depth)

    @model_validator(mode="after")
    def _known_filters(self) -> MergeConfig:
        for one in self.filters:
            try:
                points = {len(value) for name, value in one.options.items() if self._is_spread(name, value)}
                for count in points or {1}:
                    for place in range(count):
                        self._filtered(one, place / max(1, count - 1))
            except ConfigError as error:
                raise ConfigError(f"filters: '{one.tensors}': {error}") from None
        return self

    def _filtered(self, chosen: Filter, depth: float) -> Config:
        values = {name: at_depth(value, depth) if self._is_spread(name, value) else value for name, value in chosen.options.items()}
        return parse_config(type(self.method_config()), {**self.options, **values}, where=f"options of {self.method}")

    def _is_spread(self, name: str, value: Any) -> bool:
        """True for a list of points over the depth. Raises :class:`ConfigError` where the option's values have no values between them."""
        fields = type(self.method_config()).model_fields
        if name not in fields or not isinstance(value, list):
            return False
        if (kind := fields[name].annotation) not in (float, list[float]):
            raise ConfigError(f"{name}={value}: only numbers that are no counts, and weights, are spread over the depth. Give one value.")
        if kind is float and value and not any(isinstance(point, list) for point in value):
            return True
        if kind is float or len({len(point) if isinstance(point, list) else None for point in value}) > 1:
            raise ConfigError(f"{name}={value}: the points over the depth must be {'numbers' if kind is float else 'lists of one length'}.")
        return any(isinstance(point, list) for point in value)


def at_depth(points: list[Any], depth: float) -> Any:
    """Between the two points that are next to ``depth``, in proportion; points may be lists of one length."""
    place = depth * (len(points) - 1)
    first, second = points[int(place)], points[min(int(place) + 1, len(points) - 1)]
    share = place - int(place)
    if isinstance(first, list):
        return [(1 - share) * one + share * other for one, other in zip(first, second, strict=True)]
    return (1 - share) * first + share * second
