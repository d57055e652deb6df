"""RippleEdits (Cohen et al. 2023, arXiv 2307.12976): what else changes, and what must not, when one fact does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lfm_tasks.errors import DataError
from lfm_tasks.facts.formats.prompts import with_place

PORTABILITY = {
    "Logical_Generalization": "logical",
    "Compositionality_I": "one_hop",
    "Compositionality_II": "two_hop",
    "Subject_Aliasing": "alias",
}
LOCALITY = ("Relation_Specificity", "Relation_Specifity", "Forgetfulness")
VERBS = (" is ", " are ")


def rippleedits(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The edit is a sentence, ``The name of the … of SUBJECT is TARGET.``; its subject and target are named by ids only, so they are read
    out of it (or from the keys ``subject`` and ``target`` of the edit, where somebody looked them up)."""
    edit = row["edit"]
    stem, new = _sentence(edit["prompt"])
    before = edit.get("previous_fact") or edit.get("original_fact")
    true = _sentence(before["prompt"])[1] if before else None
    subject = edit.get("subject") or stem.rpartition(" of ")[2].rpartition(" ")[0]
    if not subject:
        raise DataError(f"the edit {edit['prompt']!r} names no subject after 'of'. Add the key 'subject' to it.")
    yield {
        "subject": subject,
        "prompt": with_place(stem, subject),
        "target_new": edit.get("target") or new,
        "target_true": true if true != new else None,
        "relation": edit.get("relation", ""),
        "locality": [probe for name in LOCALITY for probe in _probes(row.get(name) or [])],
        "portability": {kind: probes for name, kind in PORTABILITY.items() if (probes := _probes(row.get(name) or []))},
        "source": f"rippleedits ({row.get('example_type', 'edit')})",
    }


def _sentence(text: str) -> tuple[str, str]:
    """What stands before the target, verb included, and the target."""
    verb = max(VERBS, key=text.rfind)
    start, _, target = text.rpartition(verb)
    if not start:
        raise DataError(f"the edit {text!r} is no sentence '… is TARGET.'. Add it as a canonical fact.")
    return start + verb.rstrip(), target.strip().removesuffix(".")


def _probes(tests: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    asked = [query for test in tests for query in test["test_queries"]]
    answers = [[text for one in query["answers"] for text in (one["value"], *one.get("aliases", [])) if text.strip()] for query in asked]
    return [{"prompt": query["prompt"], "answers": given} for query, given in zip(asked, answers, strict=True) if given]
