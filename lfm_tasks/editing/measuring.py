"""What the guards look at, measured on the model as a round left it. Many prompts share a padded pass; the base is asked once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lfm_tasks.editing.asking import Pair, answers, mean_nll
from lfm_tasks.editing.guards import Check, failed, judge_all, judge_facts, largest_singular_value, relative_norm
from lfm_tasks.editing.guards_config import GuardOptions
from lfm_tasks.editing.moments import KeyMoments
from lfm_tasks.editing.rounds import Finished, Verdict
from lfm_tasks.errors import DataError
from lfm_tasks.facts.edited import was_edited
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import LowRank
from lfm_tasks.seeds import derive_seed

Lost = dict[Pair, tuple[float, bool]]
"""Of a pair: mean nll of the answer, and whether it is said by itself."""


def moments_checks(moments: Sequence[KeyMoments], options: GuardOptions) -> list[Check]:
    """G1 of what is known before any fact, over the layers. Raises :class:`DataError` where one fails: no fact could be edited."""
    counts = [one.tokens / len(one.mean) for one in moments if one.tokens is not None]
    if not counts:
        return []
    finite = all(bool(one.mean.isfinite().all()) for one in moments)
    condition = max(one.condition for one in moments) if finite else math.nan
    checks = judge_all({"tokens": min(counts), "condition": condition}, options)
    if missed := failed(checks):
        raise DataError("The key moments cannot be used: " + " ".join(map(str, missed)))
    return checks


@dataclass
class Guards:
    """A :data:`~lfm_tasks.editing.rounds.Guard`."""

    options: GuardOptions
    known: Mapping[str, Fact]
    """Every fact of the edit and of the rounds before, by id."""
    text: Sequence[Tensor] = ()
    """Token ids of general text."""
    probe: Sequence[Fact] = ()
    """Facts whose ``target_true`` shall stay."""
    standing: Sequence[Check] = ()
    """Of the moments; they are told with every round."""
    _base: Lost = field(default_factory=dict)
    _base_nll: float | None = None
    _base_sigma: dict[str, float] = field(default_factory=dict)

    def __call__(self, finished: Finished) -> Verdict:
        """A round that already failed by its figures is not asked anything."""
        before = [*self.standing, *self.of_solve(finished), *self.of_change(finished)]
        if failed(before):
            return Verdict(before)
        asked, right = self.of_model(finished)
        return Verdict([*before, *asked], right)

    def of_solve(self, finished: Finished) -> list[Check]:
        """G1 and G2: what the method says of each fact."""
        facts, figures = finished.facts, finished.edit.facts
        found: dict[str, dict[str, float]] = {}
        for fact, one in zip(facts, figures or [{}] * len(facts), strict=True):
            for name, value in one.items():
                found.setdefault(name, {})[fact.id] = value
        conditions = [value for name, value in finished.edit.figures.items() if name.endswith("condition")]
        checks = judge_all({"condition": max(conditions)} if conditions else {}, self.options)
        median = statistics.median(found["strength"].values()) if "strength" in found else 0.0
        checks += judge_facts("key_cosine", found.get("key_cosine", {}), self.options)
        checks += judge_facts(
            "strength", {name: value / median for name, value in found.get("strength", {}).items() if median}, self.options
        )
        checks += judge_facts("target", found.get("nll", {}), self.options)
        return checks + judge_facts("norm", self._lengths(finished, found.get("length", {})), self.options)

    def of_change(self, finished: Finished) -> list[Check]:
        """G3, of the weight that is worst."""
        changes = finished.edit.changes
        finite = all(bool(one.left.isfinite().all() and one.right.isfinite().all()) for one in changes)
        if not finite or not changes:
            return judge_all({"finite": float(finite)}, self.options)
        weights = dict(finished.editing.model.named_parameters())
        every: dict[str, list[LowRank]] = {}
        for change in (change for one in finished.rounds for change in one.changes):
            every.setdefault(change.name, []).append(change)
        names = [change.name for change in changes]
        for name in names:
            self._base_sigma.setdefault(name, largest_singular_value(finished.base[name]))
        measured = {
            "finite": 1.0,
            "change": max(relative_norm([(one.left, one.right)], finished.base[one.name].cpu()) for one in changes),
            "drift": max(relative_norm([(one.left, one.right) for one in every[name]], finished.base[name].cpu()) for name in names),
            "spectrum": max(largest_singular_value(weights[name].detach()) / self._base_sigma[name] for name in names),
        }
        return judge_all(measured, self.options)

    def of_model(self, finished: Finished) -> tuple[list[Check], dict[str, bool]]:
        """G4, by two kinds of passes: one over all prompts, one over the text."""
        own = [(fact.text, fact.target_new) for fact in finished.facts]
        earlier = [(fact.text, fact.target_new) for fact in self.earlier(finished)]
        near = self.neighbours(finished)
        probe = [(fact.text, fact.target_true or "") for fact in self.probe if fact.id not in self._written(finished)]
        base = self._of_base(finished, [pair for two in near for pair in two] + probe)
        near = [(true, new) for true, new in near if base[true][0] < base[new][0]]
        probe = [pair for pair in probe if base[pair][1]]
        now = _asked(finished, [*own, *earlier, *(pair for two in near for pair in two), *probe])
        measured = {
            "efficacy": _share([now[pair][1] for pair in own]),
            "retention": _share([now[pair][1] for pair in earlier]),
            "locality": _share([now[true][0] < now[new][0] for true, new in near]),
            "neighbour_answers": _share([now[true][1] for true, _ in near if base[true][1]]),
            "perplexity": self._perplexity_ratio(finished),
            "probe": _share([now[pair][1] for pair in probe]),
        }
        right = {fact.id: now[pair][1] for fact, pair in zip(finished.facts, own, strict=True)}
        return judge_all({name: value for name, value in measured.items() if value is not None}, self.options), right

    def earlier(self, finished: Finished) -> list[Fact]:
        """A sample, keyed by round and fact, of those that were right when they were written and were not asked for anew since."""
        latest = set({self.known[name].text: name for one in finished.rounds for name in one.facts if name in self.known}.values())
        right = [
            name
            for one in finished.rounds[:-1]
            for name, figures in zip(one.facts, one.note["facts"], strict=False)
            if name in latest and figures.get("right", 1.0)
        ]
        seed, place = finished.editing.seed, len(finished.rounds)
        now = {fact.id for fact in finished.facts}
        drawn = sorted(set(right) - now, key=lambda name: derive_seed(seed, "retention", place, name))
        return [self.known[name] for name in drawn[: self.options.retention_sample]] if self._on("retention") else []

    def neighbours(self, finished: Finished) -> list[tuple[Pair, Pair]]:
        """(prompt, true answer), (prompt, new target) of a keyed sample of each fact's neighbours that were not edited."""
        edited = was_edited([self.known[name] for name in self._written(finished) if name in self.known])
        found = []
        for fact in finished.facts if self._on("locality") else ():
            kept = [probe for probe in fact.neighbours if not edited(probe, fact.relation) and fact.target_new not in probe.answers]
            kept.sort(key=lambda probe: derive_seed(finished.editing.seed, "neighbour", fact.id, probe.prompt))
            found += [((probe.prompt, probe.answers[0]), (probe.prompt, fact.target_new)) for probe in kept[: self.options.locality_sample]]
        return found

    def _on(self, name: str) -> bool:
        return self.options.level(name) != "off"

    def _written(self, finished: Finished) -> set[str]:
        return {name for one in finished.rounds for name in one.facts}

    def _lengths(self, finished: Finished, lengths: Mapping[str, float]) -> dict[str, float]:
        """In mean lengths of the values of the first round before its edit, so that growth over rounds is seen."""
        for one in finished.rounds:
            if clean := [figures["clean"] for figures in one.note["facts"] if "clean" in figures]:
                return {name: value / statistics.mean(clean) for name, value in lengths.items()}
        return {}

    def _perplexity_ratio(self, finished: Finished) -> float | None:
        if not self.text or not self._on("perplexity"):
            return None
        if self._base_nll is None:
            with finished.at_base():
                self._base_nll = mean_nll(finished.editing.model, self.text)
        return math.exp(min(700.0, mean_nll(finished.editing.model, self.text) - self._base_nll))

    def _of_base(self, finished: Finished, pairs: Sequence[Pair]) -> Lost:
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._base]:
            with finished.at_base():
                self._base |= _asked(finished, new)
        return self._base


def _asked(finished: Finished, pairs: Sequence[Pair]) -> Lost:
    if not pairs:
        return {}
    said = answers(finished.editing.model, finished.editing.tokenizer, pairs)
    return {pair: (float(nll), bool(free)) for pair, nll, free in zip(pairs, said.nll, said.free, strict=True)}


def _share(outcomes: Sequence[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None
