"""What a run without data came to: which student was chosen and by what, the course of it, and what the images look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lfm_tasks.config import canonical_json
from lfm_tasks.distillation.data_free.learning import Learning, agreement
from lfm_tasks.models.images import ImageSpace
from lfm_tasks.registry import Card
from lfm_tasks.step import Input, Outcome, Output

COLUMNS = ("round", "loss", "agreement", "best_agreement", "teacher_queries")
SHOWN = 32
CRITERION = "agreement with the teacher on held-out synthetic images"


def write_report(
    learning: Learning, card: Card, space: ImageSpace, inputs: Mapping[str, Input], cost: Mapping[str, float], workdir: Path
) -> Outcome:
    """The outcome has the report alone as output yet. The artifact has no times in it: equal runs give equal bytes."""
    directory = workdir / "report"
    (directory / "figures").mkdir(parents=True)
    history = [dict(zip(COLUMNS, row, strict=True)) for row in learning.history]
    last = history[-1]
    learning.student.load_state_dict(learning.best)
    chosen = agreement(learning.student, learning.held_out)
    described = {
        "format": 1,
        "method": card.name,
        "access": list(card.access),
        "teacher_sha256": inputs["teacher"].sha256,
        "student_sha256": inputs["student"].sha256,
        "criterion": CRITERION,
        "held_out_images": len(learning.held_out),
        "selected": {"round": learning.selected, "agreement": chosen},
        "last": {"round": learning.round, "agreement": last["agreement"]},
        "rounds_planned": learning.options.rounds,
        "teacher_queries": learning.teacher.meter.asked,
        "checkpoint_rounds": list(learning.kept),
        "test_data": "none was opened; accuracy on labelled data is for the step 'evaluate' to measure",
    }
    (directory / "report.json").write_bytes(canonical_json(described | {"history": history}) + b"\n")
    images = directory / "figures" / "images.png"
    draw_images(space.visible(learning.pool.images[:SHOWN]), learning.pool.answers[:SHOWN].argmax(-1).tolist(), images)
    page = workdir / "report.md"
    page.write_text(render(described, cost))
    metrics = {
        "agreement": chosen,
        "last_agreement": last["agreement"],
        "selected_round": float(learning.selected),
        "rounds": float(learning.round),
        "teacher_queries": float(learning.teacher.meter.asked),
        **cost,
    }
    return Outcome({"report": Output("report", directory)}, metrics, described, (page, images))


def render(described: Mapping, cost: Mapping[str, float]) -> str:
    """``report.md``, which stands beside the run."""
    selected, last = described["selected"], described["last"]
    return "\n".join(
        [
            f"# Distilled without data by {described['method']}",
            "",
            f"Teacher `sha256:{described['teacher_sha256']}`, seen by its {', '.join(described['access'])}.",
            "",
            f"| student | round | {CRITERION} ({described['held_out_images']} images) |",
            "|---|---:|---:|",
            f"| **selected** (output *model*) | {selected['round']} | {selected['agreement']:.4f} |",
            f"| last (newest of *checkpoints*) | {last['round']} of {described['rounds_planned']} | {last['agreement']:.4f} |",
            "",
            "The choice never saw test data, so there is no *best seen* here: evaluate the checkpoints to know it.",
            "",
            f"Cost: {described['teacher_queries']:,} teacher queries, {cost['cpu_seconds']:.1f} CPU seconds, "
            f"{cost['peak_memory_bytes'] / 1e6:,.0f} MB at most.",
            "",
        ]
    )


def draw_images(images: torch.Tensor, classes: list[int], path: Path) -> None:
    """Images [n, c, h, w] from 0 to 1, each below the class that the teacher gives it."""
    columns = 8
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns, 1.2 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for one in axes:
        one.axis("off")
    for one, image, name in zip(axes, images, classes, strict=False):
        shown = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
        one.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
        one.set_title(str(name), fontsize=8)
    figure.savefig(path, metadata={"Software": None})
