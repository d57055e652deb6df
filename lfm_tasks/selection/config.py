"""Configs of a sweep: what to try, and how the best is chosen. Light to import."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from pydantic import Field, model_validator

from lfm_tasks.config import Config, canonical_json
from lfm_tasks.errors import ConfigError
from lfm_tasks.names import METRIC_PATTERN

MAX_CANDIDATES = 64
Value = str | int | float | bool | list[str] | None
Settings = dict[str, Value]


class SweepConfig(Config):
    """The candidates of a sweep; each sets some fields and options of the step *tune*, and has the form's values for the others."""

    grid: dict[str, list[Value]] = Field(
        {},
        description='Field or method option to the values to try, e.g. {"rank": [4, 16], "learning_rate": [1e-4, 3e-4]}; '
        f"every combination is a candidate, {MAX_CANDIDATES} at most.",
        json_schema_extra={"section": "What to try"},
    )
    configs: list[Settings] = Field(
        [],
        max_length=MAX_CANDIDATES,
        description='Or the candidates one by one, e.g. [{"method": "lora", "rank": 8}, {"method": "bitfit"}].',
        json_schema_extra={"section": "What to try"},
    )

    @model_validator(mode="after")
    def _is_a_sweep(self) -> SweepConfig:
        if bool(self.grid) == bool(self.configs):
            raise ConfigError("Give either a grid or a list of configs: one of the two, and leave the other empty.")
        if empty := [name for name, values in self.grid.items() if not values]:
            raise ConfigError(f"The grid has no value for {', '.join(empty)}. Give at least one, or leave the field out.")
        if (size := self.size()) > MAX_CANDIDATES:
            raise ConfigError(f"The grid has {size:,} combinations; at most {MAX_CANDIDATES} are tried. Give fewer values.")
        counts = Counter(canonical_json(candidate) for candidate in self.candidates())
        if twice := [text.decode() for text, count in counts.items() if count > 1]:
            raise ConfigError(f"A sweep tries each candidate once; {', '.join(twice)} is there more often.")
        return self

    def size(self) -> int:
        size = len(self.configs)
        if self.grid:
            size = 1
            for values in self.grid.values():
                size *= len(values)
        return size

    def candidates(self) -> list[Settings]:
        """What each candidate sets; of a grid, the last field varies fastest."""
        if self.configs:
            return [dict(candidate) for candidate in self.configs]
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


class Candidate(Config):
    settings: dict[str, Any] = Field({}, description="What it sets.")
    tflop: float | None = Field(None, ge=0, description="Training compute in 10^12 operations; none where it is not known.")
    failed: bool = Field(False, description="It has no report: its training or its evaluation failed.")


class SelectConfig(Config):
    metric: str = Field(
        "auto",
        pattern=rf"^auto$|{METRIC_PATTERN}",
        description="Metric that the best is chosen by, on the validation split. auto: accuracy of choice or classification, else "
        "exact match of generation, else perplexity.",
        json_schema_extra={"section": "Choice"},
    )
    candidates: list[Candidate] = Field(
        [],
        max_length=MAX_CANDIDATES,
        description="What each candidate sets and what it cost: one entry per report, in the same order, and one for each that failed.",
        json_schema_extra={"section": "Choice", "advanced": True},
    )


def training_tflop(metrics: dict[str, float]) -> float | None:
    """Operations of a training, in 10^12, from what *tune* counted: tokens x (4 x all parameters + 2 x trained ones).

    Two operations per parameter and token go forward and two back through every layer, and two more make the gradient of a
    trained weight. Unlike seconds, the figure is the same on every machine and at every try, so that it can be cached.
    """
    names = ("total_parameters", "trainable_parameters", "tokens_seen")
    if any(name not in metrics for name in names):
        return None
    total, trained, tokens = (metrics[name] for name in names)
    return tokens * (4 * total + 2 * trained) / 1e12
