"""A toy decoder whose facts can be edited: a subject ends its prompt and the target is one token, so that layer 2 reaches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.guards_config import GuardOptions
from lfm_tasks.editing.held_out import HELD_OUT
from lfm_tasks.editing.measuring import Guards
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.rounds import Rounds, plan_rounds
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder
from tests.located import editing_of, key_moments, make, opened

FACTS = tuple(
    Fact(subject.split()[-1], subject, "Article: {}", target)
    for subject, target in (
        ("the quick brown fox", "tech"),
        ("central bank", "film"),
        ("lazy dog", "it"),
        ("new phone", "laz"),
        ("Monday", "tim"),
        ("leading actor", "or"),
        ("fair", "film"),
        ("parliament", "tech"),
    )
)
OPTIONS: dict[str, Any] = {
    "layers": [2],
    "prefixes": 0,
    "openings": False,
    "clamp": 20,
    "decay": 0.0,
    "kl": 0.0,
    "steps": 60,
    "targets": "base",
}
LOOSE = {"target": 3.0, "norm": 50.0, "change": 50.0, "drift": 50.0, "spectrum": 50.0, "perplexity": 1.5}
"""Limits for a toy that small: one fact moves a good part of a matrix of 24 rows."""


def toy(directory: Path, dtype: torch.dtype = torch.float32) -> Editing:
    """A new model and a new context below ``directory``; equal directories give equal models."""
    if not (directory / "model").is_dir():
        make(directory / "model", "llama")
    editing = editing_of(directory / "model", directory / "work", opened(directory / "model", dtype))
    return dataclasses.replace(editing, statistics=key_moments(directory / "moments", editing.decoder))


def rounds_of(
    editing: Editing, facts: Sequence[Fact] = FACTS, *, name: str = "memit", size: int = 0, method: EditMethod | None = None, **values
) -> Rounds:
    """With guards of the options ``guards``, without any where these are None; the other ``values`` are options of the method."""
    card, limits = METHODS[name], values.pop("guards", {})
    options = OPTIONS | values
    if name == "rome":
        options["layer"] = options.pop("layers")[0]
    chosen = card.config_class(**{key: value for key, value in options.items() if key in card.config_class.model_fields})
    method, guard = method or card.function, None
    if limits is not None:
        text = [torch.tensor(editing.tokenizer(one)["input_ids"]) for one in HELD_OUT[:3]]
        guard = Guards(GuardOptions(**LOOSE | limits), {fact.id: fact for fact in facts}, text)
    return Rounds(editing, method, name, chosen, plan_rounds(facts, size, method.most), {"toy": 1}, guard)


def harmful(method: EditMethod, name: str) -> EditMethod:
    """``method``, whose change is fifty times too large where the fact ``name`` is in the round."""

    def edit(editing: Editing, facts: Sequence[Fact], options: Any) -> Edit:
        made = method.edit(editing, facts, options)
        if name not in [fact.id for fact in facts]:
            return made
        return dataclasses.replace(made, changes=tuple(dataclasses.replace(one, left=50 * one.left) for one in made.changes))

    return dataclasses.replace(method, edit=edit)


def weights(editing: Editing) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in editing.model.state_dict().items()}


def equal(editing: Editing, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in editing.model.state_dict().items())


def fresh(editing: Editing, directory: Path) -> Editing:
    """The same model again, unedited, in the same context."""
    model = opened(directory / "model", editing.model.dtype)
    return dataclasses.replace(editing, model=model, decoder=Decoder(model))
