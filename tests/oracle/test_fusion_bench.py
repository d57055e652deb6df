"""Our merges beside FusionBench's on the same tensors and data: its conventions chosen, its random numbers ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.catalogue import METHODS
from lfm_tasks.models.forward import padded
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.group import Group
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input
from tests.groups import random_group, random_statistics, uniform_draws
from tests.oracle.fusion_bench_runs import Case, results
from tests.tuned import LABELS, Context, bert_input, write_dataset

SHAPES = {"column": (9, 1), "matrix": (40, 24), "row": (1, 9), "scalar": (), "vector": (33,), "volume": (3, 4, 5)}
ELEMENTS = 1119
KEEPS = {"density": (int(ELEMENTS * 0.2) + 1.5) / ELEMENTS}
"""FusionBench keeps int(N K) + 1 elements of the whole model."""


@dataclass(frozen=True)
class Pair:
    ours: str
    options: dict
    theirs: str
    their_options: dict
    models: int = 3
    base: bool = True
    tolerance: float = 1e-5


PAIRS = {
    "average": Pair("uniform_soup", {}, "average", {}, base=False),
    "task_arithmetic": Pair("task_arithmetic", {"scale": 0.3}, "task_arithmetic", {"scaling_factor": 0.3}),
    "ties-sum": Pair(
        "ties",
        {"trim": "global", "combine": "sum", "scale": 0.3} | KEEPS,
        "ties",
        {"threshold": 20, "scaling_factor": 0.3, "merge_func": "sum"},
    ),
    "ties-mean": Pair("ties", {"trim": "global"} | KEEPS, "ties", {"threshold": 20, "scaling_factor": 1.0, "merge_func": "mean"}),
    "ties-max": Pair(
        "ties", {"trim": "global", "combine": "max"} | KEEPS, "ties", {"threshold": 20, "scaling_factor": 1.0, "merge_func": "max"}
    ),
    "dare_linear": Pair("dare_linear", {"drop_rate": 0.75, "scale": 0.3}, "dare_linear", {"sparsity_ratio": 0.75, "scaling_factor": 0.3}),
    "dare_ties": Pair(
        "dare_ties",
        {"drop_rate": 0.5, "combine": "sum"},
        "dare_ties",
        {"sparsity_ratio": 0.5, "scaling_factor": 1.0, "threshold": 0.9999, "merge_func": "sum"},
    ),
    "slerp": Pair("slerp", {"t": 0.3}, "slerp", {"t": 0.3}, models=2, base=False),
    "stock-2": Pair("model_stock", {"average": "angle", "clamp": False}, "model_stock", {}, models=2),
    "stock-3": Pair("model_stock", {"average": "angle", "clamp": False}, "model_stock", {}),
    "fisher": Pair("fisher", {}, "fisher", {"coefficients": [1 / 3] * 3}, base=False, tolerance=2e-7),
    "fisher-weighted": Pair(
        "fisher",
        {"weights": [0.5, 0.3, 0.2], "equalize": False, "floor": 0.01},
        "fisher",
        {"coefficients": [0.5, 0.3, 0.2], "normalize_fisher_weight": False, "minimal_fisher_weight": 0.01},
        base=False,
        tolerance=2e-7,
    ),
    "regmean": Pair("regmean", {"ridge": 0}, "regmean", {"reduce_non_diagonal_ratio": 0.9}, base=False, tolerance=1e-6),
    "regmean-whole": Pair(
        "regmean", {"ridge": 0, "reduction": 1}, "regmean", {"reduce_non_diagonal_ratio": 1.0}, base=False, tolerance=1e-6
    ),
}
UNBOUNDED = ("stock-3", "scalar")
"""Angles of 0, 180 and 180 degrees: their mean makes the leader's 1 + 2 cos zero, and its ratio is that of its EPS."""
FROM_DATA = ["fisher_from_data", "regmean_from_data"]


def groups_of(pair: Pair) -> list[Group]:
    """A model's tensors; in alphabetical order, which is FusionBench's."""
    groups = [random_group(shape, pair.models, seed=place, name=name) for place, (name, shape) in enumerate(SHAPES.items())]
    if kind := METHODS[pair.ours].function.statistics:
        shapes = {"matrix"} if kind == "gram" else SHAPES.keys() - {"scalar"}  # the leader's norm of scalars is over all models
        groups = [replace(group, statistics=random_statistics(group, kind)) for group in groups if group.name in shapes]
    return groups


