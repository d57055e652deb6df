"""Locate and edit: contexts, keys, targets, a solve at each layer. One way for ROME, MEMIT, EMMET, PMET and AlphaEdit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lfm_tasks.editing import solvers
from lfm_tasks.editing.contexts import fixed_contexts, mean_weights, sampled_contexts
from lfm_tasks.editing.filters import rect
from lfm_tasks.editing.keys import Climb, opening_rows, subject_rows
from lfm_tasks.editing.method import Edit, Editing
from lfm_tasks.editing.methods.config import BatchOptions, LocatedOptions, RomeOptions
from lfm_tasks.editing.moments import Isotropic, KeyMoments, moments_of
from lfm_tasks.editing.targets import Targets, find_targets
from lfm_tasks.editing.writing import restored
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder, Site
from lfm_tasks.models.edits import LowRank

LENGTH = "reference_length"
"""In the state: mean length of the clean values of the first round."""
DEPTH = 0.14
"""Of an early layer, as a share of the model's."""
LAYERS = 5
"""That a batch is written over."""


@dataclass(frozen=True)
class Recipe:
    """What tells the methods apart."""

    place: Literal["mlp", "residual", "attention_and_mlp"]
    """What is shifted at the last edited layer: the output of its MLP, of the whole layer, or of attention and MLP each."""
    directions: Callable[[KeyMoments, Tensor, Any], Tensor]
    """``(moments, K, options) -> F`` [d_k, n]"""
    divisor: Callable[[int], float] = float
    """Of the residual at a layer, by how many layers are left with it."""
    projects: bool = False
    """F = P K for a projector P."""
    keys: Literal["contexts", "prompt"] = "contexts"
    measured: Literal["bare", "mean"] = "bare"
    """Output that the value, which was found for the bare prompt, is compared with: that there, or the mean over the key's contexts."""


