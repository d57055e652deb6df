"""Config of the step *search_merge*. Light to import."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice, canonical_json, parse_config
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.reuse.config import MergeConfig, Option
from lfm_tasks.reuse.methods.config import SCORE_ROWS, ScoreName

if TYPE_CHECKING:
    from lfm_tasks.registry import Card

MAX_TRIALS = 1024


def _of_merge(name: str) -> Any:
    return MergeConfig.model_fields[name]


class SearchMergeConfig(MethodChoice):
    step = "merge"

    method: str = Field(
        "task_arithmetic",
        description="Merge method, one of those that need no data themselves.",
        json_schema_extra={"section": "Method"},
    )
    options: dict[str, Option] = Field({}, description="Options that stay as they are.", json_schema_extra={"section": "Method"})
    search: dict[str, list[Option] | dict[str, float]] = Field(
        {"scale": [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]},
        description='Options to vary: for a grid the values of each, {"scale": [0.2, 0.4], "density": [0.1, 0.2]}; for CMA-ES the bounds '
        'of each, {"scale": {"low": 0, "high": 1.5}}, which for a list (weights) are those of each of its numbers.',
        json_schema_extra={"section": "Search"},
    )
    strategy: Literal["grid", "cma"] = Field(
        "grid", description="Every combination of the values, or CMA-ES within the bounds.", json_schema_extra={"section": "Search"}
    )
    trials: int = Field(
        64,
        ge=1,
        le=MAX_TRIALS,
        description="Most candidates that are tried; a larger grid is refused, CMA-ES ends its last whole generation before.",
        json_schema_extra={"section": "Search"},
    )
    score: ScoreName = Field(
        "accuracy",
        description="What is best on the validation rows, by the class or the first token of the answer; of equals the other decides. "
        "The log-likelihood is smooth, which CMA-ES likes.",
        json_schema_extra={"section": "Search"},
    )
    over: Literal["mean", "worst"] = Field(
        "mean",
        description="The score of a candidate is the mean over the tasks, or that of its worst task.",
        json_schema_extra={"section": "Search"},
    )
    score_rows: int = SCORE_ROWS
    keep: list[str] = _of_merge("keep")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _of_merge("dtype")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of what is dropped at random, and of CMA-ES.", json_schema_extra={"section": "Result"}
    )

    @classmethod
    def methods(cls) -> list[Card]:
        return [card for card in super().methods() if not card.needs]

    @model_validator(mode="after")
    def _can_be_searched(self) -> SearchMergeConfig:
        known = type(self.method_config()).model_fields
        if not self.search:
            raise ConfigError(f"search names no option to vary. Those of {self.method}: {', '.join(known) or 'none'}.")
        for name, given in self.search.items():
            if name not in known:
                raise ConfigError(f"search: {unknown_name(f'option of {self.method}', name, known)}")
            if name in self.options:
                raise ConfigError(f"{name} is among the options that stay and among those to vary. Leave it in one of the two.")
            if self.strategy == "grid":
                self._check_values(name, given)
            else:
                self._check_bounds(name, given)
        if self.strategy == "grid":
            self._check_grid()
        return self

    def tried(self, values: dict[str, Option]) -> Config:
        """The method's config with ``values`` for what is varied."""
        from lfm_tasks.catalogue import METHODS

        return parse_config(METHODS[self.method].config_class, {**self.options, **values}, where=f"options of {self.method}")

    def grid(self) -> list[dict[str, Option]]:
        """Every combination of the values; the last option varies fastest."""
        return [dict(zip(self.search, values, strict=True)) for values in itertools.product(*self.search.values())]

    def varies_list(self, name: str) -> bool:
        """Whether the option is a list of numbers, one for each model."""
        return get_type_hints(type(self.method_config()))[name] == list[float]

    def _check_values(self, name: str, given: Any) -> None:
        if isinstance(given, dict) or not given:
            raise ConfigError(f"search: a grid needs values for {name}, e.g. [0.2, 0.4]. Got {given}. For bounds set strategy=cma.")
        if len({canonical_json(value) for value in given}) < len(given):
            raise ConfigError(f"search: {name} has one value twice in {given}. Give each once.")

    def _check_bounds(self, name: str, given: Any) -> None:
        if not isinstance(given, dict) or given.keys() != {"low", "high"} or not given["low"] < given["high"]:
            raise ConfigError(f'search: CMA-ES needs bounds for {name}, e.g. {{"low": 0, "high": 1.5}}. Got {given}.')
        several = self.varies_list(name)
        if not several and get_type_hints(type(self.method_config()))[name] is not float:
            raise ConfigError(f"search: {name} is no real number, so CMA-ES cannot vary it. Give its values, and strategy=grid.")
        for bound in given.values():
            self.tried({name: [bound] if several else bound})

    def _check_grid(self) -> None:
        size = 1
        for values in self.search.values():
            size *= len(values)
        if size > self.trials:
            raise ConfigError(
                f"The grid has {size:,} combinations, but trials={self.trials}. Give fewer values, or up to {MAX_TRIALS:,} trials."
            )
        for values in self.grid():
            self.tried(values)
