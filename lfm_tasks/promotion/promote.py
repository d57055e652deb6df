"""Step ``promote``: register the model that the gate let through and move the alias by compare-and-set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lfm_tasks.errors import Conflict, InvalidInput
from lfm_tasks.promotion.config import PromoteConfig
from lfm_tasks.step import Input, ModelRegistry, Outcome, StepContext

MAX_REASON = 4000


def run(config: PromoteConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Move ``config.alias`` to ``inputs["model"]`` if the decision says so; "reject" and "ask" move nothing and are no error.

    Raises :class:`InvalidInput` when the decision is about another model, and :class:`Conflict` when the champion is not the
    one that the gate compared with.
    """
    model, decision = inputs["model"], read_decision(inputs["decision"])
    if decision["outcome"] != "promote":
        reasons = [str(reason) for reason in decision["reasons"]]
        context.log(f"The gate said {decision['outcome']}: nothing is moved. {' '.join(reasons)}")
        return _outcome(config, decision, moved=False, reasons=reasons)
    check_challenger(decision, model)
    expected = expected_version(decision, context.registry, config.model_name, config.alias)
    if config.dry_run:
        context.log(f"Dry run: {config.alias!r} of {config.model_name} would move from {_shown(expected)} to sha256:{model.sha256[:12]}.")
        return _outcome(config, decision, moved=False, dry_run=True, previous=expected)
    why = " ".join([config.reason, *map(str, decision["reasons"])]).strip()[:MAX_REASON]
    move = context.registry.promote(config.model_name, config.alias, model, expected, why, inputs["decision"].sha256)
    context.log(
        f"{config.alias!r} of {move.name} moved from {_shown(move.previous)} to version {move.version} (ledger entry {move.entry})."
    )
    return _outcome(config, decision, moved=True, **asdict(move))


def read_decision(decision: Input) -> dict[str, Any]:
    """The gate's decision, checked for the parts that a promotion rests on."""
    path = decision.path / "decision.json"
    if not path.is_file():
        raise InvalidInput(f"{decision.reference} holds no decision.json. Give the output 'decision' of a gate step.")
    found = json.loads(path.read_text())
    missing = {"outcome", "reasons", "challenger", "champion"} - found.keys()
    if missing or found["outcome"] not in ("promote", "reject", "ask"):
        raise InvalidInput(f"decision.json of {decision.reference} is no decision of a gate step (format 1). Run the gate again.")
    return found


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


def _outcome(config: PromoteConfig, decision: Mapping[str, Any], *, moved: bool, **facts: Any) -> Outcome:
    summary = {"moved": moved, "outcome": decision["outcome"], "model_name": config.model_name, "alias": config.alias, **facts}
    return Outcome(outputs={}, metrics={"moved": float(moved)}, summary=summary)


def _shown(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"
