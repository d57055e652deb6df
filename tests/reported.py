"""Evaluation reports as the step *evaluate* writes them, from a list of right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.config import canonical_json
from lfm_tasks.metrics.catalogue import metric_names
from lfm_tasks.metrics.samples import measure, sample_table, write_samples

LABELS = ["no", "yes"]
SETTINGS = {
    "split": "test",
    "max_samples": 0,
    "length_normalised": False,
    "max_new_tokens": 64,
    "calibration_bins": 10,
    "backend": "builtin",
}


NOT_GIVEN = {name: {"possible": True, "reason": "no general text was given"} for name in metric_names("general")}


def answers(correct: np.ndarray, group: str = "choice") -> pa.Table:
    """Samples of ``len(correct)`` answers, right where ``correct`` is 1, each with a confidence of 0.8."""
    n, truth = len(correct), np.arange(len(correct)) % 2
    predicted = np.where(correct == 1, truth, 1 - truth)
    return sample_table(
        group,
        {
            "sample_id": [f"{i:064x}" for i in range(n)],
            "prompt_sha256": [sha256_bytes(str(i).encode()) for i in range(n)],
            "target": [LABELS[code] for code in truth],
            "prediction": [LABELS[code] for code in predicted],
            "correct": correct.astype("int8"),
            "confidence": np.full(n, 0.8),
            "nll": np.ones(n),
            "tokens": np.ones(n, int),
            "probabilities": [[0.8, 0.2] if code == 0 else [0.2, 0.8] for code in predicted],
        },
    )


def description(model_sha256: str, dataset_sha256: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """What ``metrics.json`` of a report without general text says."""
    return {
        "format": 1,
        "model_sha256": model_sha256,
        "dataset_sha256": dataset_sha256,
        "general_sha256": None,
        "metrics": metrics,
        "labels": LABELS,
        "skipped": NOT_GIVEN,
        "untrained_head": False,
        "settings": SETTINGS,
    }


def write_report(directory: Path, model_sha256: str, dataset_sha256: str, correct: Sequence[int]) -> Path:
    """A report on ``len(correct)`` choices between two labels."""
    directory.mkdir(parents=True)
    samples = answers(np.asarray(correct))
    measured = measure(samples, "choice", LABELS, bins=10, level=0.95, resamples=200, seed=0)
    metrics = {
        name: {**vars(estimate), "unit": metric.unit, "higher_is_better": metric.higher_is_better}
        for name, (metric, estimate) in measured.items()
    }
    write_samples(samples, directory / "samples.parquet")
    (directory / "metrics.json").write_bytes(canonical_json(description(model_sha256, dataset_sha256, metrics)))
    return directory
