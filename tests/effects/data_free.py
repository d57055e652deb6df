"""What students that saw no data know, over three seeds: beside new weights, noise as images, and distillation with real images.

Teachers: a small ResNet of Fashion-MNIST and one of scikit-learn's digits. A student is a narrower ResNet from new weights. What is
chosen is chosen on synthetic images; the best of the states along the run by test accuracy stands beside it as *best seen*, which
nobody without labelled data could have taken.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from steps import SEEDS, run, spread, write
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.store import Store
from lfm_tasks.distillation.data_free.config import DistillDataFreeConfig, SynthesisConfig
from lfm_tasks.distillation.data_free.distill import drawn_anew
from lfm_tasks.distillation.data_free.learning import Learning
from lfm_tasks.distillation.data_free.synthesis import Stateless
from lfm_tasks.distillation.data_free.teachers import QueryMeter, WhiteBox
from lfm_tasks.models.images import ImageSpace
from lfm_tasks.runner.imports import import_reference
from lfm_tasks.seeds import derive_seed
from lfm_tasks.settings import settings

COMMON = {
    "student_weights": "fresh",
    "learning_rate": 0.05,
    "temperature": 4.0,
    "batch_size": 64,
    "evaluate_every": 2,
    "keep_last": 5,
    "checkpoint_every": 0,
}
STEPS = 300
"""Of every student's learning."""
PIXELS = {"rounds": 6, "images": 96, "student_steps": 50, "iterations": 60}
GENERATED = {"rounds": 60, "images": 64, "student_steps": 5, "generator_steps": 3, "generator_rate": 2e-3, "width": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "deep_inversion": PIXELS,
    "cake": PIXELS,
    "dafl": GENERATED,
    "dfad": GENERATED,
    "cmi": PIXELS | {"images": 64, "generator_rate": 5e-3, "width": 8, "batch_norm": 10.0},
    "fast": {"rounds": 30, "images": 64, "student_steps": 10, "iterations": 6, "width": 16},
    "zeroth_order": GENERATED,
    "ideal": GENERATED | {"rounds": 30, "student_steps": 10, "generator_steps": 5},
}


