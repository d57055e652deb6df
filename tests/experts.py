"""Toy classifiers of other classes on one base, and rows of each one's task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lfm_tasks.models.saving import save_model
from tests.toys import make_bert

TASKS = {"topics": ["business", "sport", "tech"], "moods": ["bad", "good"]}


def make_experts(root: Path) -> dict[str, Any]:
    """The Params ``models``, ``data`` and ``base`` of lfm_merge."""
    make_bert(root / "base")
    params = {"models": [], "data": [], "base": f"file://{root}/base"}
    for seed, (task, labels) in enumerate(TASKS.items(), start=1):
        model = make_bert(root / task / "toy", labels=labels, seed=seed)
        save_model(model, root / task / "toy", root / task / "model", labels=labels)
        rows = [
            {"text": f"number {i} about {labels[i % len(labels)]} of day {i * 7 % 31}", "label": labels[i % len(labels)]}
            for i in range(200)
        ]
        (root / f"{task}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        params["models"].append(f"file://{root}/{task}/model")
        params["data"].append(f"file://{root}/{task}.jsonl")
    return params
