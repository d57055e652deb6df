"""Step ``rollback``: move an alias back to a version that the ledger knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.errors import IntegrityError, InvalidInput
from lfm_tasks.promotion.config import RollbackConfig
from lfm_tasks.step import Input, Outcome, StepContext


def run(config: RollbackConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """The evidence of the move is the ledger's entry that it returns to.

    Raises :class:`InvalidInput` unless the model is given as a version, :class:`ReferenceRefused` for a version that the ledger
    does not know, :class:`IntegrityError` for one that is another model than the ledger says, and :class:`Conflict` when somebody
    moves the alias at the same time.
    """
    model, alias = inputs["model"], config.alias
    name, version = version_of(model)
    entry = context.registry.known_move(name, alias, version)
    if model.sha256 != entry.address:
        raise IntegrityError(
            f"Version {version} of {name} is sha256:{model.sha256} now; the ledger's entry {entry.entry} had put sha256:{entry.address} "
            "there. Nothing is moved: `lfm ledger` checks the ledger, MLflow shows who changed the version."
        )
    current = context.registry.aliased(name, alias)
    named = None if current is None else current[0]
    facts = {"model_name": name, "alias": alias, "version": version, "previous": named, "returns_to": entry.entry}
    if named == version:
        context.log(f"{alias!r} of {name} names version {version} already; nothing is moved.")
        return Outcome(outputs={}, metrics={"moved": 0.0}, summary={"moved": False, **facts})
    shown = "no version" if named is None else f"version {named}"
    if config.dry_run:
        context.log(
            f"Dry run: {alias!r} of {name} would move from {shown} to version {version} (sha256:{entry.address[:12]}), which the ledger's "
            f"entry {entry.entry} had put there. Set dry_run=false to move it."
        )
        return Outcome(outputs={}, metrics={"moved": 0.0}, summary={"moved": False, "dry_run": True, **facts})
    move = context.registry.rollback(name, alias, entry, named, config.reason)
    context.log(f"{alias!r} of {name} moved from {shown} back to version {move.version} (ledger entry {move.entry}).")
    return Outcome(outputs={}, metrics={"moved": 1.0}, summary={"moved": True, **facts, **asdict(move)})


def version_of(model: Input) -> tuple[str, str]:
    """(registered name, version) of a ``models:/NAME/VERSION`` reference."""
    reference = parse_reference(model.reference) if model.reference.startswith("models:/") else None
    if reference is None or model.version is None:
        raise InvalidInput(f"A rollback goes to a version of a registered model, models:/NAME/VERSION; {model.reference} is none.")
    return reference.name, model.version
