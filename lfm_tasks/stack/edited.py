"""What edits came to, told from the records and reports of runs of ``lfm_edit``: a line for each method and way. Light to import."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import METHODS
from lfm_tasks.stack.summary import Record

METRICS = {
    "success": "efficacy.teacher_forced/success",
    "paraphrase": "paraphrase.teacher_forced/success",
    "neighbourhood": "neighbourhood.teacher_forced/success",
    "says it": "efficacy.free_running/prefix_match",
    "perplexity": "general/perplexity",
}
"""Columns and their metrics: the first three teacher-forced, *says it* what the model writes by itself."""
UNEDITED = "unedited"


@dataclass(frozen=True)
class Edited:
    method: str
    way: str
    facts: int
    metrics: dict[str, float]
    by_age: list[float] = field(default_factory=list)
    """Share of the facts that the model says at the end, by how many rounds were written after theirs: the last round's first."""
    cpu_seconds: float | None = None
    peak_memory_bytes: float | None = None

    @property
    def name(self) -> str:
        return self.method if self.method == UNEDITED else f"{METHODS[self.method].title}, {self.way}"

    @property
    def retention(self) -> float | None:
        """Mean of the rounds before the last, where there was more than one."""
        return statistics.mean(self.by_age[1:]) if len(self.by_age) > 1 else None


def unedited(store: Store, records: Mapping[str, Record]) -> Edited:
    metrics, facts = measured(store, records["evaluate_base"])
    return Edited(UNEDITED, "", len(facts), metrics)


def edited(store: Store, records: Mapping[str, Record], method: str, way: str, round_size: int) -> Edited:
    """:param round_size: facts of a round; 0: all of them."""
    metrics, facts = measured(store, records["evaluate_challenger"])
    made = records["edit"]["metrics"]
    ages = by_age(facts, round_size or len(facts))
    return Edited(method, way, len(facts), metrics, ages, made["cpu_seconds"], made["peak_memory_bytes"])


def measured(store: Store, record: Record) -> tuple[dict[str, float], list[bool]]:
    """The figures of :data:`METRICS`, and whether the model says each fact, in the facts' order."""
    import pyarrow.parquet as pq

    place = f"artifacts/report/{record['outputs']['report']['sha256']}"
    every = json.loads(store.backend.get_bytes(f"{place}/metrics.json"))["metrics"]
    facts = pq.read_table(io.BytesIO(store.backend.get_bytes(f"{place}/facts.parquet")), columns=["prefix_match"])
    return {short: every[name]["value"] for short, name in METRICS.items() if name in every}, facts["prefix_match"].to_pylist()


def by_age(said: Sequence[bool], round_size: int) -> list[float]:
    """Of facts in the order in which they were written, the share that is said, round by round from the last to the first."""
    rounds = [said[start : start + round_size] for start in range(0, len(said), round_size)]
    return [statistics.mean(map(float, one)) for one in reversed(rounds)]


def one_line_each(lines: Sequence[Edited]) -> list[Edited]:
    """The lines, those of one method and way made one: means of what was measured, sums of facts and CPU."""
    groups: dict[tuple[str, str], list[Edited]] = {}
    for line in lines:
        groups.setdefault((line.method, line.way), []).append(line)
    return [some[0] if len(some) == 1 else _mean(some) for some in groups.values()]


def _mean(some: Sequence[Edited]) -> Edited:
    names = [name for name in METRICS if all(name in one.metrics for one in some)]
    return replace(
        some[0],
        facts=sum(one.facts for one in some),
        metrics={name: statistics.mean(one.metrics[name] for one in some) for name in names},
        by_age=[],
        cpu_seconds=sum(one.cpu_seconds or 0 for one in some),
        peak_memory_bytes=max(one.peak_memory_bytes or 0 for one in some),
    )


def table(lines: Sequence[Edited]) -> Table:
    """As they come: the unedited model first."""
    shown = Table(title="Facts written, facts kept", title_justify="left")
    shown.add_column("model")
    for name in ("facts", *METRICS, "retention", "CPU", "memory"):
        shown.add_column(name, justify="right")
    for line in lines:
        figures = [_shown(name, line.metrics.get(name)) for name in METRICS] + [_shown("retention", line.retention)]
        cpu, memory = line.cpu_seconds, line.peak_memory_bytes
        cost = ["" if cpu is None else f"{cpu:.1f} s", "" if memory is None else f"{memory / 2**20:,.0f} MB"]
        shown.add_row(line.name, str(line.facts), *figures, *cost)
    return shown


def _shown(name: str, value: Any) -> str:
    return "" if value is None else format(value, ".1f" if name == "perplexity" else ".0%")
