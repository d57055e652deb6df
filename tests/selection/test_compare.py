"""The comparison over tasks: what the table says follows from the reports; what does not fit is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.selection.compare import run
from lfm_tasks.selection.compare_config import CompareConfig
from lfm_tasks.selection.compare_figure import named
from tests.selection.test_selection import report

SUBJECTS = [
    {"name": "news expert", "role": "expert", "expert_of": "news"},
    {"name": "films expert", "role": "expert", "expert_of": "films"},
    {"name": "cheap", "cpu_seconds": 1.0, "peak_memory_bytes": 2.0**20},
    {"name": "dear", "cpu_seconds": 9.0, "extra_parameters": 1234},
    {"name": "wasteful", "cpu_seconds": 9.5},
]
ACCURACY = [(0.8, 0.4), (0.5, 0.5), (0.6, 0.4), (0.8, 0.45), (0.7, 0.4)]


def cells(tmp_path):
    names = [(one["name"], task) for one in SUBJECTS for task in ("news", "films")]
    reports = [
        report(tmp_path, 2 * i + j, value, split="test", dataset="de"[j]) for i, pair in enumerate(ACCURACY) for j, value in enumerate(pair)
    ]
    return [{"subject": subject, "task": task} for subject, task in names], reports


def compare(tmp_path, cells, reports, **config):
    work = tmp_path / f"work{len(list(tmp_path.glob('work*')))}"
    work.mkdir()
    values = {"subjects": SUBJECTS, "cells": cells, **config}
    inputs = {f"reports.{place}": one for place, one in enumerate(reports)}
    return run(parse_config(CompareConfig, values), inputs, SimpleNamespace(workdir=work, log=print)).outputs["comparison"].path


def test_means_shares_of_the_experts_and_the_front_follow_from_the_reports(tmp_path):
    made = compare(tmp_path, *cells(tmp_path))
    found = {one["name"]: one for one in json.loads((made / "comparison.json").read_text())["subjects"]}
    assert found["cheap"]["mean"] == pytest.approx(0.5)
    assert found["cheap"]["normalised"] == pytest.approx((0.6 / 0.8 + 0.4 / 0.5) / 2)
    assert {name for name, one in found.items() if one["on_front"]} == {"cheap", "dear"}, "experts are no results; wasteful is beaten"
    assert pq.read_table(made / "comparison.parquet").num_rows == 10
    page = (made / "report.md").read_text()
    assert "| cheap | 0.600 (0.590–0.610) | 0.400 (0.390–0.410) | 0.500 | 77.5% | 0 | 1.0 | 1 | yes |" in page
    assert "| dear | 0.800 (0.790–0.810) | 0.450 (0.440–0.460) | 0.625 | 95.0% | 1,234 | 9.0 |  | yes |" in page


def test_who_was_chosen_on_validation_has_that_score_in_the_table(tmp_path):
    chosen = [one | ({"validation": 0.61234} if one["name"] == "cheap" else {}) for one in SUBJECTS]
    page = (compare(tmp_path, *cells(tmp_path), subjects=chosen) / "report.md").read_text()
    assert "| peak MiB | validation | front |" in page
    assert "| 1.0 | 1 | 0.6123 | yes |" in page and "| 1,234 | 9.0 |  |  | yes |" in page


def test_points_are_named_where_their_names_have_room():
    points = {"slow": (0.8, 90.0), "near slow": (0.801, 70.0), "quick": (0.8, 2.0), "front": (0.799, 100.0), "low": (0.4, 90.0)}
    lines = [SimpleNamespace(name=name, point=point, on_front=name == "front") for name, point in points.items()]
    assert [line.name for line in named(lines)] == ["front", "quick", "low"]
    assert named([]) == []


def test_equal_reports_give_equal_bytes(tmp_path):
    one, two = (compare(tmp_path, *cells(tmp_path)) for _ in range(2))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 4 and all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_a_task_that_was_not_measured_leaves_its_cell_and_the_means_empty(tmp_path):
    places, reports = cells(tmp_path)
    page = (compare(tmp_path, places[:-1], reports[:-1]) / "report.md").read_text()
    assert "| wasteful | 0.700 (0.690–0.710) |  |  |  | 0 | 9.5 |  |  |" in page


def test_what_does_not_fit_is_refused(tmp_path):
    places, reports = cells(tmp_path)
    with pytest.raises(ConfigError, match="cells names 10 reports, but 9 were given"):
        compare(tmp_path, places, reports[:-1])
    with pytest.raises(ConfigError, match="Unknown subject 'chaep'. Did you mean 'cheap'"):
        compare(tmp_path, [{"subject": "chaep", "task": "news"}, *places[1:]], reports)
    with pytest.raises(ConfigError, match="cheap on news twice"):
        compare(tmp_path, [*places[:5], places[4], *places[6:]], [*reports[:5], reports[4], *reports[6:]])
    with pytest.raises(DataError, match="The reports on news differ"):
        compare(tmp_path, places, [*reports[:2], reports[3], *reports[3:]])
    with pytest.raises(ConfigError, match="general/perplexity is better when lower"):
        compare(tmp_path, places, reports, metric="general/perplexity")
    with pytest.raises(ConfigError, match="Unknown metric 'choice/acuracy'"):
        compare(tmp_path, places, reports, metric="choice/acuracy")
