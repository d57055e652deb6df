"""What is asked about edited facts: one question for each prompt, with the answers that tell right from wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lfm_tasks.facts.edited import was_edited
from lfm_tasks.facts.record import Fact, Probe


@dataclass(frozen=True)
class Question:
    """``answers`` count as right, the first of them against ``wrong`` under teacher forcing."""

    aspect: str
    """efficacy, paraphrase, neighbourhood, locality, portability.<kind>, retention"""
    fact: str
    """Id of the fact."""
    place: int
    """Among the fact's questions of the aspect."""
    prompt: str
    answers: tuple[str, ...]
    wrong: str | None = None

    @property
    def sample_id(self) -> str:
        return f"{self.fact}/{self.aspect}/{self.place}"


def questions(facts: Sequence[Fact], earlier: Sequence[Fact] = ()) -> tuple[list[Question], int]:
    """All questions about ``facts``, and about ``earlier`` ones whether they are still there; and how many neighbours were left out.

    A neighbour is left out where it was itself edited, or where the new target is its true answer.
    """
    asked: list[Question] = []
    left_out = 0
    edited = was_edited([*facts, *earlier])
    for fact in facts:
        asked.append(Question("efficacy", fact.id, 0, fact.text, (fact.target_new,), fact.target_true))
        asked += [
            Question("paraphrase", fact.id, place, prompt, (fact.target_new,), fact.target_true)
            for place, prompt in enumerate(fact.paraphrases)
        ]
        kept = [probe for probe in fact.neighbours if not edited(probe, fact.relation) and fact.target_new not in probe.answers]
        left_out += len(fact.neighbours) - len(kept)
        asked += _of("neighbourhood", fact, kept, wrong=fact.target_new)
        asked += _of("locality", fact, [probe for probe in fact.locality if not edited(probe, "")])
        for kind, probes in sorted(fact.portability.items()):
            asked += _of(f"portability.{kind}", fact, probes)
    now = {fact.id for fact in facts}
    asked += [Question("retention", fact.id, 0, fact.text, (fact.target_new,), fact.target_true) for fact in earlier if fact.id not in now]
    return asked, left_out


def _of(aspect: str, fact: Fact, probes: Sequence[Probe], wrong: str | None = None) -> Iterator[Question]:
    for place, probe in enumerate(probes):
        yield Question(aspect, fact.id, place, probe.prompt, probe.answers, wrong)
