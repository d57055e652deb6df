"""One typed config per step and method: the source of the form, the CLI, the validation and the cache key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from lfm_tasks.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from lfm_tasks.registry import Card

MAX_CONFIG_BYTES = 64 * 1024


class Config(BaseModel):
    """Base of every step's and method's config: frozen, refuses unknown keys, every field has a description.

    Metadata that the form and the CLI show go into ``Field(json_schema_extra={...})``: ``section`` groups fields in the
    form, ``unit`` names the unit, ``labels`` gives enum values readable names, ``advanced`` hides a field behind its
    section, ``cache`` set to False keeps a field out of the cache key (it changes no output byte).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def cache_fields(self) -> dict[str, Any]:
        """The values that outputs depend on, as plain JSON types."""
        skip = {name for name, field in type(self).model_fields.items() if (field.json_schema_extra or {}).get("cache") is False}
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in skip}


class MethodChoice(Config):
    """Base of a step's config that names one of the step's methods, whose own config is read from ``options``."""

    step: ClassVar[str]
    method: str
    options: dict[str, Any]

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        known = [card.name for card in cls.methods()]
        if name not in known:
            raise ConfigError(unknown_name("method", name, known))
        return name

    @model_validator(mode="after")
    def _known_options(self) -> MethodChoice:
        self.method_config()
        return self

    @classmethod
    def methods(cls) -> list[Card]:
        """The cards that it may name."""
        from lfm_tasks.catalogue import methods_of

        return methods_of(cls.step)

    def method_config(self) -> Config:
        """The method's own config, with its defaults. Raises :class:`ConfigError` that names the method's options."""
        from lfm_tasks.catalogue import METHODS

        return parse_config(METHODS[self.method].config_class, self.options, where=f"options of {self.method}")

    def cache_fields(self) -> dict[str, Any]:
        return {**super().cache_fields(), "options": self.method_config().cache_fields()}


ConfigType = TypeVar("ConfigType", bound=Config)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of ``value``: sorted keys, no spaces, UTF-8, no NaN. Hashes are taken over it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_config(config_class: type[ConfigType], values: Mapping[str, Any], where: str = "config") -> ConfigType:
    """Build a config or raise :class:`ConfigError` that lists every problem at once."""
    try:
        size = len(json.dumps(dict(values), default=str))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} is not plain JSON: {error}.") from None
    if size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{where} is {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are accepted. Put large content in the store and pass a reference."
        )
    try:
        return config_class.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(problem, config_class) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + " ".join(problems)) from None


def _explain(problem: Any, config_class: type[Config]) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if problem["type"] == "extra_forbidden":
        return unknown_name("option", path, config_class.model_fields)
    message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    field = config_class.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    meaning = f" ({field.description.rstrip('.')})" if field is not None and field.description else ""
    shown = "" if problem["type"] == "missing" else f" Got {_shorten(problem.get('input'))}."
    return f"{path}: {message}.{shown}{meaning}"


def _shorten(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