def case_of(pair: Pair) -> Case:
    groups = groups_of(pair)
    tensors = {f"base/{group.name}": group.base for group in groups} if pair.base else {}
    for model in range(pair.models):
        tensors |= {f"model{model}/{group.name}": group.models[model] for group in groups}
        if pair.ours.startswith("dare"):
            draws = {f"draws/{model}{group.name}": _draws(group, model) for group in groups}
            tensors |= draws
        if pair.ours == "fisher":
            tensors |= {f"information{model}/{group.name}": group.statistics[model] for group in groups}
        if pair.ours == "regmean":  # a layer is named by its module
            tensors |= {f"gram{model}/layer": groups[0].statistics[model]}
            tensors[f"model{model}/layer.weight"] = tensors.pop(f"model{model}/matrix")
    return Case(pair.theirs, tensors, pair.their_options)


def _draws(group: Group, model: int) -> torch.Tensor:
    """It keeps what is above the drop rate, we what is below the rest."""
    return 1 - uniform_draws(group, model)


def merged(pair: Pair) -> dict[str, torch.Tensor]:
    """What the method makes of the whole model, its surveys done over all tensors."""
    method, options, groups = METHODS[pair.ours].function, METHODS[pair.ours].config_class(**pair.options), groups_of(pair)
    for survey in method.surveys(options):
        total = sum(survey(group, options) for group in groups)
        groups = [replace(group, surveyed=(*group.surveyed, total)) for group in groups]
    names = {"matrix": "layer.weight"} if pair.ours == "regmean" else {}
    return {names.get(group.name, group.name): method.kernel(group, options) for group in groups}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> list[dict[str, Input]]:
    root = tmp_path_factory.mktemp("classifiers")
    found = []
    for seed in (1, 2):
        model = bert_input(root / f"bert{seed}", labels=LABELS, seed=seed)
        found.append({"model": model})
        for name, longest in (("fisher_from_data", 24), ("regmean_from_data", 4)):  # the leaders count padding as tokens
            found[-1][name] = write_dataset(root / f"{name}{seed}", model.path, "classification", rows=64, seed=seed, longest=longest)
    return found


def data_case(name: str, classifiers: list[dict[str, Input]]) -> Case:
    tensors = {}
    for place, one in enumerate(classifiers):
        rows = read_rows(one[name].path, "train").input_ids
        for batch, start in enumerate(range(0, len(rows), 32)):
            tensors |= {f"{place}/{batch}/{key}": tensor for key, tensor in padded(rows[start : start + 32], 0).items()}
    options = {"directories": [str(one["model"].path) for one in classifiers], "rows": 64, "batch_size": 32}
    return Case(name, tensors, options | ({"reduce_non_diagonal_ratio": 0.9} if name.startswith("regmean") else {}))


@pytest.fixture(scope="module")
def theirs(fusion_bench, classifiers, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    cases = {key: case_of(pair) for key, pair in PAIRS.items()} | {name: data_case(name, classifiers) for name in FROM_DATA}
    return results(fusion_bench, cases, tmp_path_factory.mktemp("fusion_bench"))


@pytest.mark.parametrize("key", PAIRS)
def test_a_model_is_what_fusion_bench_makes_of_it(theirs, key):
    ours = merged(PAIRS[key])
    assert ours.keys() == theirs[key].keys()
    for name, tensor in ours.items():
        if (key, name) != UNBOUNDED:
            torch.testing.assert_close(tensor, theirs[key][name], atol=PAIRS[key].tolerance, rtol=PAIRS[key].tolerance)


def test_where_the_leader_divides_by_nothing_ours_is_among_the_models(theirs):
    key, name = UNBOUNDED
    (group,) = (group for group in groups_of(PAIRS[key]) if group.name == name)
    values = torch.stack([group.base, *group.models])
    assert values.min() <= merged(PAIRS[key])[name] <= values.max()
    assert theirs[key][name].abs() > 10 * values.abs().max()


@pytest.mark.parametrize("name", FROM_DATA)
def test_statistics_and_merge_of_whole_classifiers_are_those_of_fusion_bench(theirs, classifiers, tmp_path, name):
    kind, method, options = {
        "fisher_from_data": ({"method": "fisher_information", "options": {"estimator": "sum_batch"}}, "fisher", {}),
        "regmean_from_data": ({"method": "gram"}, "regmean", {"ridge": 0}),
    }[name]
    inputs = {}
    for place, one in enumerate(classifiers):
        context = Context(tmp_path / f"statistics{place}")
        outcome = gather.run(StatisticsConfig(**kind), {"model": one["model"], "dataset": one[name]}, context)
        inputs[f"models.{place}"] = one["model"]
        inputs[f"statistics.{place}"] = Input("statistics", "statistics", "9" * 64, outcome.outputs["statistics"].path)
    outcome = step.run(MergeConfig(method=method, options=options), inputs, Context(tmp_path / "work"))
    ours = load_file(outcome.outputs["model"].path / "model.safetensors")
    assert ours.keys() == theirs[name].keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name][key], atol=1e-5, rtol=1e-5)
