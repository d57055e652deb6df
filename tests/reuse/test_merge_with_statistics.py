"""Fisher merging and RegMean: laws of the kernels, and the step with statistics of each model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.errors import ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.models.statistics import DESCRIPTION, TENSORS
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input
from tests.experts import TASKS, make_experts
from tests.groups import merge, random_group
from tests.prepared import write_labelled
from tests.tuned import Context

QUERY, KEY = (f"encoder.layer.0.attention.self.{name}.weight" for name in ("query", "key"))
EXACT = {"reduction": 1, "ridge": 0}


def inputs_of_layers(group, rows: int = 40) -> list[torch.Tensor]:
    """Of each model's own scale and directions, float64."""
    generator = torch.Generator().manual_seed(1)
    size = group.models[0].shape[1]
    mix = [torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in group.models]
    return [torch.randn(rows, size, generator=generator, dtype=torch.float64) @ one for one in mix]


def grams(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(x.T @ x / len(x) for x in inputs)


@pytest.fixture
def group():
    return random_group((12, 8), 3, torch.float64)


def mean(group):
    return sum(group.models) / len(group.models)


@pytest.mark.parametrize("equalize", [True, False])
def test_equal_information_gives_the_mean(group, equalize):
    same = replace(group, statistics=(torch.full((12, 8), 0.3),) * 3)
    torch.testing.assert_close(merge("fisher", same, equalize=equalize), mean(group))
    weighted = merge("fisher", same, equalize=equalize, weights=[2, 1, 1])
    torch.testing.assert_close(weighted, (mean(group) * 3 + group.models[0]) / 4)


def test_information_decides_element_by_element(group):
    all_of_it, none = torch.full((12, 8), 1e9), torch.zeros(12, 8)
    half = torch.arange(8) < 4
    sure = replace(group, statistics=(torch.where(half, all_of_it, none), torch.where(half, none, all_of_it), none))
    merged = merge("fisher", sure, equalize=False)
    torch.testing.assert_close(merged, torch.where(half, group.models[0], group.models[1]))


def test_equalized_models_count_the_same_whatever_the_size_of_their_information(group):
    random = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square()
    louder = merge("fisher", replace(group, statistics=(random[0] * 1000, random[1], random[2])), floor=1e-12)
    torch.testing.assert_close(louder, merge("fisher", replace(group, statistics=tuple(random)), floor=1e-12))


def test_what_has_no_statistics_is_averaged(group):
    for name in ("fisher", "regmean"):
        bare = random_group((0,), 3) if name == "fisher" else random_group((7,), 3)
        torch.testing.assert_close(merge(name, bare), mean(bare))


def test_regmean_is_least_squares_on_the_outputs_of_all_models(group):
    inputs = inputs_of_layers(group)
    found = merge("regmean", replace(group, statistics=grams(inputs)), **EXACT)
    outputs = torch.cat([x @ model.T for x, model in zip(inputs, group.models, strict=True)])
    torch.testing.assert_close(found, torch.linalg.lstsq(torch.cat(inputs), outputs).solution.T)


def test_regmean_with_a_smaller_reduction_is_the_least_of_its_own_objective(group):
    matrices = grams(inputs_of_layers(group))

    def objective(weights):
        reduced = [0.9 * gram + 0.1 * gram.diagonal().diag() for gram in matrices]
        gaps = [weights - model for model in group.models]
        return sum(((gap @ gram) * gap).sum() for gap, gram in zip(gaps, reduced, strict=True))

    found = merge("regmean", replace(group, statistics=matrices), ridge=0).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(found), found)
    assert gradient.abs().max() < 1e-9 * objective(mean(group))
    assert objective(found) < 0.9 * objective(mean(group))


def test_regmean_of_identities_is_the_mean_and_of_equal_models_is_the_model(group):
    identities = replace(group, statistics=(torch.eye(8),) * 3)
    torch.testing.assert_close(merge("regmean", identities), mean(group))
    equal = replace(group, models=(group.base,) * 3, statistics=grams(inputs_of_layers(group)))
    torch.testing.assert_close(merge("regmean", equal), group.base, atol=1e-12, rtol=1e-12)


