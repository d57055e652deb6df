"""What to try next: generations of candidates, each proposed once the scores of those before it are known."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import cma
import numpy as np

from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.seeds import derive_seed

SIGMA = 0.3
"""First standard deviation of CMA-ES, as a share of the way from low to high; it begins in the middle."""

Generations = Generator[list[dict[str, Any]], list[float], None]
"""Yields candidates and is sent their scores, of which more is better."""


def generations(config: SearchMergeConfig, models: int) -> Generations:
    return within_bounds(config, models) if config.strategy == "cma" else all_at_once(config)


def all_at_once(config: SearchMergeConfig) -> Generations:
    yield config.grid()


def within_bounds(config: SearchMergeConfig, models: int) -> Generations:
    """CMA-ES (Hansen and Ostermeier 2001); a list option is a number for each model. Equal seeds and scores give equal candidates."""
    sizes = {name: models if config.varies_list(name) else 0 for name in config.search}
    numbers = sum(size or 1 for size in sizes.values())
    random = np.random.default_rng(derive_seed(config.seed, "cma"))
    widest = 1e3 if numbers == 1 else 1 / 3  # cma 4.5 fails where the deviation of a single number meets its limit
    settings = {
        "bounds": [0, 1],
        "maxstd_boundrange": widest,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,
        "verbose": -10,
        "verb_log": 0,
    }
    search, left = cma.CMAEvolutionStrategy([0.5] * numbers, SIGMA, settings), config.trials
    if left < search.popsize:
        raise ConfigError(f"trials={left} is less than a generation of CMA-ES over {numbers} numbers. Give at least {search.popsize}.")
    while left >= search.popsize and not search.stop():
        points, left = search.ask(), left - search.popsize
        scores = yield [_options(config, sizes, point) for point in points]
        search.tell(points, [-score for score in scores])


def _options(config: SearchMergeConfig, sizes: dict[str, int], point: np.ndarray) -> dict[str, Any]:
    """``point``, in [0, 1], as the options' values, of six digits after the point."""
    options, place = {}, 0
    for name, bounds in config.search.items():
        taken = point[place : place + (sizes[name] or 1)]
        values = [round(float(bounds["low"] + share * (bounds["high"] - bounds["low"])), 6) for share in taken]
        options[name], place = (values if sizes[name] else values[0]), place + len(taken)
    return options
