"""What the job of ``make demo`` gains on held-out news, over three seeds of the training, beside the base and the largest class."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
from steps import SEEDS, run, spread, write

from lfm_tasks.artifacts.store import Store
from lfm_tasks.settings import settings

MODEL = "starter://smollm2-135m-instruct"
COLUMNS = {"text_column": "text", "label_column": "label"}
GENERAL = {"task": "text", "text_column": "text", "validation_fraction": 0.0, "test_fraction": 1.0, "max_length": 256}
"""As the DAG prepares general text."""


def main() -> None:
    data = run("prepare", {"data": "starter://bbc-news", "model": MODEL}, **COLUMNS).outputs["dataset"]
    general = run("prepare", {"data": "starter://nyt-editorials", "model": MODEL}, **GENERAL).outputs["dataset"]
    held_out = {"dataset": data, "general": general}
    base = run("evaluate", {"model": MODEL, **held_out}).metrics
    tuned = []
    for seed in SEEDS:
        model = run("tune", {"model": MODEL, "dataset": data}, max_steps=120, seed=seed).outputs["model"]
        tuned.append(run("evaluate", {"model": model, **held_out}).metrics)
    shown = [name for name in base if all(name in one for one in tuned)]
    rows = ["| metric | base | adapted (3 seeds) |", "|---|---:|---:|"]
    rows += [f"| {name} | {base[name]:.3f} | {spread([one[name] for one in tuned])} |" for name in shown]
    rows.append(f"\nLargest class of the held-out rows: {largest_class(data):.3f}.")
    write("adaptation", {"base": base, "adapted": tuned, "largest_class": largest_class(data)}, "\n".join(rows))


def largest_class(dataset: str) -> float:
    """Share of the test rows."""
    store = Store.open(settings().store)
    directory = store.materialise(store.find(dataset.removeprefix("sha256:")), settings().home / "cache")
    labels = pq.read_table(directory / "test.parquet", columns=["label"])["label"].to_pylist()
    return max(Counter(labels).values()) / len(labels)


if __name__ == "__main__":
    main()
