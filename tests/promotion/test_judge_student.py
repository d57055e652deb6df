"""The step judge_student: what was kept, how it is told from chance, whose turn it is on the clock, what is asked."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.metrics.classification import accuracy
from lfm_tasks.metrics.likelihood import perplexity
from lfm_tasks.promotion.students import judge
from lfm_tasks.promotion.students.config import JudgeStudentConfig
from lfm_tasks.promotion.students.judge import share
from lfm_tasks.promotion.students.speed import time_in_turn
from lfm_tasks.step import Input
from tests.reported import write_report
from tests.tuned import Context, llama_input, write_dataset

RIGHT = {"teacher": 80, "student": 76, "before": 50, "baseline": 60}
"""Of 100."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("judge")
    teacher, student = llama_input(root / "teacher", layers=4), llama_input(root / "student", layers=1)
    found = {"teacher": teacher, "student": student, "dataset": write_dataset(root / "data", teacher.path, "instruction")}
    for place, (name, right) in enumerate(RIGHT.items()):
        path = write_report(root / name / "report", str(place) * 64, "d" * 64, [1] * right + [0] * (100 - right))
        found[f"{name}_report"] = Input(name, "report", name, path)
    return found


def judged(inputs, directory, **values):
    return judge.run(parse_config(JudgeStudentConfig, {"rows": 4, "repeats": 1, "min_speedup": 0, **values}), inputs, Context(directory))


def test_what_was_kept_is_the_share_of_the_teachers_with_a_paired_interval(inputs, tmp_path):
    outcome = judged(inputs, tmp_path / "w")
    described = json.loads((outcome.outputs["retention"].path / "retention.json").read_text())
    kept = described["kept"]
    assert {name: one["share"] for name, one in kept.items()} == pytest.approx({name: right / 80 for name, right in RIGHT.items()})
    generator = np.random.default_rng(1)
    drawn = generator.integers(100, size=(4000, 100))
    shares = (drawn < 76).sum(1) / (drawn < 80).sum(1)
    assert [kept["student"]["low"], kept["student"]["high"]] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.01)
    assert (kept["teacher"]["low"], kept["teacher"]["high"]) == (1, 1), "the same samples are drawn for both"
    assert outcome.metrics["retained_baseline"] == pytest.approx(0.75) and outcome.metrics["share_of_parameters"] < 0.7
    page = (outcome.outputs["retention"].path / "report.md").read_text()
    assert "| student | 0.76 | 95.0% (" in page and "| labels alone | 0.6 | 75.0% (" in page and "It is good enough" in page


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ({"min_retained": 0.94}, True),
        ({"min_retained": 0.94, "certain": True}, False),
        ({"min_retained": 0.96}, False),
        ({"min_speedup": 999}, False),
    ],
)
def test_quality_and_speed_are_both_asked_for(inputs, tmp_path, values, passed):
    assert judged(inputs, tmp_path / "w", **values).summary["passed"] is passed


def test_of_a_perplexity_the_inverse_is_what_was_kept():
    assert share(perplexity(), np.array(20.0), np.array(10.0)) == 0.5
    assert share(accuracy(), np.array(0.4), np.array(0.8)) == 0.5


def test_models_take_turns_and_the_first_is_not_counted():
    order = []

    class Model(nn.Module):
        device = torch.device("cpu")

        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, input_ids, attention_mask):
            order.append(self.name)

    ticks = count()
    ones = torch.ones(1, 2)
    timings = time_in_turn([Model("a"), Model("b")], [{"input_ids": ones, "attention_mask": ones}], 2, clock=lambda: next(ticks))
    assert order == ["a", "b"] * 3 and [timing.seconds for timing in timings] == [[1, 1], [1, 1]] and timings[0].median == 1


def test_reports_that_cannot_be_compared_are_refused(inputs, tmp_path):
    other = write_report(tmp_path / "other", "9" * 64, "e" * 64, [1] * 100)
    with pytest.raises(DataError, match="The reports have different data set"):
        judged({**inputs, "student_report": Input("other", "report", "o", other)}, tmp_path / "w")
    with pytest.raises(ConfigError, match="primary_metric: Unknown metric 'general/perplexity'"):
        judged(inputs, tmp_path / "v", primary_metric="general/perplexity")
