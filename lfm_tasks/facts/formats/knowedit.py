"""KnowEdit (Zhang et al. 2024, arXiv 2401.01286): WikiRecent, ZsRE, WikiBio, WikiCounterfact and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lfm_tasks.facts.formats.prompts import with_place

KINDS = {"Subject_Aliasing": "alias", "Reasoning": "reasoning", "Logical_Generalization": "logical"}


def knowedit(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of many old answers the first is ``target_true``; every list of answers counts with all its spellings."""
    subject = row["subject"] if "subject" in row else row["concept"]
    targets = _flat(row["target_new"] if "target_new" in row else row["labels"])
    new, old = targets[0], [one for one in _flat(row.get("ground_truth")) if one not in targets]
    rephrased = row.get("rephrase_prompt") or row.get("rephrase")
    yield {
        "subject": subject,
        "prompt": with_place(row["prompt"] if "prompt" in row else row["text"], subject),
        "target_new": new,
        "target_true": old[0] if old else None,
        "paraphrases": _flat(rephrased),
        "locality": [probe for probes in (row.get("locality") or {}).values() for probe in _probes(probes)],
        "portability": {
            KINDS.get(name, name.lower()): _probes(probes) for name, probes in (row.get("portability") or {}).items() if probes
        },
        "source": "knowedit",
    }


def _probes(probes: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    made = [{"prompt": probe["prompt"], "answers": _flat(probe["ground_truth"])} for probe in probes]
    return [probe for probe in made if probe["answers"]]


def _flat(value: Any) -> list[str]:
    """The texts of a text, a list, or a list of lists, that are not empty."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value.strip() else []
    return [text for one in value for text in _flat(one)]