def test_transposed_layers_are_the_same_layers(group):
    matrices = grams(inputs_of_layers(group))
    turned = replace(group, models=tuple(model.T for model in group.models), statistics=matrices, input_axis=0)
    torch.testing.assert_close(merge("regmean", turned).T, merge("regmean", replace(group, statistics=matrices)))


@pytest.mark.parametrize("options", [{}, EXACT], ids=str)
def test_an_input_that_no_model_has_is_averaged(group, options):
    """A column of zeros makes the sum singular; the leaders' inverse raises."""
    inputs = inputs_of_layers(group)
    for x in inputs:
        x[:, 2] = 0
    found = merge("regmean", replace(group, statistics=grams(inputs)), **options)
    torch.testing.assert_close(found[:, 2], mean(group)[:, 2])
    assert (found - mean(group)).abs().max() > 0.01


def test_too_few_rows_need_a_ridge(group):
    few = replace(group, statistics=grams(inputs_of_layers(group, rows=2)))
    with pytest.raises(
        InvalidInput, match="layer.weight: the Gram matrices together are singular with ridge=0 and reduction=1. Set a ridge"
    ):
        merge("regmean", few, **EXACT)
    assert merge("regmean", few, reduction=1).isfinite().all()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, dict[str, Input]]:
    """Inputs of the step for both methods: two classifiers of other classes on one bare base."""
    root = tmp_path_factory.mktemp("statistics")
    make_experts(root)
    given = {"base": Input("base", "model", "0" * 64, root / "base")}
    kinds = {"fisher_information": "fisher", "gram": "regmean"}
    found = {method: dict(given) for method in kinds.values()}
    for place, (task, labels) in enumerate(TASKS.items()):
        model = Input(task, "model", f"{place + 1}" * 64, root / task / "model")
        rows = Input("rows", "dataset", "5" * 64, write_labelled(root / task / "rows", root / "base", labels=labels))
        for kind, method in kinds.items():
            outcome = gather.run(
                StatisticsConfig(method=kind, split="validation"), {"model": model, "dataset": rows}, Context(root / task / kind)
            )
            statistics = Input(f"{task} {kind}", "statistics", "7" * 64, outcome.outputs["statistics"].path)
            found[method] |= {f"models.{place}": model, f"statistics.{place}": statistics}
    return found


def merged(inputs: dict[str, Input], work, method: str, **options) -> dict[str, torch.Tensor]:
    path = step.run(MergeConfig(method=method, options=options), inputs, Context(work)).outputs["model"].path
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_statistics_of_classifiers_are_those_of_their_backbones(made, tmp_path, method):
    """``bert.encoder…`` in the statistics is ``encoder…`` in the result."""
    options = {"equalize": False, "floor": 1e-12} if method == "fisher" else {}
    found = merged(made[method], tmp_path / "work", method, **options)
    models = [load_file(made[method][f"models.{place}"].path / "model.safetensors") for place in (0, 1)]
    paths = [made[method][f"statistics.{place}"].path for place in (0, 1)]
    stored = [load_file(path / TENSORS) for path in paths]
    entries = json.loads((paths[0] / DESCRIPTION).read_text())["tensors"]
    group = random_group((1,), 2)
    for name in (QUERY, KEY):
        own = replace(
            group,
            models=tuple(model[f"bert.{name}"] for model in models),
            statistics=tuple(one[entries[f"bert.{name}"]["stored_as"]] for one in stored),
        )
        expected = merge(method, own, **options)
        torch.testing.assert_close(found[name], expected)
        assert not torch.allclose(found[name], (own.models[0] + own.models[1]) / 2, atol=1e-4)


