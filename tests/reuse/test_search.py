"""A search against brute force through the steps merge and a stock model; CMA-ES against a known optimum; what a stop costs."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from lfm_tasks.config import parse_config
from lfm_tasks.errors import AttemptKilled, ConfigError, InvalidInput
from lfm_tasks.form import config_values, form_fields
from lfm_tasks.models.forward import forward, make_batch
from lfm_tasks.models.opening import open_with_head
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.reuse import merge, search
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.search_config import SearchMergeConfig
from lfm_tasks.reuse.strategies import generations
from lfm_tasks.step import Input
from lfm_tasks.steps import STEPS
from tests.experts import TASKS, expert_inputs
from tests.far import check_read_once, models_far
from tests.mixed import files
from tests.toys import make_bert
from tests.tuned import Context

GRID = {"scale": [0.3, 1.0], "density": [0.2, 0.9]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    """Two classifiers of other classes on one bare base, with rows of each one's task."""
    return expert_inputs(tmp_path_factory.mktemp("search"), (30, 30))


def brute_force(inputs, work: Path, method: str, options: dict, **values) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The written merge, and its accuracy and log-likelihood on each task with the head of that task's model."""
    given = {name: one for name, one in inputs.items() if not name.startswith("datasets")}
    written = merge.run(MergeConfig(method=method, options=options, **values), given, Context(work)).outputs["model"].path
    accuracies, likelihoods = [], []
    for place in (0, 1):
        model = open_with_head(Input("merged", "model", "9" * 64, written), inputs[f"models.{place}"])
        rows = read_rows(inputs[f"datasets.{place}"].path, "validation")
        with torch.inference_mode():
            logits = torch.cat([forward(model, make_batch(rows, [row], 0)) for row in range(len(rows))])
        target = torch.tensor(rows.columns["label"])
        accuracies.append(float((logits.argmax(-1) == target).double().mean()))
        likelihoods.append(-float(cross_entropy(logits, target)))
    return load_file(written / "model.safetensors"), accuracies, likelihoods


@pytest.fixture(scope="module")
def searched(inputs, tmp_path_factory):
    work = tmp_path_factory.mktemp("searched") / "work"
    return search.run(SearchMergeConfig(method="ties", search=GRID, score="log_likelihood", over="worst"), inputs, Context(work))


def test_the_best_of_a_grid_is_that_of_brute_force(inputs, searched, tmp_path):
    found = json.loads((searched.outputs["trials"].path / "trials.json").read_text())
    trials = [trial for trial in found["trials"] if trial["kind"] == "candidate"]
    expected = {}
    for place, trial in enumerate(trials):
        tensors, accuracies, likelihoods = brute_force(inputs, tmp_path / str(place), "ties", trial["options"])
        assert [one["accuracy"] for one in trial["scores"]] == accuracies
        assert [one["log_likelihood"] for one in trial["scores"]] == pytest.approx(likelihoods, abs=1e-5)
        assert trial["score"] == pytest.approx(min(likelihoods), abs=1e-5)
        expected[min(likelihoods)] = tensors
    assert len(trials) == 4
    best = load_file(searched.outputs["model"].path / "model.safetensors")
    assert best.keys() == expected[max(expected)].keys()
    assert all(torch.equal(best[name], tensor) for name, tensor in expected[max(expected)].items())


