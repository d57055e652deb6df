"""What ``lfm demo distill`` sends, and what it makes of what came back."""

from __future__ import annotations

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.form import override
from lfm_tasks.stack import demo_distill
from lfm_tasks.steps import STEPS

KEPT = {"value": 0.9, "share": 0.95, "low": 0.9, "high": 1.0}


@pytest.mark.parametrize("method", demo_distill.METHODS)
def test_what_is_sent_fits_the_steps(method):
    sent = demo_distill.params("sha256:" + "0" * 64, method)
    for step in ("prepare", "cut_student", "distill", "evaluate", "judge_student"):
        values = {name.removeprefix(f"{step}_"): value for name, value in sent.items() if name.startswith(f"{step}_")}
        assert values
        override(STEPS[step], {}, values)


def test_methods_are_those_for_classifiers():
    assert demo_distill.choose([]) == ["forward_kl", "minilm_v2"]
    assert demo_distill.choose(["dist"]) == ["dist"]
    with pytest.raises(ConfigError, match="method of make demo-distill 'minillm'"):
        demo_distill.choose(["minillm"])


def test_a_line_for_each_model_and_the_picture_shows_them():
    judged = {"kept": dict.fromkeys(("teacher", "before", "baseline", "student"), KEPT)}
    shown = demo_distill.rows({"forward_kl": judged, "dist": judged})
    assert list(shown) == ["teacher, 6 layers", "student, as cut", "student, labels alone", "student, forward_kl", "student, dist"]
    axes = demo_distill.draw(shown, "classification/accuracy").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(shown)
    assert demo_distill.table(shown, "classification/accuracy").row_count == 5
