"""An edit by a hyper-network that was trained for the model: the gradient's factors, what it makes of them, a change of each matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_tasks.editing.gradients import Factors, gradient_factors
from lfm_tasks.editing.hyper.artifact import editor_for
from lfm_tasks.editing.hyper.config import HyperOptions
from lfm_tasks.editing.hyper.network import Editor
from lfm_tasks.editing.likelihood import fact_batch
from lfm_tasks.editing.method import Edit, Editing
from lfm_tasks.editing.tuned.finetune import edited, full_rank
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder, Site
from lfm_tasks.models.edits import LowRank

AT_ONCE = 32
"""Facts of one pass."""


@dataclass(frozen=True)
class HyperMethod:
    """What tells MEND and MALMEN apart."""

    name: str
    """Of the way in which its editor is trained."""
    rows: Callable[[Editor, int, Factors], tuple[Tensor, Tensor]]
    """``(editor, at, factors) -> `` [tokens, out], [tokens, in]: what is kept of each token."""
    solve: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """``(rows, rows, ridge) -> `` [out, rank], [in, rank]: factors of the change."""
    learn: Callable[[Editor, int, Factors, Tensor], None]
    """``(editor, at, factors, G)``: add to the editor's gradients, for the gradient G [out, in] of a loss by the change."""


@dataclass(frozen=True)
class Gathered:
    """Of one matrix the tokens of some facts on which the loss depends: those whose gradient is not zero."""

    factors: Factors
    fact: Tensor
    """[tokens]: whose each is."""


def gathered(editing: Editing, facts: Sequence[Fact], sites: Sequence[Site]) -> dict[str, Gathered]:
    """By the weight's name; on the model as it is. A zero gradient is none to a network, so such tokens, padding too, are left out."""
    found: dict[str, list[Gathered]] = {site.name: [] for site in sites}
    for start in range(0, len(facts), AT_ONCE):
        batch = fact_batch(editing.tokenizer, facts[start : start + AT_ONCE]).to(editing.model.device)
        fact = torch.arange(len(batch.last), device=batch.last.device).repeat_interleave(batch.input_ids.shape[1])
        for name, factors in gradient_factors(editing.model, batch, sites).items():
            there = factors.grads.any(1)
            found[name].append(Gathered(factors.of(there), fact[there] + start))
    return {name: _joined(parts) for name, parts in found.items()}


def matrices(decoder: Decoder) -> dict[str, Site]:
    """Every matrix of every MLP, by its weight's name."""
    return {one.name: one for layer in range(len(decoder.layers)) for one in decoder.matrices(layer)}


def changes(editor: Editor, method: HyperMethod, found: dict[str, Gathered]) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of the change of each matrix, in the editor's order, without gradients."""
    with torch.no_grad():
        return {
            one.name: method.solve(*_in_parts(editor, method, at, found[one.name].factors), float(editor.ridge(at)))
            for at, one in enumerate(editor.matrices)
        }


def hyper_edit(method: HyperMethod) -> Callable[[Editing, Sequence[Fact], HyperOptions], Edit]:
    def edit(editing: Editing, facts: Sequence[Fact], options: HyperOptions) -> Edit:
        """The cache holds what the network made of each fact's tokens, [facts, tokens, width], with rows of zeros at the end: a round is
        solved again without a fact, with neither network nor gradients.

        Raises :class:`~lfm_tasks.errors.ConfigError` without an editor, and
        :class:`~lfm_tasks.errors.IncompatibleModels` for one of another kind.
        """
        cache = dict(editing.cache) or _found(editing, facts, method, options)
        places, made = matrices(editing.decoder), []
        for name in [key.removesuffix("/ridge") for key in cache if key.endswith("/ridge")]:
            left, right = (cache[f"{name}/{part}"].flatten(0, 1) for part in ("out", "in"))
            kept = left.any(1)
            made.append(_compact(places[name], *method.solve(left[kept], right[kept], float(cache[f"{name}/ridge"][0]))))
        batch = fact_batch(editing.tokenizer, facts).to(editing.model.device)
        done = edited(editing, batch, made, {"tokens": float(sum(cache[f"{made[0].name}/out"].any(2).sum(1)))})
        return Edit(done.changes, {}, done.facts, done.figures, cache)

    return edit


def _found(editing: Editing, facts: Sequence[Fact], method: HyperMethod, options: HyperOptions) -> dict[str, Tensor]:
    editor, places = editor_for(editing, method.name), matrices(editing.decoder)
    found = gathered(editing, facts, [places[one.name] for one in editor.matrices])
    cache: dict[str, Tensor] = {}
    for at, one in enumerate(editor.matrices):
        with torch.no_grad():
            left, right = _in_parts(editor, method, at, found[one.name].factors)
        fact = found[one.name].fact
        cache[f"{one.name}/out"] = _by_fact(options.strength * left, fact, len(facts)).cpu()
        cache[f"{one.name}/in"] = _by_fact(right, fact, len(facts)).cpu()
        cache[f"{one.name}/ridge"] = editor.ridge(at).expand(len(facts)).clone().cpu()
    return cache


def _compact(site: Site, left: Tensor, right: Tensor) -> LowRank:
    """With as few columns as hold the change."""
    if left.shape[1] >= min(site.matrix.shape):
        return full_rank(site, left @ right.T)
    return LowRank(site.name, left.contiguous(), right.contiguous(), site.transposed)


def _in_parts(editor: Editor, method: HyperMethod, at: int, factors: Factors) -> tuple[Tensor, Tensor]:
    parts = [method.rows(editor, at, part) for part in factors.parts()]
    return torch.cat([left for left, _ in parts]), torch.cat([right for _, right in parts])


def _by_fact(rows: Tensor, fact: Tensor, facts: int) -> Tensor:
    """[tokens, width] to [facts, most tokens of one, width]"""
    counts = torch.bincount(fact, minlength=facts)
    place = torch.arange(len(fact), device=fact.device) - (counts.cumsum(0) - counts)[fact]
    padded = rows.new_zeros(facts, int(counts.max()), rows.shape[1])
    padded[fact, place] = rows
    return padded


def _joined(parts: Sequence[Gathered]) -> Gathered:
    names = ("keys", "grads", "outputs")
    factors = Factors(*(torch.cat([getattr(one.factors, name) for one in parts]) for name in names))
    return Gathered(factors, torch.cat([one.fact for one in parts]))
