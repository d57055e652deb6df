"""The step *revise_edits*: edits without some facts, or an earlier version of them. Nothing is subtracted and nothing is searched for.

Two ways. *Kept*: the first rounds stay as they are, so that weights = base + their changes, bit for bit. *Solved anew*: the rounds from the
first that held a forgotten fact on are solved again, from what was found for each of their facts; keys and what is there already are
measured by short passes. That is exactly the chain that would have been run without the fact where no later round's values depend on it:
those of its own round were found before any of it was written, and later ones do not with ``targets`` base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import parse_config
from lfm_tasks.editing.config import ReviseEditsConfig
from lfm_tasks.editing.edit import base_of, edited_facts, open_editing, save_edited
from lfm_tasks.editing.files import read_caches, read_state
from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.rounds import Rounds
from lfm_tasks.errors import ConfigError, IncompatibleModels, unknown_name
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import Round, read_edits
from lfm_tasks.models.opening import read_adapter
from lfm_tasks.step import Input, Outcome, StepContext


@dataclass(frozen=True)
class Chain:
    """What an edit's directory holds."""

    rounds: Sequence[Round]
    caches: Sequence[Mapping[str, Tensor]]
    state: Mapping[str, Tensor]
    facts: Mapping[str, Fact]
    method: str


def run(config: ReviseEditsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    source = inputs["adapter"]
    base, chain = base_of(source), read_chain(source.path)
    kept = first_round_of(chain, config.forget) if config.forget else config.keep_rounds
    kept = kept if kept >= 0 else len(chain.rounds)
    if kept > len(chain.rounds):
        raise ConfigError(f"keep_rounds={kept}: {source.reference} has {len(chain.rounds)} rounds. Name at most as many.")
    way: dict[str, Any] = {"way": "kept", "exact": True, "because": "the first rounds are unchanged"}
    rounds, caches, state, facts = list(chain.rounds[:kept]), list(chain.caches[:kept]), state_after(chain, kept), dict(chain.facts)
    if config.forget:
        solved = solve_without(chain, config.forget, kept, open_editing({**inputs, "model": base}, context, 0))
        rounds, caches, state = [*rounds, *solved.new], solved.caches, solved.state
        way = {"way": "solved anew", **exactness(chain, config.forget)}
    output = save_edited(context.workdir / "adapter", rounds, caches, state, facts, chain.method, base)
    summary = {"rounds": len(rounds), "rounds_kept": kept, "facts": sum(len(one.facts) for one in rounds), "forgotten": config.forget} | way
    context.log(f"{summary['rounds']} rounds, {kept} of them as they were; {way['way']}: {way['because']}.")
    figures = {name: float(summary[name]) for name in ("rounds", "rounds_kept", "facts", "exact")}
    return Outcome({"adapter": output}, figures | {"facts_forgotten": float(len(config.forget))}, summary)


def read_chain(directory: Path) -> Chain:
    rounds = read_edits(directory)
    method = read_adapter(directory)["method"]
    return Chain(rounds, read_caches(directory, len(rounds)), read_state(directory), edited_facts(directory), method)


def first_round_of(chain: Chain, forget: Sequence[str]) -> int:
    """Of the rounds that hold one of ``forget``. Raises :class:`ConfigError` for a fact that none holds."""
    known = [name for one in chain.rounds for name in one.facts]
    for name in forget:
        if name not in known:
            raise ConfigError(unknown_name("fact", name, known))
    return next(place for place, one in enumerate(chain.rounds) if set(forget) & set(one.facts))


def state_after(chain: Chain, rounds: int) -> dict[str, Tensor]:
    """What the method had handed on after so many rounds: of each tensor the columns that it had then."""
    if rounds == len(chain.rounds) or not rounds:
        return dict(chain.state) if rounds else {}
    last = next(one for one in reversed(chain.rounds[:rounds]) if "state" in one.note)
    if not METHODS[last.note["method"]].function.resolvable:
        raise IncompatibleModels(
            f"{last.note['method']} hands on a state that cannot be cut off behind a round. Apply the rounds wanted to the base again."
        )
    return {name: chain.state[name][tuple(slice(size) for size in shape)].clone() for name, shape in last.note["state"].items()}


def solve_without(chain: Chain, forget: Sequence[str], kept: int, editing: Editing) -> Rounds:
    """The rounds from ``kept`` on without the facts, in the model of ``editing``, the base. A round that held nothing else is left out.

    Raises :class:`IncompatibleModels` where what was found for a fact was not kept, or the rounds were made by several methods.
    """
    plan: list[list[Fact]] = []
    given: list[dict[str, Tensor]] = []
    for one, cache in zip(chain.rounds[kept:], chain.caches[kept:], strict=True):
        stay = [place for place, name in enumerate(one.facts) if name not in forget]
        if stay:
            plan.append([chain.facts[one.facts[place]] for place in stay])
            given.append({name: tensor[stay] for name, tensor in cache.items()})
    notes = [one.note for one in chain.rounds[kept:]]
    method = METHODS[notes[0]["method"]]
    if any(note["method"] != method.name or note.get("options") != notes[0]["options"] for note in notes):
        raise IncompatibleModels(
            "The rounds behind the fact were made by several methods or options. Keep the rounds before it, and edit again."
        )
    if not method.function.resolvable or not all(given):
        raise IncompatibleModels(
            f"{method.name} keeps nothing to solve a round again from. Keep the rounds before the fact, and edit again."
        )
    rounds = Rounds(
        editing=replace(editing, seed=notes[0]["seed"]),
        method=method.function,
        name=method.name,
        options=parse_config(method.config_class, notes[0]["options"]),
        plan=plan,
        identity={"forget": sorted(forget), "facts": [list(one.facts) for one in chain.rounds]},
        known=chain.facts,
        before=chain.rounds[:kept],
        caches=list(chain.caches[:kept]),
        given=given,
        state=state_after(chain, kept),
    )
    rounds.run()
    return rounds


def exactness(chain: Chain, forget: Sequence[str]) -> dict[str, Any]:
    """Whether the chain is the one that would have been run without the facts, and why."""
    first = first_round_of(chain, forget)
    later = [one for one in chain.rounds[first + 1 :] if set(one.facts) - set(forget)]
    if not later:
        return {"exact": True, "because": "no values were found after the facts had been written"}
    if all(one.note["options"].get("targets") == "base" for one in later):
        return {"exact": True, "because": "all values were found on the base"}
    return {
        "exact": False,
        "because": f"the values of {len(later)} later rounds were found on a model that held the facts (targets=current); they were kept",
    }
