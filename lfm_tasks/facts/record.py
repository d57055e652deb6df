"""The canonical record of a fact to be edited, whatever data set it came from. Light to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Change = Literal["replace", "erase"]


@dataclass(frozen=True)
class Probe:
    """A question beside the fact, and the answers that count as right."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """What a model shall say of a subject.

    ``prompt`` holds exactly one ``{}``, the subject's place; texts are as they are read, so a target has no space before it.
    """

    id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    change: Change = "replace"
    """erase: ``target_new`` says that nothing is known."""
    relation: str = ""
    paraphrases: tuple[str, ...] = ()
    """Whole prompts that ask for the same in other words."""
    neighbours: tuple[Probe, ...] = ()
    """The same relation of other subjects: their answers shall stay."""
    locality: tuple[Probe, ...] = ()
    """Anything else that shall stay."""
    portability: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    """What follows from the new fact, by the kind of reasoning: alias, one_hop, reversal, …"""
    generation_prompts: tuple[str, ...] = ()
    source: str = ""

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject, 1)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Characters of the subject in ``text``."""
        start = self.prompt.index("{}")
        return start, start + len(self.subject)

    def probes(self) -> Iterator[Probe]:
        yield from self.neighbours
        yield from self.locality
        for probes in self.portability.values():
            yield from probes


def subject_of(fact: Fact) -> str:
    """The subject as two facts about the same one share it."""
    return " ".join(fact.subject.casefold().split())
