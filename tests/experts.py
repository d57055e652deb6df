"""Toy classifiers of other classes on one base, and rows of each one's task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfm_tasks.models.opening import open_classifier
from lfm_tasks.models.saving import save_model
from lfm_tasks.step import Input
from tests.prepared import identity, write_labelled, write_prepared
from tests.toys import make_bert
from tests.tuned import model_input

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


def train_experts(root: Path, seed: int = 0, steps: int = 60) -> dict[str, Input]:
    """Inputs of the step merge: a bare base, and for each of ``TASKS`` a tuning of all of it, with rows that tell the class.

    One of a row's tokens is its class's own; a class's token means nothing in the other task.
    """
    make_bert(root / "base", seed=seed)
    inputs = {"base": model_input(root / "base")}
    for place, (task, labels) in enumerate(TASKS.items()):
        rows = _rows_with_marks(10 + 5 * place, len(labels), seed)
        inputs[f"datasets.{place}"] = Input(f"{task} rows", "dataset", f"{place + 5}" * 64, root / task / "rows")
        write_prepared(root / task / "rows", root / "base", "classification", rows, labels=labels)
        model = open_classifier(inputs["base"], labels, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        ids, targets = torch.tensor([row["input_ids"] for row in rows]), torch.tensor([row["label"] for row in rows])
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(input_ids=ids).logits, targets).backward()
            optimizer.step()
        save_model(model, root / "base", root / task / "model", labels=labels)
        inputs[f"models.{place}"] = model_input(root / task / "model")
    return inputs


def _rows_with_marks(first: int, classes: int, seed: int) -> list[dict[str, Any]]:
    random, rows = np.random.default_rng([seed, first]), []
    for index in range(48):
        ids = random.integers(20, 300, 6).tolist()
        ids[int(random.integers(6))] = first + index % classes
        rows.append({"sample_id": identity(f"{seed} {first} {index}"), "input_ids": ids, "text": "", "label": index % classes})
    return rows


def expert_inputs(root: Path, counts: tuple[int, int] = (24, 24)) -> dict[str, Input]:
    """The inputs ``base``, ``models.N`` and ``datasets.N`` of a merge that learns: the experts, and so many rows of each one's task."""
    make_experts(root)
    found = {"base": Input("base", "model", "0" * 64, root / "base")}
    for place, ((task, labels), count) in enumerate(zip(TASKS.items(), counts, strict=True)):
        found[f"models.{place}"] = Input(task, "model", f"{place + 1}" * 64, root / task / "model")
        rows = write_labelled(root / task / "rows", root / "base", count=count, labels=labels)
        found[f"datasets.{place}"] = Input(f"{task} rows", "dataset", f"{place + 5}" * 64, rows)
    return found
