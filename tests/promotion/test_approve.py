"""A person's answer: put on record, and checked again before anything moves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, InvalidInput
from lfm_tasks.promotion.approve import run as approve
from lfm_tasks.promotion.config import ApproveConfig, PromoteConfig, needs_answer
from lfm_tasks.promotion.promote import run as promote
from lfm_tasks.settings import settings
from lfm_tasks.step import Input
from tests.promotion.test_promote import CHALLENGER, CHAMPION, DECISION, STRANGER, Registry

YES = {
    "chosen": "approve",
    "by": "ann",
    "reason": "Looks good.",
    "asked": "2026-11-24T10:00:00+00:00",
    "answered": "2026-11-24T11:00:00+00:00",
}
NO = YES | {"chosen": "reject", "reason": "Too slow."}
LATE = {"timed_out": True, "asked": "2026-11-24T10:00:00+00:00"}


@pytest.fixture
def world(tmp_path):
    """``world(outcome, answer, approval, …)``: put the answer on record, then try to promote."""

    def run(outcome="ask", answer=None, decided=DECISION, about=DECISION, model=CHALLENGER, current=("6", CHAMPION), **config):
        path = tmp_path / "decision"
        path.mkdir(exist_ok=True)
        content = {"format": 1, "outcome": outcome, "reasons": ["Close."], "metrics": {}, "dataset_sha256": "0" * 64}
        content |= {"challenger": {"model_sha256": CHALLENGER}, "champion": {"model_sha256": CHAMPION}}
        (path / "decision.json").write_text(json.dumps(content))
        registry, lines = Registry(current), []
        context = SimpleNamespace(registry=registry, log=lines.append, workdir=tmp_path / f"work{len(list(tmp_path.glob('work*')))}")
        context.workdir.mkdir()
        inputs = {"model": Input("sha256:m", "model", model, tmp_path), "decision": Input("sha256:d", "report", decided, path)}
        if answer is not None:
            asked = {"decision": Input("sha256:d", "report", about, path)}
            made = approve(parse_config(ApproveConfig, answer), asked, context).outputs["answer"]
            inputs["answer"] = Input("sha256:a", "report", "f" * 64, made.path)
        return promote(parse_config(PromoteConfig, {"model_name": "bbc", **config}), inputs, context), registry

    return run


def test_a_yes_moves_what_the_gate_had_left_open_and_is_in_the_ledgers_reason(world):
    outcome, registry = world(answer=YES)
    assert outcome.summary["moved"] and outcome.summary["approved_by"] == "ann"
    name, alias, model, expected, why, evidence = registry.asked[0]
    assert (model, expected, evidence) == (CHALLENGER, "6", DECISION)
    assert why == "Close. Approved by ann at 2026-11-24T11:00:00+00:00. Looks good."


@pytest.mark.parametrize(
    ("outcome", "answer", "approval", "why"),
    [
        ("ask", NO, "when_asked", "ann said no."),
        ("promote", NO, "always", "ann said no."),
        ("ask", LATE, "when_asked", "A person was asked, and nobody answered in time."),
        ("ask", None, "never", "The gate said ask, and no person has answered."),
        ("promote", None, "always", "approval=always, and no person has answered."),
        ("reject", YES, "always", "The gate said reject."),
    ],
)
def test_without_a_yes_that_counts_nothing_moves(world, outcome, answer, approval, why):
    done, registry = world(outcome, answer, approval=approval)
    assert registry.asked == [] and done.summary["reasons"][0] == why
    assert done.summary["timed_out"] is (answer is LATE)


def test_a_time_out_is_no_persons_no(world, tmp_path):
    world(answer=LATE)
    answer = json.loads((tmp_path / "work0" / "answer" / "answer.json").read_text())
    assert answer["timed_out"] is True and answer["by"] == ""
    assert "Nobody answered the question of 2026-11-24T10:00:00+00:00 in time" in (tmp_path / "work0/answer/report.md").read_text()


def test_an_answer_about_another_decision_is_refused(world):
    with pytest.raises(InvalidInput, match=f"is about decision sha256:{STRANGER}, but the decision to act on is sha256:{DECISION}"):
        world(answer=YES, about=STRANGER)


def test_a_yes_does_not_carry_over_to_another_model_or_champion(world):
    with pytest.raises(InvalidInput, match="The gate judged model"):
        world(answer=YES, model=STRANGER)
    with pytest.raises(Exception, match="The champion changed since the gate ran"):
        world(answer=YES, current=("9", STRANGER))


def test_approving_ones_own_run_is_refused_when_the_setting_says_so(world, monkeypatch):
    own = YES | {"triggered_by": "ann"}
    assert world(answer=own)[0].summary["moved"]
    monkeypatch.setenv("LFM_ALLOW_SELF_APPROVAL", "false")
    settings.cache_clear()
    with pytest.raises(InvalidInput, match="ann started this run and may not approve it .LFM_ALLOW_SELF_APPROVAL=false.. Another person"):
        world(answer=own)
    assert world(answer=YES | {"triggered_by": "bob"})[0].summary["moved"]
    assert world(answer=own | {"chosen": "reject"})[0].summary["moved"] is False, "everybody may stop their own run"
    settings.cache_clear()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"timed_out": True, "chosen": "approve"}, "timed_out=true means that nobody answered"),
        ({"timed_out": True, "by": "ann"}, "timed_out=true means that nobody answered"),
        ({"chosen": "approve"}, "An approval has a name to it. Set 'by'"),
    ],
)
def test_what_is_no_answer_is_refused(answer, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(ApproveConfig, answer)


def test_what_holds_no_answer_is_refused(tmp_path: Path):
    from lfm_tasks.promotion.approve import read_answer

    with pytest.raises(InvalidInput, match="sha256:a holds no answer.json. Give the output 'answer' of an approve step"):
        read_answer(Input("sha256:a", "report", "a" * 64, tmp_path), DECISION)


def test_who_is_asked_about_what():
    table = {(a, o): needs_answer(a, o) for a in ("never", "when_asked", "always") for o in ("promote", "reject", "ask")}
    assert {pair for pair, asked in table.items() if asked} == {("when_asked", "ask"), ("always", "ask"), ("always", "promote")}
