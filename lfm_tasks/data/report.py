"""What a person wants to know of a prepared data set: how many rows of what, how long, what was left out, how they look."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lfm_tasks.data.splits import GRAM, Counts
from lfm_tasks.markdown import escape

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
SAMPLES = 5
SHOWN_LABELS = 50


def statistics(tables: dict[str, pa.Table], labels: list[str]) -> dict[str, dict[str, Any]]:
    """Per split: rows, tokens, quantiles of the length in tokens, rows of each label."""
    found = {}
    for name, table in tables.items():
        lengths = lengths_of(table)
        found[name] = {"rows": table.num_rows, "tokens": int(lengths.sum())}
        if table.num_rows:
            found[name]["length_quantiles"] = [float(q) for q in np.quantile(lengths, QUANTILES)]
        if labels:
            counted = Counter(table["label"].to_pylist())
            found[name]["labels"] = {label: counted.get(index, 0) for index, label in enumerate(labels)}
    return found


def lengths_of(table: pa.Table) -> np.ndarray:
    return table["input_ids"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)


def markdown(description: dict[str, Any], tables: dict[str, pa.Table], compared: int, warnings: list[str]) -> str:
    counts: dict[str, Any] = description["counts"]
    parts = [
        "# Prepared data",
        f"Task **{description['task']}**, at most {description['max_length']} tokens an example, "
        f"tokenizer `{description['tokenizer_sha256'][:12]}…` with {description['vocabulary']:,} tokens.",
        *[f"**Note.** {escape(warning)}" for warning in warnings],
        "## Rows",
        _table(["", "rows"], [[meaning, f"{counts[name]:,}"] for name, meaning in _MEANING.items()]),
        f"Near-duplicates: held-out rows that share {GRAM} words in a row with one of {compared:,} training rows.",
        "## Splits",
        _splits(counts["splits"]),
    ]
    if description["labels"]:
        parts += ["## Labels", _labels(counts["splits"], description["labels"])]
    parts += ["## Sample", _sample(next((table for table in tables.values() if table.num_rows), None))]
    return "\n\n".join(parts) + "\n"


_MEANING = {
    "read": "read",
    "kept": "kept",
    "duplicates": "left out: equal to another row, case and white space aside",
    "empty": "left out: a mapped column is blank",
    "leaked": "left out: the text is also in a later split",
    "capped": "left out: over the cap of the split",
    "truncated": "kept, text cut to fit",
    "conflicting": "inputs that come with more than one output",
    "near_duplicates": "near-duplicates between train and the held-out splits",
}


def _splits(splits: dict[str, dict[str, Any]]) -> str:
    header = ["split", "rows", "tokens", *(f"length {_name(q)}" for q in QUANTILES)]
    rows = []
    for name, entry in splits.items():
        lengths = [f"{value:.0f}" for value in entry.get("length_quantiles", [])] or [""] * len(QUANTILES)
        rows.append([name, f"{entry['rows']:,}", f"{entry['tokens']:,}", *lengths])
    return _table(header, rows)


def _name(quantile: float) -> str:
    return {0.0: "min", 0.5: "median", 1.0: "max"}.get(quantile, f"{quantile:.0%}")


def _labels(splits: dict[str, dict[str, Any]], labels: list[str]) -> str:
    rows = [[label, *(f"{entry['labels'][label]:,}" for entry in splits.values())] for label in labels[:SHOWN_LABELS]]
    more = f"\n\n… and {len(labels) - SHOWN_LABELS:,} more labels." if len(labels) > SHOWN_LABELS else ""
    return _table(["label", *splits], rows) + more


def _sample(table: pa.Table | None) -> str:
    if table is None:
        return "No rows."
    columns = [name for name in ("prompt", "completion", "text", "label") if name in table.column_names]
    rows = table.select(columns).slice(0, SAMPLES).to_pylist()
    return _table(columns, [[_shorten(str(row[name])) for name in columns] for row in rows])


def _shorten(text: str, limit: int = 240) -> str:
    """Both ends of a long text: a prompt is told by its end."""
    return text if len(text) <= limit else f"{text[: limit - 60]} … {text[-57:]}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *[[escape(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def length_histogram(tables: dict[str, pa.Table], max_length: int, path: Path) -> Path:
    """Histogram of the lengths in tokens, a line per split, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max_length, min(max_length, 48) + 1)
    for name, table in tables.items():
        if table.num_rows:
            axes.hist(lengths_of(table), bins=bins, density=True, histtype="step", linewidth=1.5, label=f"{name} ({table.num_rows:,})")
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of rows")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def metrics(counts: Counts) -> dict[str, float]:
    names = ("read", "kept", "duplicates", "empty", "leaked", "capped", "truncated", "conflicting", "near_duplicates")
    found = {f"rows/{name}": float(getattr(counts, name)) for name in names}
    for split, entry in counts.splits.items():
        found |= {f"rows/{split}": float(entry["rows"]), f"tokens/{split}": float(entry["tokens"])}
    return found