@dataclass(frozen=True)
class Task:
    """Images are bytes [n, 1, size, size]."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    space: ImageSpace

    def images(self, count: int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(derive_seed(seed, purpose))
        rows = torch.randint(len(self.train[0]), (count,), generator=random)
        return self.space.pixel_values(self.train[0][rows]), self.train[1][rows]

    def accuracy(self, model: PreTrainedModel) -> float:
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(pixel_values=self.space.pixel_values(part)).logits.argmax(-1) for part in self.test[0].split(256)])
        return (found == self.test[1]).float().mean().item()


class Noise(Stateless):
    """Images that are no more than noise inside the domain."""

    def __init__(self, space: ImageSpace, images: int, seed: int) -> None:
        self.space, self.images, self.seed = space, images, seed

    def make(self, round: int) -> Tensor:
        random = torch.Generator().manual_seed(derive_seed(self.seed, "noise", round))
        return self.space.clip(torch.randn(self.images, self.space.channels, self.space.height, self.space.width, generator=random))


class Real(Stateless):
    """Images of the training set."""

    def __init__(self, task: Task, images: int, seed: int) -> None:
        self.task, self.images, self.seed = task, images, seed

    def make(self, round: int) -> Tensor:
        return self.task.images(self.images, self.seed, f"real {round}")[0]


class Alone:
    """A context that keeps no checkpoint."""

    class checkpoints:
        latest = staticmethod(lambda: None)

    def report(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None: ...

    def log(self, message: str) -> None: ...


def resnet(widths: list[int], seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ResNetConfig(
            num_channels=1, embedding_size=widths[0], hidden_sizes=widths, depths=[1] * len(widths), layer_type="basic", num_labels=10
        )
        return ResNetForImageClassification(config)


def fashion() -> Task:
    store = Store.open(settings().store)
    artifact = import_reference(parse_reference("starter://fashion-mnist"), "dataset", store, settings(), settings().home)
    rows = pq.read_table(store.materialise(artifact, settings().home / "cache") / "data.parquet")
    names = sorted(set(rows["label"].to_pylist()))

    def split(name: str, count: int) -> tuple[Tensor, Tensor]:
        part = rows.filter(np.array(rows["split"].to_pylist()) == name).slice(0, count)
        pixels = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in part["image"].to_pylist()]
        return torch.from_numpy(np.stack(pixels))[:, None], torch.tensor([names.index(one) for one in part["label"].to_pylist()])

    return Task("Fashion-MNIST", split("train", 12_000), split("test", 2_000), ImageSpace(1, 28, 28, (0.2860,), (0.3530,)))


def digits() -> Task:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy((found.images * 255 / 16).round().astype(np.uint8))[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3)
    labels, order = torch.from_numpy(found.target), torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held, rest = order[:500], order[500:]
    return Task("digits", (images[rest], labels[rest]), (images[held], labels[held]), ImageSpace(1, 16, 16, (0.3,), (0.38,)))


def train(task: Task, steps: int) -> PreTrainedModel:
    model = resnet([32, 64], seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for step in range(steps):
        images, classes = task.images(64, 0, f"teacher {step}")
        optimizer.zero_grad()
        functional.cross_entropy(model(pixel_values=images).logits, classes).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def written(model: PreTrainedModel, space: ImageSpace, directory: Path) -> str:
    model.save_pretrained(directory)
    size = {"height": space.height, "width": space.width}
    content = {"size": size, "image_mean": list(space.mean), "image_std": list(space.std), "rescale_factor": space.rescale}
    (directory / "preprocessor_config.json").write_text(json.dumps(content))
    return f"file://{directory}"


def alone(task: Task, teacher: PreTrainedModel, student: PreTrainedModel, seed: int, synthesiser: Callable[[int], Any]) -> dict[str, Any]:
    """The same learning on other images."""
    config = DistillDataFreeConfig(method="dafl", seed=seed, **COMMON)
    options, began = SynthesisConfig(rounds=STEPS // 10, images=96, student_steps=10, replay=1.0), time.process_time()
    fresh = drawn_anew(student, seed)
    learning = Learning(config, options, WhiteBox(teacher, QueryMeter()), fresh, synthesiser(options.images), Alone())
    learning.run()
    measured = {"agreement": learning.history[-1][3], "teacher_queries": learning.teacher.meter.asked}
    return measured | {"cpu_seconds": time.process_time() - began, **accuracies(task, fresh, learning.best, list(learning.kept.values()))}


def accuracies(task: Task, student: PreTrainedModel, best: Mapping[str, Tensor], kept: list[Mapping[str, Tensor]]) -> dict[str, float]:
    found = []
    for state in [best, *kept]:
        student.load_state_dict(state)
        found.append(task.accuracy(student))
    return {"selected": found[0], "last": found[-1], "best_seen": max(found)}


def by_step(task: Task, name: str, teacher: str, student: str, seed: int) -> dict[str, Any]:
    """The step as the platform runs it."""
    done = run("distill_data_free", {"teacher": teacher, "student": student}, method=name, seed=seed, **COMMON, **OPTIONS[name])
    store = Store.open(settings().store)

    def opened(output: str) -> PreTrainedModel:
        artifact = store.find(done.outputs[output].removeprefix("sha256:"))
        return ResNetForImageClassification.from_pretrained(store.materialise(artifact, settings().home / "cache"))

    names = ["model", *sorted(key for key in done.outputs if key.startswith("checkpoints."))]
    found = [task.accuracy(opened(output)) for output in names]
    measured = {key: done.metrics[key] for key in ("agreement", "teacher_queries", "cpu_seconds")}
    return measured | {"selected": found[0], "last": found[-1], "best_seen": max(found)}


COLUMNS = ("selected", "last", "best_seen", "agreement")


def main() -> None:
    """Arguments: a task, then methods; none: all of them. What was found before is kept."""
    home = settings().home.resolve()
    os.environ["LFM_ALLOWED_PREFIXES"] = f"file://{home}"
    settings.cache_clear()
    wanted, *methods = sys.argv[1:] or ["", *OPTIONS]
    for make, steps in ((digits, 400), (fashion, 800)):
        if not wanted or wanted == make.__name__:
            measure(make, steps, methods or list(OPTIONS), home / "effects")


def measure(make: Callable[[], Task], steps: int, methods: list[str], home: Path) -> None:
    task, name = make(), f"data_free_{make.__name__}"
    teacher, student = train(task, steps), resnet([16, 32], seed=100)
    references = written(teacher, task.space, home / task.name / "teacher"), written(student, task.space, home / task.name / "student")
    path = home / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {"teacher": task.accuracy(teacher), "steps": STEPS, "methods": {}}
    runs: dict[str, Callable[[int], dict[str, Any]]] = {
        "new weights": lambda seed: dict.fromkeys(COLUMNS[:3], task.accuracy(drawn_anew(student, seed))),
        "noise as images": lambda seed: alone(task, teacher, student, seed, lambda count: Noise(task.space, count, seed)),
        "real images": lambda seed: alone(task, teacher, student, seed, lambda count: Real(task, count, seed)),
    }
    runs |= {method: functools.partial(by_step, task, method, *references) for method in methods}
    for method, one in runs.items():
        if method not in found["methods"]:
            found["methods"][method] = [one(seed) for seed in SEEDS]
            print(task.name, method, found["methods"][method], flush=True)
            write(name, found, table(task.name, found))


def table(name: str, found: Mapping[str, Any]) -> str:
    """Accuracy on real test images; mean and standard deviation over the seeds."""
    lines = [
        f"{name}: teacher {found['teacher']:.3f}, students after {STEPS} steps.",
        "",
        "| images | selected | last | best seen | agreement | teacher queries | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, runs in found["methods"].items():
        values = [spread([one[key] for one in runs]) if key in runs[0] else "" for key in COLUMNS]
        cost = [f"{sum(one.get(key, 0) for one in runs) / len(runs):,.0f}" for key in ("teacher_queries", "cpu_seconds")]
        lines.append(f"| {method} | {' | '.join([*values, *cost])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
