"""Smaller students of tuned teachers, by several methods, beside the same cut trained on labels alone for as many steps; three seeds.

*classifiers*: MiniLM of 6 layers, tuned on a task, teaches 3 of its layers; accuracy on the test split, and how much faster the student is.
*decoder*: SmolLM2 of 30 layers teaches 10 of them on BBC articles; perplexity of the test split. A seed orders rows and, of the
classifiers, makes the teacher. ``python tests/effects/distillation.py decoder --seeds 0 --steps 10`` is a small one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from editing import directory
from merging import BASE, EVALUATE, PREPARE, TASKS, TUNE
from steps import SEEDS, run, spread, write

from lfm_tasks.models.forward import padded
from lfm_tasks.models.opening import open_model
from lfm_tasks.promotion.students.speed import time_in_turn
from lfm_tasks.step import Input

DECODER, TEXTS = "starter://smollm2-135m-instruct", "starter://bbc-news"
CLASSIFIER_TASKS = ("topics", "tweets")
LABELS = "labels alone"
CLASSIFIER_METHODS: dict[str, dict[str, Any]] = {
    LABELS: {"alpha": 0.0},
    "forward_kl, T 2": {"method": "forward_kl", "alpha": 0.9, "temperature": 2.0},
    "dist": {"method": "dist", "alpha": 0.9, "temperature": 1.0},
    "minilm_v2": {"method": "minilm_v2", "alpha": 0.9},
}
DECODER_METHODS: dict[str, dict[str, Any]] = {
    LABELS: {"alpha": 0.0},
    "forward_kl": {"method": "forward_kl", "alpha": 0.5, "temperature": 1.0},
    "skew_kl": {"method": "skew_kl", "alpha": 0.5, "temperature": 1.0},
}
ROWS_TIMED, ROUNDS = 32, 5


def main() -> None:
    kinds: dict[str, Callable[[int, int], dict[str, dict[str, float]]]] = {"classifiers": classifiers, "decoder": decoder}
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", choices=[*kinds, []], default=list(kinds))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=0, help="of a student; 0: 200 of a classifier, 40 of the decoder")
    options = parser.parse_args()
    for name in options.kinds:
        found = [kinds[name](seed, options.steps) for seed in options.seeds]
        write(f"distillation-{name}", {"seeds": dict(zip(options.seeds, found, strict=True))}, table(found))


def classifiers(seed: int, steps: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for task in CLASSIFIER_TASKS:
        data = run("prepare", {"data": f"starter://{TASKS[task]}", "model": BASE}, **PREPARE).outputs["dataset"]
        teacher = run("tune", {"model": BASE, "dataset": data}, **TUNE, seed=seed).outputs["model"]
        student = run("cut_student", {"teacher": teacher}, depth=3).outputs["model"]

        def accuracy(model: str, data: str = data) -> float:
            return run("evaluate", {"model": model, "dataset": data}, **EVALUATE).metrics["classification/accuracy"]

        found.setdefault("teacher", {})[task] = best = accuracy(teacher)
        found.setdefault("student, as cut", {})[task] = accuracy(student)
        speed = times_as_fast(teacher, student, data)
        values = {name: TUNE[name] for name in ("learning_rate", "batch_size", "warmup_ratio")} | {"max_steps": steps or TUNE["max_steps"]}
        for name, method in CLASSIFIER_METHODS.items():
            given = {"student": student, "teachers": [teacher], "dataset": data}
            made = run("distill", given, **values, **method, seed=seed).outputs["model"]
            row = found.setdefault(name, {})
            row[task] = accuracy(made)
            row |= {f"{task}, retained": row[task] / best, f"{task}, times as fast": speed}
            print(f"seed {seed}, {task}, {name}: {row[task]:.3f} of {best:.3f}, {speed:.2f} times as fast", flush=True)
    return found


def decoder(seed: int, steps: int) -> dict[str, dict[str, float]]:
    fixed = {"task": "text", "validation_fraction": 0.05, "test_fraction": 0.1, "max_length": 128, "max_eval_samples": 60}
    data = run("prepare", {"data": TEXTS, "model": DECODER}, **fixed).outputs["dataset"]
    student = run("cut_student", {"teacher": DECODER}, depth=10).outputs["model"]
    found: dict[str, dict[str, float]] = {}

    def perplexity(model: str) -> float:
        metrics = run("evaluate", {"model": model, "dataset": data}, tasks=["perplexity"]).metrics
        return next(value for name, value in metrics.items() if name.endswith("/perplexity"))

    if seed == 0:
        speed = times_as_fast(DECODER, student, data)
        print(f"the student is {speed:.2f} times as fast", flush=True)
    found["teacher"] = {"perplexity": perplexity(DECODER)}
    found["student, as cut"] = {"perplexity": perplexity(student)}
    values = {"max_steps": steps or 40, "batch_size": 8, "learning_rate": 3e-4, "warmup_ratio": 0.1, "seed": seed}
    for name, method in DECODER_METHODS.items():
        made = run("distill", {"student": student, "teachers": [DECODER], "dataset": data}, **values, **method)
        found[name] = {"perplexity": perplexity(made.outputs["model"]), "cpu_seconds": made.metrics["cpu_seconds"]}
        print(f"seed {seed}, decoder, {name}: {found[name]}", flush=True)
    return found


def times_as_fast(teacher: str, student: str, data: str) -> float:
    """CPU-seconds of the teacher over the student's, for the first rows of the test split, one at a time."""
    models = [open_model(Input("timed", "model", "", artifact(one))) for one in (teacher, student)]
    ids = pq.read_table(directory(data, "dataset") / "test.parquet")["input_ids"].to_pylist()[:ROWS_TIMED]
    batches = [padded([np.array(one)], 0) for one in ids]
    timings = time_in_turn(models, batches, ROUNDS, clock=time.process_time)
    return timings[0].median / timings[1].median


def artifact(model: str):
    """The directory of a model, imported where it is a starter."""
    if model.startswith("starter://"):
        model = run("cut_student", {"teacher": model}, layers=list(range(30))).outputs["model"]
    return directory(model, "model")


def table(found: list[dict[str, dict[str, float]]]) -> str:
    columns = list(dict.fromkeys(column for row in found[0].values() for column in row))
    rows = [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name in found[0]:
        shown = [spread([one[name][column] for one in found]) if column in found[0][name] else "" for column in columns]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
