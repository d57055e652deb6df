"""Step ``rollback``: move an alias back to a version that the ledger knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from lfm_tasks.promotion.config import RollbackConfig
from lfm_tasks.step import Input, Outcome, StepContext


def run(config: RollbackConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """The evidence of the move is the ledger's entry that it returns to.

    Raises :class:`ReferenceRefused` for a version that the ledger does not know, and :class:`Conflict` when somebody moves the
    alias at the same time.
    """
    name, alias, version = config.model_name, config.alias, str(config.version)
    entry = context.registry.known_move(name, alias, version)
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