def test_the_defaults_and_the_single_models_stand_beside_the_best(inputs, searched, tmp_path):
    directory, metrics = searched.outputs["trials"].path, searched.metrics
    with (directory / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["model", "model", "default", *["candidate"] * 4]
    assert [row["model"] for row in rows[:2]] == list(TASKS)
    assert metrics["best_single_score"] == max(float(row["score"]) for row in rows[:2])
    assert metrics["default_score"] == pytest.approx(min(brute_force(inputs, tmp_path / "default", "ties", {})[2]), abs=1e-5)
    assert (metrics["trials"], metrics["best_score"]) == (4, max(float(row["score"]) for row in rows[3:]))
    page = (directory / "report.md").read_text()
    assert "| *default* |" in page and "evaluate it on the test split" in page
    worse = metrics["best_score"] <= metrics["best_single_score"]
    assert worse == ("It is not better than the single model" in page)


def test_a_head_that_is_kept_is_the_tasks_own(inputs, tmp_path):
    """The base is a classifier too; what is written has its head, and each task is asked with the head of its own model."""
    given = inputs | {"base": inputs["models.0"]}
    config = SearchMergeConfig(search={"scale": [0.5]}, keep=["classifier.*"])
    found = search.run(config, given, Context(tmp_path / "work")).summary["best"]
    expected = brute_force(given, tmp_path / "brute", "task_arithmetic", {"scale": 0.5}, keep=["classifier.*"])
    assert [one["log_likelihood"] for one in found["scores"]] == pytest.approx(expected[2], abs=1e-5)


def test_models_of_one_task_are_searched_by_its_one_data_set(inputs, tmp_path):
    other = Input("other", "model", "4" * 64, tmp_path / "other")
    make_bert(other.path, labels=TASKS["topics"], seed=9)
    given = {"models.0": inputs["models.0"], "models.1": other, "datasets.0": inputs["datasets.0"]}
    config = SearchMergeConfig(method="linear", search={"weights": [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]}, score="log_likelihood")
    outcome = search.run(config, given, Context(tmp_path / "work"))
    trials = json.loads((outcome.outputs["trials"].path / "trials.json").read_text())["trials"]
    assert [len(trial["scores"]) for trial in trials] == [1] * 6
    assert [trial["score"] for trial in trials[3:5]] == pytest.approx([trial["score"] for trial in trials[:2]], abs=1e-6)
    assert trials[5]["scores"] == trials[2]["scores"]


def test_the_models_are_read_once_whatever_is_tried(inputs, tmp_path, monkeypatch):
    read, asked = Checkpoint.read, Counter()

    def counted(self, name):
        asked[self.key, name] += 1
        return read(self, name)

    monkeypatch.setattr(Checkpoint, "read", counted)
    found = []
    for scales in ([0.1], [0.1, 0.2, 0.3]):
        found.append(search.run(SearchMergeConfig(search={"scale": scales}, score_rows=4), inputs, Context(tmp_path / f"{len(scales)}")))
    models = [inputs[name] for name in ("base", "models.0", "models.1")]
    tensors = {one.sha256: load_file(one.path / "model.safetensors") for one in models}
    assert asked == {(key, name): 2 for key, model in tensors.items() for name in model}  # once in each of two searches
    size = sum(tensor.nbytes for model in tensors.values() for tensor in model.values())
    assert found[0].metrics["bytes_read"] == found[1].metrics["bytes_read"] == size


def test_models_that_are_far_away_are_read_once_and_the_result_is_the_same(inputs, searched, tmp_path):
    away = models_far(inputs, tmp_path)
    config = SearchMergeConfig(method="ties", search=GRID, score="log_likelihood", over="worst")
    found = search.run(config, away, Context(tmp_path / "work"))
    for name, output in searched.outputs.items():
        assert files(found.outputs[name].path) == files(output.path)
    check_read_once(away)


def test_a_model_with_nan_is_named(inputs, tmp_path):
    broken = replace(inputs["models.1"], path=tmp_path / "broken")
    shutil.copytree(inputs["models.1"].path, broken.path)
    tensors = load_file(broken.path / "model.safetensors")
    tensors["bert.embeddings.position_embeddings.weight"][-1] = torch.nan  # no row is so long that its scores would show it
    save_file(tensors, broken.path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match="position_embeddings.weight of mood.* holds NaN or infinity"):
        search.run(SearchMergeConfig(), inputs | {"models.1": broken}, Context(tmp_path / "work"))


def test_a_stopped_search_goes_on_from_its_trials(inputs, searched, tmp_path):
    class Stopping(Context):
        def report(self, done, total, metrics=None):
            super().report(done, total, metrics)
            if done == 5:
                raise AttemptKilled("Stopped on request at 5.")

    config = SearchMergeConfig(method="ties", search=GRID, score="log_likelihood", over="worst")
    with pytest.raises(AttemptKilled):
        search.run(config, inputs, Stopping(tmp_path / "work"))
    shutil.rmtree(tmp_path / "work")
    context = Context(tmp_path / "work")
    resumed = search.run(config, inputs, context)
    assert any("Resumed: 5 trials were made before" in line for line in context.lines)
    assert context.reports[0][0] == 6
    for name, output in searched.outputs.items():
        for path in sorted(output.path.rglob("*.*")):
            assert path.read_bytes() == (resumed.outputs[name].path / path.relative_to(output.path)).read_bytes(), path


def test_cma_finds_a_known_optimum_and_stays_within_its_bounds():
    """Task arithmetic whose score is a parabola around scale 0.37 and weights (0.2, 0.9)."""
    bounds = {"scale": {"low": 0, "high": 1.5}, "weights": {"low": 0, "high": 1}}
    config = SearchMergeConfig(search=bounds, strategy="cma", trials=250, seed=3)

    def all_of(config):
        search, tried, scores = generations(config, 2), [], None
        try:
            while True:
                candidates = search.send(scores)
                points = [(one["scale"], *one["weights"]) for one in candidates]
                scores = [-sum((a - b) ** 2 for a, b in zip(point, (0.37, 0.2, 0.9), strict=True)) for point in points]
                tried += zip(scores, points, strict=True)
        except StopIteration:
            return tried

    tried = all_of(config)
    assert max(tried)[1] == pytest.approx((0.37, 0.2, 0.9), abs=0.01)
    assert len(tried) <= 250 and all(0 <= scale <= 1.5 and min(weights) >= 0 and max(weights) <= 1 for _, (scale, *weights) in tried)
    torch.manual_seed(1)
    assert all_of(config) == tried != all_of(config.model_copy(update={"seed": 4}))


def test_cma_does_as_well_as_a_grid_of_the_same_option(inputs, tmp_path):
    common = {"score": "log_likelihood", "score_rows": 12}
    grid = search.run(SearchMergeConfig(search={"scale": [0.0, 0.25, 0.5, 0.75, 1.0]}, **common), inputs, Context(tmp_path / "grid"))
    bounds = {"search": {"scale": {"low": 0, "high": 1}}, "strategy": "cma", "trials": 20}
    found = search.run(SearchMergeConfig(**bounds, **common), inputs, Context(tmp_path / "cma"))
    assert found.metrics["trials"] == 20
    assert found.metrics["best_score"] >= grid.metrics["best_score"] - 1e-3


def test_models_that_do_not_fit_into_memory_are_not_read(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "available_bytes", lambda: 1000)
    monkeypatch.setattr(search, "open_task", None)
    with pytest.raises(InvalidInput, match=r"holds its 3 models in memory, [\d,]+ bytes, and [\d,]+ for a candidate; 1,000 are available"):
        search.run(SearchMergeConfig(), inputs, Context(tmp_path / "work"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"search": {}}, "search names no option to vary. Those of task_arithmetic: weights, scale"),
        ({"search": {"scal": [1]}}, "Unknown option of task_arithmetic 'scal'. Did you mean 'scale'"),
        ({"options": {"scale": 1}}, "scale is among the options that stay and among those to vary"),
        ({"search": {"scale": {"low": 0, "high": 1}}}, "a grid needs values for scale.*For bounds set strategy=cma"),
        ({"search": {"scale": [0.5, 0.5]}}, "scale has one value twice"),
        ({"search": {"scale": [0.5, 1000]}}, "options of task_arithmetic: scale: Input should be less than or equal to 100"),
        ({"trials": 3}, "The grid has 7 combinations, but trials=3"),
        ({"strategy": "cma"}, "CMA-ES needs bounds for scale"),
        ({"strategy": "cma", "search": {"scale": {"low": 1, "high": 0}}}, "CMA-ES needs bounds for scale"),
        ({"strategy": "cma", "search": {"scale": {"low": 0, "high": 101}}}, "scale: Input should be less than or equal to 100"),
        (
            {"strategy": "cma", "method": "wudi", "search": {"adam_steps": {"low": 1, "high": 9}}},
            "adam_steps is no real number, so CMA-ES cannot vary it",
        ),
        ({"method": "greedy_soup"}, "Unknown method 'greedy_soup'"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_starts(values, says):
    with pytest.raises(ConfigError, match=says):
        parse_config(SearchMergeConfig, values)


def test_fewer_trials_than_a_generation_and_too_few_data_are_refused(inputs, tmp_path):
    few = SearchMergeConfig(strategy="cma", search={"scale": {"low": 0, "high": 1}}, trials=2)
    with pytest.raises(ConfigError, match="trials=2 is less than a generation of CMA-ES over 1 numbers. Give at least 4"):
        next(generations(few, 2))
    third = {"models.2": inputs["models.0"]}
    with pytest.raises(ConfigError, match="A search looks at the data of each model; 2 of the input 'datasets' were given for 3 models"):
        search.run(SearchMergeConfig(), inputs | third, Context(tmp_path / "work"))


@pytest.mark.parametrize("given", [GRID, {"weights": [[1, 0], [0.5, 0.5]]}, {"weights": {"low": -1, "high": 1}}])
def test_what_is_varied_is_a_json_field_of_the_form(given):
    fields = form_fields(STEPS["search_merge"], "find")
    jsonschema.validate(given, {key: value for key, value in fields["find_search"].items() if key != "default"})
    params = {name: schema["default"] for name, schema in fields.items()}
    params |= {
        "find_method": "ties",
        "find_search": given,
        "find_strategy": "cma" if "low" in str(given) else "grid",
        "find_combine": "sum",
    }
    config = parse_config(SearchMergeConfig, config_values(STEPS["search_merge"], "find", params))
    assert config.search == given and config.method_config().combine == "sum"
    assert "greedy_soup" not in fields["find_method"]["enum"] and "find_learning_rate" in fields and "find_passes" not in fields
