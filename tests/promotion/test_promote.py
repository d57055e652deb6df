"""The promote step against a registry in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from lfm_tasks.errors import Conflict, InvalidInput
from lfm_tasks.promotion.config import PromoteConfig
from lfm_tasks.promotion.promote import run
from lfm_tasks.step import Input, Move, Outcome

BASE, CHAMPION, CHALLENGER, STRANGER, DECISION = ("a" * 64, "b" * 64, "c" * 64, "d" * 64, "e" * 64)


@dataclass
class Registry:
    """Remembers what it was asked."""

    current: tuple[str, str] | None = None
    asked: list[tuple] = field(default_factory=list)

    def aliased(self, name: str, alias: str) -> tuple[str, str] | None:
        return self.current

    def promote(self, name: str, alias: str, model: Input, expected: str | None, reason: str, evidence: str) -> Move:
        self.asked.append((name, alias, model.sha256, expected, reason, evidence))
        return Move(name, alias, "7", expected, 3, "f" * 64, model.sha256)


def promote(tmp_path: Path, registry: Registry, decision: dict | None = None, model: str = CHALLENGER, **config: object) -> Outcome:
    path = tmp_path / "decision"
    path.mkdir(exist_ok=True)
    content = {"format": 1, "outcome": "promote", "reasons": ["It is better."], "metrics": {}, "dataset_sha256": "0" * 64}
    content |= {"challenger": {"model_sha256": CHALLENGER}, "champion": {"model_sha256": CHAMPION}}
    (path / "decision.json").write_text(json.dumps(content | (decision or {})))
    inputs = {
        "model": Input("sha256:m", "model", model, tmp_path),
        "decision": Input("sha256:d", "report", DECISION, path),
    }
    context = SimpleNamespace(registry=registry, log=lambda message: None)
    return run(PromoteConfig(model_name="bbc", **config), inputs, context)


def test_a_promotion_expects_the_version_that_the_gate_compared_with(tmp_path: Path) -> None:
    registry = Registry(("6", CHAMPION))
    outcome = promote(tmp_path, registry, reason="Weekly run.")
    assert registry.asked == [("bbc", "champion", CHALLENGER, "6", "Weekly run. It is better.", DECISION)]
    assert outcome.summary["moved"] is True
    assert (outcome.summary["version"], outcome.summary["previous"], outcome.summary["entry"]) == ("7", "6", 3)
    assert outcome.metrics == {"moved": 1.0}


def test_the_first_promotion_expects_no_version(tmp_path: Path) -> None:
    registry = Registry(None)
    promote(tmp_path, registry, {"champion": {"model_sha256": BASE}})
    assert registry.asked[0][3] is None


@pytest.mark.parametrize(("said", "why"), [("reject", "The gate said reject."), ("ask", "The gate said ask, and no person has answered.")])
def test_without_a_yes_nothing_moves_and_the_summary_says_why(tmp_path: Path, said: str, why: str) -> None:
    registry = Registry(("6", STRANGER))
    outcome = promote(tmp_path, registry, {"outcome": said, "reasons": ["Accuracy fell."]})
    assert registry.asked == []
    assert (outcome.summary["moved"], outcome.summary["outcome"], outcome.summary["reasons"]) == (False, said, [why, "Accuracy fell."])


def test_a_dry_run_moves_nothing(tmp_path: Path) -> None:
    registry = Registry(("6", CHAMPION))
    outcome = promote(tmp_path, registry, dry_run=True)
    assert registry.asked == []
    assert (outcome.summary["dry_run"], outcome.summary["previous"]) == (True, "6")


def test_a_decision_about_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"The gate judged model sha256:{CHALLENGER}, but the model to promote is sha256:{STRANGER}"):
        promote(tmp_path, Registry(), model=STRANGER)


def test_a_champion_that_changed_since_the_gate_is_a_conflict(tmp_path: Path) -> None:
    registry = Registry(("9", STRANGER))
    with pytest.raises(Conflict, match=r"The champion changed since the gate ran.*names version 9.*Run the gate again"):
        promote(tmp_path, registry)
    assert registry.asked == []


def test_a_retry_after_the_move_asks_the_registry_which_knows_it(tmp_path: Path) -> None:
    registry = Registry(("7", CHALLENGER))
    assert promote(tmp_path, registry).summary["moved"] is True


@pytest.mark.parametrize("broken", [{"outcome": "yes"}, {"reasons": None, "outcome": None}])
def test_what_is_no_decision_is_refused(tmp_path: Path, broken: dict) -> None:
    with pytest.raises(InvalidInput, match="is no decision of a gate step"):
        promote(tmp_path, Registry(), broken)


def test_an_input_without_a_decision_is_refused(tmp_path: Path) -> None:
    inputs = {"model": Input("sha256:m", "model", CHALLENGER, tmp_path), "decision": Input("sha256:d", "report", DECISION, tmp_path)}
    with pytest.raises(InvalidInput, match="sha256:d holds no decision.json. Give the output 'decision' of a gate step"):
        run(PromoteConfig(model_name="bbc"), inputs, SimpleNamespace(registry=Registry(), log=print))
