"""Evaluation reports as the step *evaluate* writes them, from a list of right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def write_report(directory: Path, model_sha256: str, dataset_sha256: str, correct: Sequence[int]) -> Path:
    """A report on ``len(correct)`` choices between two labels."""
    directory.mkdir(parents=True)
    right = np.asarray(correct)
    n, truth = len(right), np.arange(len(right)) % 2
    predicted = np.where(right == 1, truth, 1 - truth)
    samples = sample_table(
        "choice",
        {
            "sample_id": [f"{i:064x}" for i in range(n)],
            "prompt_sha256": [sha256_bytes(str(i).encode()) for i in range(n)],
            "target": [LABELS[code] for code in truth],
            "prediction": [LABELS[code] for code in predicted],
            "correct": right.astype("int8"),
            "confidence": np.full(n, 0.8),
            "nll": np.ones(n),
            "tokens": np.ones(n, int),
            "probabilities": [[0.8, 0.2] if code == 0 else [0.2, 0.8] for code in predicted],
        },
    )
    measured = measure(samples, "choice", LABELS, bins=10, level=0.95, resamples=200, seed=0)
    described = {
        "format": 1,
        "model_sha256": model_sha256,
        "dataset_sha256": dataset_sha256,
        "general_sha256": None,
        "metrics": {
            name: {**vars(estimate), "unit": metric.unit, "higher_is_better": metric.higher_is_better}
            for name, (metric, estimate) in measured.items()
        },
        "labels": LABELS,
        "skipped": {name: {"possible": True, "reason": "no general text was given"} for name in metric_names("general")},
        "untrained_head": False,
        "settings": SETTINGS,
    }
    write_samples(samples, directory / "samples.parquet")
    (directory / "metrics.json").write_bytes(canonical_json(described))
    return directory