def test_each_model_needs_its_own_statistics(made, tmp_path):
    inputs = made["regmean"]
    with pytest.raises(
        ConfigError, match="regmean takes statistics of the kind gram of each model; 0 of.*Run the step 'statistics' with method=gram"
    ):
        merged({name: one for name, one in inputs.items() if "statistics" not in name}, tmp_path / "none", "regmean")
    swapped = inputs | {"statistics.0": inputs["statistics.1"], "statistics.1": inputs["statistics.0"]}
    with pytest.raises(
        IncompatibleModels, match="moods gram was made from sha256:2222.*, not from topics .sha256:1111.*topics gram was made"
    ):
        merged(swapped, tmp_path / "swapped", "regmean")
    with pytest.raises(IncompatibleModels, match="topics fisher_information is of the kind fisher_information, not gram"):
        merged(inputs | {"statistics.0": made["fisher"]["statistics.0"]}, tmp_path / "kind", "regmean")
    with pytest.raises(ConfigError, match="The method linear uses no statistics. Leave the input 'statistics' out"):
        merged(inputs, tmp_path / "linear", "linear")


def edited(source: Input, directory, entries=lambda tensors: tensors, tensors=lambda tensors: tensors) -> Input:
    shutil.copytree(source.path, directory)
    description = json.loads((directory / DESCRIPTION).read_text())
    (directory / DESCRIPTION).write_text(json.dumps(description | {"tensors": entries(description["tensors"])}))
    save_file(tensors(load_file(directory / TENSORS)), directory / TENSORS)
    return replace(source, path=directory)


def test_statistics_that_do_not_fit_are_refused_before_anything_is_read(made, tmp_path):
    first = made["regmean"]["statistics.0"]
    lacking = edited(first, tmp_path / "a", entries=lambda found: {name: one for name, one in found.items() if name != f"bert.{QUERY}"})
    with pytest.raises(IncompatibleModels, match=f"{QUERY} is in moods gram and not in topics gram"):
        merged(made["regmean"] | {"statistics.0": lacking}, tmp_path / "work", "regmean")
    small = edited(first, tmp_path / "b", tensors=lambda found: found | {f"bert.{QUERY}": torch.eye(3)})
    with pytest.raises(IncompatibleModels, match=rf"{QUERY} is \[3, 3\] in topics gram; a gram of it is \[32, 32\]"):
        merged(made["regmean"] | {"statistics.0": small}, tmp_path / "work", "regmean")
    foreign = [edited(made["regmean"][f"statistics.{place}"], tmp_path / f"c{place}", entries=lambda _: {}) for place in (0, 1)]
    with pytest.raises(IncompatibleModels, match="They name no tensor that is merged"):
        merged(made["regmean"] | {"statistics.0": foreign[0], "statistics.1": foreign[1]}, tmp_path / "work", "regmean")


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_statistics_that_are_not_finite_are_refused_by_name(made, tmp_path, method):
    def spoil(found):
        found[f"bert.{QUERY}"][1, 2] = torch.nan
        return found

    spoiled = edited(made[method]["statistics.1"], tmp_path / "spoiled", tensors=spoil)
    with pytest.raises(
        InvalidInput, match=r"moods .*: the statistics of encoder.layer.0.attention.* hold NaN or infinity. Gather them again"
    ):
        merged(made[method] | {"statistics.1": spoiled}, tmp_path / "work", method)


def test_on_the_inputs_of_two_tasks_regmean_is_nearer_to_both_experts_than_the_mean():
    """Each expert was fitted to noisy targets on inputs that lie mostly in a subspace of its own."""
    worse = 0
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        group = random_group((6, 16), 2, torch.float64, seed=seed, size=1.0)
        scale = torch.cat([torch.full((8,), 2.0), torch.full((8,), 0.1)]).double()
        inputs = [torch.randn(64, 16, generator=generator, dtype=torch.float64) * one for one in (scale, scale.flip(0))]
        fresh = [torch.randn(64, 16, generator=generator, dtype=torch.float64) * one for one in (scale, scale.flip(0))]
        found = merge("regmean", replace(group, statistics=grams(inputs)))

        def error(weights, group=group, fresh=fresh):
            return sum((x @ (weights - model).T).square().mean() for x, model in zip(fresh, group.models, strict=True))

        worse += error(found) > 0.1 * error(mean(group))
    assert worse == 0
