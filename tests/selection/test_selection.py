"""The choice among a sweep's candidates: the front against enumeration, the best on validation, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.selection.config import SelectConfig, SweepConfig, training_tflop
from lfm_tasks.selection.pareto import pareto_front
from lfm_tasks.selection.select import run
from lfm_tasks.step import Input

SMALL = st.integers(0, 5).map(float)


def report(directory: Path, place: int, accuracy: float, perplexity: float = 10.0, split="validation", dataset="d") -> Input:
    path = directory / f"report{place}"
    path.mkdir(exist_ok=True)

    def entry(value, higher):
        return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100, "higher_is_better": higher, "unit": "share"}

    content = {"model_sha256": f"{place:064d}", "dataset_sha256": dataset * 64, "general_sha256": None, "settings": {"split": split}}
    content["metrics"] = {"choice/accuracy": entry(accuracy, True), "general/perplexity": entry(perplexity, False)}
    (path / "metrics.json").write_text(json.dumps(content))
    return Input(f"sha256:{place}", "report", f"{place:064x}", path)


def select(tmp_path, reports, **config):
    inputs = {f"reports.{place}": one for place, one in enumerate(reports)}
    work = tmp_path / f"work{len(list(tmp_path.glob('work*')))}"
    work.mkdir()
    outcome = run(parse_config(SelectConfig, config), inputs, SimpleNamespace(workdir=work, log=lambda line: None))
    return outcome, json.loads((outcome.outputs["selection"].path / "selection.json").read_text())


@given(st.lists(st.tuples(SMALL, SMALL), max_size=12))
def test_the_front_is_what_nothing_beats_in_both(points):
    def beaten(gain, cost):
        return any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)

    assert pareto_front(points) == [not beaten(*point) for point in points]


def test_the_best_on_validation_is_named_and_the_front_marked(tmp_path):
    candidates = [{"settings": {"rank": rank}, "tflop": cost} for rank, cost in ((2, 1.0), (4, 2.0), (8, 4.0), (16, 3.0))]
    outcome, found = select(tmp_path, [report(tmp_path, i, a) for i, a in enumerate((0.7, 0.9, 0.9, 0.8))], candidates=candidates)
    assert found["best"]["settings"] == {"rank": 4}, "of equals the cheapest"
    assert [row["on_front"] for row in found["candidates"]] == [True, True, False, False]
    assert outcome.summary["best"]["model_sha256"] == f"{1:064d}"
    page = (outcome.outputs["selection"].path / "report.md").read_text()
    assert "Others whose interval overlaps its own: 1." in page and "| rank 8 | 0.9 |" in page


def test_a_metric_that_should_fall_is_chosen_by_the_least(tmp_path):
    reports = [report(tmp_path, i, 0.5, perplexity) for i, perplexity in enumerate((12.0, 9.0, 11.0))]
    assert select(tmp_path, reports, metric="general/perplexity")[1]["best"]["model_sha256"] == f"{1:064d}"


def test_a_candidate_that_failed_is_shown_and_does_not_shift_the_others(tmp_path):
    candidates = [{"settings": {"rank": 2}, "tflop": 1}, {"settings": {"rank": 4}, "failed": True}, {"settings": {"rank": 8}, "tflop": 2}]
    outcome, found = select(tmp_path, [report(tmp_path, 0, 0.7), report(tmp_path, 2, 0.9)], candidates=candidates)
    assert [row["failed"] for row in found["candidates"]] == [False, True, False]
    assert found["best"]["settings"] == {"rank": 8} and outcome.metrics["failed"] == 1


def test_equal_reports_give_equal_bytes_whatever_the_order_of_the_front(tmp_path):
    reports = [report(tmp_path, i, a) for i, a in enumerate((0.7, 0.9))]
    one, two = (select(tmp_path, reports)[0].outputs["selection"].path for _ in range(2))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 3 and all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "of the test split. The best is chosen on validation"),
        ({"dataset": "e"}, "The reports differ in dataset_sha256"),
    ],
)
def test_reports_that_may_not_be_chosen_from_are_refused(tmp_path, changes, message):
    second = {"split": "test"} if "split" in changes else {}
    reports = [report(tmp_path, 0, 0.7, **second), report(tmp_path, 1, 0.8, **changes)]
    with pytest.raises(DataError, match=message):
        select(tmp_path, reports)


def test_what_is_no_report_and_a_wrong_count_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="candidates names 2 that did not fail, but there are 1 reports"):
        select(tmp_path, [report(tmp_path, 0, 0.7)], candidates=[{"settings": {}}, {"settings": {"rank": 1}}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no evaluation report"):
        select(tmp_path, [Input("sha256:x", "report", "0" * 64, tmp_path / "empty")])
    with pytest.raises(ConfigError, match="Unknown metric 'choice/acuracy'. Did you mean 'choice/accuracy'"):
        select(tmp_path, [report(tmp_path, 0, 0.7)], metric="choice/acuracy")


def test_compute_is_counted_as_written_in_its_formula():
    """Full training of P parameters costs 6 P operations per token (Kaplan et al. 2020); a frozen base costs 4 P."""
    assert training_tflop({"total_parameters": 1e6, "trainable_parameters": 1e6, "tokens_seen": 1e6}) == 6.0
    assert training_tflop({"total_parameters": 1e6, "trainable_parameters": 0, "tokens_seen": 1e6}) == 4.0
    assert training_tflop({"tokens_seen": 1e6}) is None


def test_a_grid_is_every_combination_and_the_last_field_varies_fastest():
    sweep = parse_config(SweepConfig, {"grid": {"rank": [4, 8], "method": ["lora", "dora"]}})
    assert [tuple(one.values()) for one in sweep.candidates()] == [(4, "lora"), (4, "dora"), (8, "lora"), (8, "dora")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Give either a grid or a list of configs"),
        ({"grid": {"rank": [1]}, "configs": [{"rank": 1}]}, "Give either a grid or a list of configs"),
        ({"grid": {"rank": list(range(1, 66))}}, "The grid has 65 combinations; at most 64 are tried"),
        ({"grid": {"a": list(range(1000)), "b": list(range(1000)), "c": [1] * 1000}}, "1,000,000,000 combinations"),
        ({"grid": {"rank": []}}, "The grid has no value for rank"),
        ({"configs": [{"rank": 1}, {"rank": 1}]}, r"tries each candidate once; \{\"rank\":1\} is there more often"),
        ({"configs": [{"rank": i} for i in range(65)]}, "at most 64 items"),
    ],
)
def test_what_is_no_sweep_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(SweepConfig, values)
