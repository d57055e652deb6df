"""Step ``promote``: register the model that the gate, or a person whom it asked, let through, and move the alias by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lfm_tasks.errors import Conflict, InvalidInput
from lfm_tasks.promotion.approve import read_answer, sentence
from lfm_tasks.promotion.config import Approval, PromoteConfig
from lfm_tasks.promotion.decision import read_decision
from lfm_tasks.step import Input, ModelRegistry, Outcome, StepContext

MAX_REASON = 4000


def run(config: PromoteConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Move ``config.alias`` to ``inputs["model"]`` if the decision and the answer say so; a no moves nothing and is no error.

    Raises :class:`InvalidInput` when the decision is about another model or the answer about another decision, and
    :class:`Conflict` when the champion is not the one that the gate compared with.
    """
    model, decision = inputs["model"], read_decision(inputs["decision"])
    answer = read_answer(inputs["answer"], inputs["decision"].sha256) if "answer" in inputs else None
    reasons = [str(reason) for reason in decision["reasons"]] + ([sentence(answer)] if answer else [])
    facts = {"outcome": decision["outcome"], "model_name": config.model_name, "alias": config.alias}
    facts |= {"approved_by": answer["by"] if answer else None, "timed_out": bool(answer and answer["timed_out"])}
    if obstacle := objection(config.approval, decision["outcome"], answer):
        context.log(f"{obstacle} Nothing is moved. {' '.join(reasons)}")
        return _outcome(facts, moved=False, reasons=[obstacle, *reasons])
    check_challenger(decision, model)
    expected = expected_version(decision, context.registry, config.model_name, config.alias)
    if config.dry_run:
        context.log(f"Dry run: {config.alias!r} of {config.model_name} would move from {_shown(expected)} to sha256:{model.sha256[:12]}.")
        return _outcome(facts, moved=False, dry_run=True, previous=expected)
    why = " ".join([config.reason, *reasons]).strip()[:MAX_REASON]
    move = context.registry.promote(config.model_name, config.alias, model, expected, why, inputs["decision"].sha256)
    context.log(
        f"{config.alias!r} of {move.name} moved from {_shown(move.previous)} to version {move.version} (ledger entry {move.entry})."
    )
    return _outcome(facts, moved=True, **asdict(move))


def objection(approval: Approval, outcome: str, answer: Mapping[str, Any] | None) -> str | None:
    """Why nothing may be moved, or None. A person's yes counts where the gate did not reject; a no always does."""
    if outcome == "reject":
        return "The gate said reject."
    if answer is not None:
        if answer["timed_out"]:
            return "A person was asked, and nobody answered in time."
        return None if answer["chosen"] == "approve" else f"{answer['by'] or 'A person'} said no."
    if outcome == "ask":
        return "The gate said ask, and no person has answered."
    return "approval=always, and no person has answered." if approval == "always" else None


def check_challenger(decision: Mapping[str, Any], model: Input) -> None:
    """The decision must be about these very bytes."""
    judged = decision["challenger"]["model_sha256"]
    if judged != model.sha256:
        raise InvalidInput(
            f"The gate judged model sha256:{judged}, but the model to promote is sha256:{model.sha256}. "
            "Give the model that was evaluated as the challenger, or evaluate this one."
        )


def expected_version(decision: Mapping[str, Any], registry: ModelRegistry, name: str, alias: str) -> str | None:
    """The version that the alias must still name when it is moved; None for a first promotion.

    A retry of a promotion that went through meets its own model under the alias; the registry then answers with that move.
    """
    current = registry.aliased(name, alias)
    if current is None:
        return None
    version, sha256 = current
    compared = decision["champion"]["model_sha256"]
    if sha256 not in (compared, decision["challenger"]["model_sha256"]):
        raise Conflict(
            f"The champion changed since the gate ran: it compared with sha256:{compared[:12]}, but {alias!r} of {name!r} names "
            f"version {version} (sha256:{sha256[:12]}) now. Run the gate again, against that version."
        )
    return version


def _outcome(facts: Mapping[str, Any], *, moved: bool, **more: Any) -> Outcome:
    return Outcome(outputs={}, metrics={"moved": float(moved)}, summary={"moved": moved, **facts, **more})


def _shown(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"
