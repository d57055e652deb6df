"""The step *import_facts*: rows of published data sets, or facts typed in, to canonical facts. Equal input gives equal bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.manifest import MANIFEST
from lfm_tasks.errors import DataError
from lfm_tasks.facts.config import ImportFactsConfig
from lfm_tasks.facts.formats.detect import canonical_rows
from lfm_tasks.facts.reading import PROBLEMS_SHOWN, read_objects, refuse, sort_out, write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.step import Input, Outcome, Output, StepContext

SUFFIXES = (".json", ".jsonl")


def run(config: ImportFactsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Write ``facts.jsonl`` and ``facts.json`` (counts).

    Raises :class:`DataError` that lists every problem, unless problems are dropped; and where no fact is left.
    """
    rows: list[tuple[str, Any]] = [(f"fact {number}", row) for number, row in enumerate(config.facts, start=1)]
    if "data" in inputs:
        rows = [*_file_rows(inputs["data"].path), *rows]
    if not rows:
        raise DataError("No facts were given. Give a data set with facts, or type some in (facts).")
    found, problems = canonical_rows(rows, None if config.format == "auto" else config.format, config.zsre_target)
    facts, more = sort_out(found)
    problems += more
    if config.problems == "refuse":
        refuse(problems)
    if not facts:
        raise DataError("None of the facts can be used:\n" + "\n".join(problems[:PROBLEMS_SHOWN]))
    kept = facts[: config.max_facts or None]
    directory = context.workdir / "facts"
    write_facts(kept, directory)
    counts = _counts(len(rows), kept, problems)
    (directory / "facts.json").write_text(json.dumps(counts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for problem in problems[:PROBLEMS_SHOWN]:
        context.log(f"dropped: {problem}")
    metrics = {f"facts/{name}": float(counts[name]) for name in ("read", "kept", "dropped", "paraphrases", "neighbours", "locality")}
    return Outcome({"dataset": Output("dataset", directory)}, metrics, {"facts": counts["kept"], "dropped": counts["dropped"]})


def _file_rows(directory: Path) -> list[tuple[str, Any]]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.suffix.lower() in SUFFIXES]
    files = [path for path in files if path.name not in (MANIFEST, "source.json", "facts.json")]
    if not files:
        there = ", ".join(sorted(path.name for path in directory.rglob("*") if path.is_file())[:5]) or "nothing"
        raise DataError(f"The data set holds no {' or '.join(SUFFIXES)} file; it holds {there}. Give the data set's own JSON files.")
    return [row for path in files for row in read_objects(path)]


def _counts(read: int, facts: list[Fact], problems: list[str]) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    for fact in facts:
        kinds.update({kind: len(probes) for kind, probes in fact.portability.items()})
    return {
        "read": read,
        "kept": len(facts),
        "dropped": len(problems),
        "paraphrases": sum(len(fact.paraphrases) for fact in facts),
        "neighbours": sum(len(fact.neighbours) for fact in facts),
        "locality": sum(len(fact.locality) for fact in facts),
        "portability": dict(sorted(kinds.items())),
        "relations": dict(sorted(Counter(fact.relation for fact in facts).items())),
        "sources": dict(sorted(Counter(fact.source for fact in facts).items())),
    }