def layers_of(decoder: Decoder, given: Sequence[int], count: int) -> list[Site]:
    """The sites of ``given``; of none ``count`` around an early layer."""
    middle = max(1, round(DEPTH * (len(decoder.layers) - 1)))
    around = range(middle - count // 2, middle + count // 2 + 1)
    return [decoder.site(layer) for layer in sorted(given) or [layer for layer in around if 0 <= layer < len(decoder.layers)]]


def edited_sites(decoder: Decoder, options: LocatedOptions) -> list[Site]:
    """Those that an edit with ``options`` changes, rising."""
    if isinstance(options, RomeOptions):
        return layers_of(decoder, [options.layer] if options.layer >= 0 else [], 1)
    return layers_of(decoder, options.layers, LAYERS)


def contexts_of(editing: Editing, options: BatchOptions) -> tuple[str, ...]:
    if options.contexts == "fixed":
        return fixed_contexts(options.prefixes)
    return sampled_contexts(editing.model, editing.tokenizer, options.prefixes, options.prefix_tokens, editing.seed)


def locate_and_edit(editing: Editing, facts: Sequence[Fact], sites: Sequence[Site], options: BatchOptions, recipe: Recipe) -> Edit:
    """All targets on the model as it is; then layer by layer, each with the keys that the layers edited before it give."""
    contexts, last = contexts_of(editing, options), sites[-1].layer
    moments = [_moments(editing, site, options) for site in sites]
    modules = shifted_modules(editing.decoder, last, recipe)
    targets = _targets(editing, facts, contexts, last, modules, options)
    wanted, length = anchored(targets, editing.state.get(LENGTH) if options.anchor else None)
    climb = Climb(subject_rows(editing, facts, contexts if recipe.keys == "contexts" else contexts[:1]), editing)
    openings = Climb(opening_rows(editing, facts), editing) if options.openings else None
    state: dict[str, Tensor] = {LENGTH: length} if options.anchor else {}
    changes, measured = [], []
    with restored(editing.model, [site.name for site in sites]):
        for place, (site, known) in enumerate(zip(sites, moments, strict=True)):
            written = _Layer(editing, site, known, climb, openings, options, recipe)
            change = written.solve(modules[-1], wanted.double(), recipe.divisor(len(sites) - place))
            changes.append(change)
            state |= written.state
            measured.append(written)
            with torch.no_grad():
                site.module.weight += change.stored.to(site.module.weight)
    cache = {field.name: getattr(targets, field.name) for field in fields(Targets)}
    return Edit(tuple(changes), state, _of_facts(targets, wanted, measured), _of_round(measured), cache)


def _targets(
    editing: Editing, facts: Sequence[Fact], contexts: Sequence[str], layer: int, modules: Sequence[nn.Module], options: BatchOptions
) -> Targets:
    """Those of the cache, or found on the model as it is, or on the base."""
    if editing.cache:
        return Targets(**editing.cache)
    with editing.at_base() if options.targets == "base" else nullcontext():
        return find_targets(editing, facts, contexts, layer, modules, options)


def shifted_modules(decoder: Decoder, layer: int, recipe: Recipe) -> list[nn.Module]:
    """The last is the one whose output is written."""
    site = decoder.site(layer)
    if recipe.place == "residual":
        return [decoder.layers[layer]]
    return [decoder.attention(layer), site.module] if recipe.place == "attention_and_mlp" else [site.module]


def anchored(targets: Targets, length: Tensor | None) -> tuple[Tensor, Tensor]:
    """v* [facts, d], and the mean length of v0; with a ``length`` of an earlier round v* gets it (arXiv 2602.02543)."""
    if length is None:
        return targets.value, targets.clean.norm(dim=1).mean()
    return targets.value * (length / targets.value.norm(dim=1, keepdim=True)), length


class _Layer:
    """One layer's solve."""

    def __init__(
        self,
        editing: Editing,
        site: Site,
        moments: KeyMoments,
        climb: Climb,
        openings: Climb | None,
        options: BatchOptions,
        recipe: Recipe,
    ) -> None:
        self.editing, self.site, self.moments, self.options, self.recipe = editing, site, moments, options, recipe
        self.climb, self.openings = climb, openings
        self.state: dict[str, Tensor] = {}

    def solve(self, module: nn.Module, wanted: Tensor, divisor: float) -> LowRank:
        """``wanted`` [facts, d] of ``module``, whose part this layer writes."""
        contextual, given = self.climb.states([self.site.module], [module], following=self.site.layer)
        weights = mean_weights(self.climb.rows.contexts, self.options.averaging)
        fact, mix, self.cosine = solvers.columns(contextual.double(), weights, self.options.two_keys)
        keys = solvers.mixed(contextual.double(), fact, mix)
        now = given[:, 0].double()[fact].T if self.recipe.measured == "bare" else solvers.mixed(given.double(), fact, mix)
        residuals = (wanted[fact].T - now) / divisor
        if self.openings:
            fact, keys, residuals = self._with_openings(self.openings, fact, keys, residuals)
        directions = self.recipe.directions(self.moments, keys, self.options)
        self.strengths = torch.zeros(len(wanted), dtype=torch.float64)
        self.strengths.scatter_reduce_(0, fact, solvers.strengths(keys, directions), "amax")
        self.ridge = self.options.ridge or self.options.ridge_share * float(self.strengths.median())
        self.solution = solvers.solve(residuals, keys, directions, self.ridge, self._earlier(keys))
        self.energy = solvers.kept_energy(keys, directions)
        change = LowRank(self.site.name, self.solution.left.float(), self.solution.right.float(), self.site.transposed)
        change = self._filtered(change) if self.options.filter == "rect" else change
        self.relative = float(change.stored.norm() / self.site.matrix.norm())
        return change

    def _with_openings(self, openings: Climb, fact: Tensor, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With a column for each fact whose subject has another key where it opens a text: moved there as at the fact's first column."""
        opening = openings.states([self.site.module], following=self.site.layer)[0][:, 0].double().T
        more = solvers.unlike(keys, fact, opening)
        first = torch.searchsorted(fact, more)
        return torch.cat([fact, more]), torch.cat([keys, opening[:, more]], 1), torch.cat([residuals, residuals[:, first]], 1)

    def _earlier(self, keys: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys of earlier rounds and their directions; those of this round are handed on with them."""
        name = f"keys.{self.site.layer}"
        if not self.options.remember:
            return None
        before = self.editing.state.get(name)
        self.state[name] = keys.float() if before is None else torch.cat([before, keys.float()], 1)
        if before is None:
            return None
        return before.double(), self.recipe.directions(self.moments, before.double(), self.options)

    def _filtered(self, change: LowRank) -> LowRank:
        """By RECT; a sparse change has full rank, so that the identity is its other factor."""
        kept = rect(change.left @ change.right.T, self.site.matrix.detach().cpu(), self.options.keep)
        return LowRank(change.name, torch.eye(len(kept)), kept.T.contiguous(), change.transposed)


def _moments(editing: Editing, site: Site, options: BatchOptions) -> KeyMoments:
    if options.covariance == "identity":
        return Isotropic(site.matrix.shape[1])
    found = moments_of(editing, site)
    if found.few:
        editing.context.log(
            f"Layer {site.layer}: {found.tokens:,} keys of width {len(found.mean):,}; ten times as many as that are better."
        )
    return found


def _of_facts(targets: Targets, wanted: Tensor, measured: Sequence[_Layer]) -> tuple[Mapping[str, float], ...]:
    last = measured[-1]
    figures = {
        "nll": targets.nll,
        "steps": targets.steps,
        "shift": (wanted - targets.clean).norm(dim=1),
        "clean": targets.clean.norm(dim=1),
        "length": wanted.norm(dim=1),
        "key_cosine": last.cosine,
        "strength": last.strengths,
    }
    return tuple({name: float(values[place]) for name, values in figures.items()} for place in range(len(wanted)))


def _of_round(measured: Sequence[_Layer]) -> dict[str, float]:
    figures = {}
    for one in measured:
        values = {
            "condition": one.solution.condition,
            "ridge": one.ridge,
            "strength": float(one.strengths.median()),
            "relative_change": one.relative,
        } | ({"kept_energy": one.energy} if one.recipe.projects else {})
        figures |= {f"layer_{one.site.layer}/{name}": value for name, value in values.items()}
    return figures
