"""Which questions ask for a fact that was itself edited. Light to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lfm_tasks.facts.reading import mentions
from lfm_tasks.facts.record import Fact, Probe


def was_edited(facts: Sequence[Fact]) -> Callable[[Probe, str], bool]:
    """``edited(probe, relation)``: whether the probe asks for one of ``facts``, in their own words or for the same relation."""
    prompts = {prompt for fact in facts for prompt in (fact.text, *fact.paraphrases)}
    subjects: dict[str, list[str]] = {}
    for fact in facts:
        subjects.setdefault(fact.relation, []).append(fact.subject)

    def edited(probe: Probe, relation: str) -> bool:
        named = subjects.get(relation, []) if relation else []
        return probe.prompt in prompts or any(mentions(subject, probe.prompt) for subject in named)

    return edited
