"""What a step of training an editor is about: some facts to edit together, how they are asked for, and what shall stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lfm_tasks.editing.memory.elsewhere import PLAIN
from lfm_tasks.errors import DataError
from lfm_tasks.facts.edited import was_edited
from lfm_tasks.facts.record import Fact, subject_of
from lfm_tasks.seeds import derive_seed

Pair = tuple[str, str]
"""Prompt and answer."""
LONGEST = 32
"""Tokens of a row of general text."""


@dataclass(frozen=True)
class Episode:
    facts: tuple[Fact, ...]
    """With the targets that they are taught."""
    asked: tuple[Pair, ...]
    """The facts in their own and in other words."""
    near: tuple[Pair, ...]
    """What shall stay, with what is said there now."""
    text: str | Tensor
    """A text, or its token ids, on which all shall stay."""


@dataclass(frozen=True)
class Split:
    train: tuple[Fact, ...]
    held_out: tuple[Fact, ...]


def split(facts: Sequence[Fact], edited: Sequence[Fact], share: float, seed: int) -> Split:
    """By subject: whatever is held out, or will be edited (``edited``), is not trained on in any relation.

    Raises :class:`DataError` where fewer than two subjects are left.
    """
    taken = {subject_of(fact) for fact in edited}
    left = [fact for fact in facts if subject_of(fact) not in taken]
    subjects = sorted({subject_of(fact) for fact in left}, key=lambda subject: derive_seed(seed, "held out", subject))
    if len(subjects) < 2:
        raise DataError(
            f"{len(facts):,} facts are of {len(subjects)} subjects beside the {len(taken):,} that will be edited; an editor is trained on "
            "two at the least, one of which is held out. Give more training facts."
        )
    out = set(subjects[: min(len(subjects) - 1, max(1, round(share * len(subjects))))])
    return Split(tuple(fact for fact in left if subject_of(fact) not in out), tuple(fact for fact in left if subject_of(fact) in out))


def drawn(facts: Sequence[Fact], most: int, step: int, seed: int, targets: str, texts: Sequence[Tensor]) -> Episode:
    """Step ``step``'s: one to ``most`` facts of different subjects."""
    dice = random.Random(derive_seed(seed, "episode", step))
    subjects: dict[str, list[Fact]] = {}
    for fact in facts:
        subjects.setdefault(subject_of(fact), []).append(fact)
    chosen = dice.sample(sorted(subjects), min(len(subjects), dice.randint(1, most)))
    picked = [dice.choice(subjects[subject]) for subject in chosen]
    if targets == "drawn":
        picked = [retargeted(fact, facts, dice) for fact in picked]
    return _episode(picked, dice, texts)


def groups(facts: Sequence[Fact], most: int, seed: int, texts: Sequence[Tensor]) -> list[Episode]:
    """All of ``facts`` with their own targets, ``most`` together, always the same questions."""
    ordered = sorted(facts, key=lambda fact: derive_seed(seed, "group", fact.id))
    starts = range(0, len(ordered), most)
    return [_episode(ordered[start : start + most], random.Random(derive_seed(seed, "look", start)), texts) for start in starts]


def retargeted(fact: Fact, facts: Sequence[Fact], dice: random.Random) -> Fact:
    """With another target of its relation; its own where there is no other."""
    answers = {one.target_new for one in facts if one.relation == fact.relation} - {fact.target_true}
    return replace(fact, target_new=dice.choice(sorted(answers))) if fact.relation and answers else fact


def _episode(facts: Sequence[Fact], dice: random.Random, texts: Sequence[Tensor]) -> Episode:
    edited = was_edited(facts)
    asked: list[Pair] = []
    near: list[Pair] = []
    for fact in facts:
        asked.append((fact.text, fact.target_new))
        if fact.paraphrases:
            asked.append((dice.choice(fact.paraphrases), fact.target_new))
        if kept := [probe for probe in (*fact.neighbours, *fact.locality) if not edited(probe, fact.relation)]:
            probe = dice.choice(kept)
            near.append((probe.prompt, dice.choice(probe.answers)))
    return Episode(tuple(facts), tuple(asked), tuple(near), dice.choice(texts or PLAIN))
