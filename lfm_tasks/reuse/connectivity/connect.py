"""The step *connect*: are two models in one basin? The loss on the straight way between them, and on a trained curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.forward import batches, forward, stream
from lfm_tasks.models.opening import check_vocabulary, open_model
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.models.resuming import State, below, kept, report, under
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.reuse.connectivity.config import ConnectConfig
from lfm_tasks.reuse.connectivity.figure import draw
from lfm_tasks.reuse.connectivity.path import Path, Point, barrier, bezier, line, measure, normalisations, train_bezier, weights_of
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of

Batch = dict[str, Tensor]
CURVES = ("line", "bezier")


def run(config: ConnectConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    sources = all_of(inputs, "models")
    if len(sources) != 2:
        raise ConfigError(f"models: a path has two ends; {len(sources)} models were given. Give exactly two.")
    held_out = read_rows(inputs["dataset"].path, "validation", config.samples)
    model, a, b = _ends(sources, held_out)
    pad = model.config.pad_token_id or 0
    rows = _train_rows(config, inputs["dataset"], bool(normalisations(model)))
    measured_on = list(batches(held_out, config.batch_size, pad))
    train = list(batches(rows, config.batch_size, pad, config.samples)) if rows else []
    places = [place / (config.points - 1) for place in range(config.points)]
    walk = Walk(context, config.points * (2 if config.bezier_steps else 1) + config.bezier_steps)

    def measured(name: str, path: Path) -> None:
        for point in measure(model, path, places[len(walk.points[name]) :], losses_of, measured_on, train):
            walk.measured(name, point)

    measured("line", line(a, b))
    if config.bezier_steps:
        samples = stream(rows, config.batch_size, pad, config.seed, "bezier")
        middle = train_bezier(
            model,
            a,
            b,
            losses_of,
            samples,
            config.bezier_steps,
            config.learning_rate,
            config.seed,
            walk.trained,
            walk.curve(),
        )
        measured("bezier", bezier(a, middle, b))
    curves = {name: points for name, points in walk.points.items() if points}
    return _write(curves, sources, held_out, bool(normalisations(model)), context)


class Walk:
    """What is measured of the curves, and trained, so far; a stopped attempt of the same job goes on from there."""

    def __init__(self, context: StepContext, total: int) -> None:
        before = kept(context)
        self.context, self.total = context, total
        self.points = {name: [Point(*row) for row in below(before, "points").get(name, torch.empty(0)).tolist()] for name in CURVES}
        self.curve: State = lambda: below(before, "curve")
        self.done = int(before.get("done", 0))
        if before:
            context.log(f"Resumed: {self.done} of {total} points and steps were done before.")

    def measured(self, name: str, point: Point) -> None:
        self.points[name].append(point)
        self._report()

    def trained(self, loss: float, state: State) -> None:
        self.curve = state
        self._report({"curve_loss": loss})

    def state(self) -> dict[str, Tensor]:
        points = {name: torch.tensor([astuple(one) for one in points], dtype=torch.float64) for name, points in self.points.items()}
        return {"done": torch.tensor(self.done)} | under(points, "points") | under(self.curve(), "curve")

    def _report(self, metrics: dict[str, float] | None = None) -> None:
        self.done += 1
        report(self.context, self.done, self.total, self.state, metrics, what=f"of {self.total} points and steps")


def losses_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy (nats) of each row's class or first token of the answer; of text, of each next token."""
    if bool((batch["target"] >= 0).all()):
        logits, target = forward(model, batch), batch["target"]
    else:
        mask = batch["attention_mask"][:, 1:].bool()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][mask]
        target = batch["input_ids"][:, 1:][mask]
    return functional.cross_entropy(logits.float(), target, reduction="none"), logits.argmax(-1) == target


def _ends(sources: list[Input], rows: Rows) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """One model to measure with, and the weights of both. Raises :class:`IncompatibleModels` where they differ in shape."""
    models = [open_model(source) for source in sources]
    for source, model in zip(sources, models, strict=True):
        check_vocabulary(model, tokenizer_digest(source.path), rows.description)
    if rows.task == "classification" and (classes := [model.config.num_labels for model in models]) != [len(rows.labels)] * 2:
        raise IncompatibleModels(f"The models tell {classes[0]} and {classes[1]} classes apart, the data set has {len(rows.labels)}.")
    a, b = (weights_of(model) for model in models)
    differ = sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or a[name].shape != b[name].shape)
    if differ:
        raise IncompatibleModels(
            f"There is no way between {sources[0].reference} and {sources[1].reference}: '{differ[0]}' is not of one shape in both "
            f"({len(differ)} tensors differ). Give models of one architecture."
        )
    return models[0], a, b


def _train_rows(config: ConnectConfig, dataset: Input, normalised: bool) -> Rows | None:
    return read_rows(dataset.path, "train") if config.bezier_steps or normalised else None


def _write(curves: dict[str, list[Point]], sources: list[Input], rows: Rows, normalised: bool, context: StepContext) -> Outcome:
    directory = context.workdir / "report"
    (directory / "figures").mkdir(parents=True)
    found = {name: dict(zip(("barrier", "at"), barrier(points), strict=True)) for name, points in curves.items()}
    described = {
        "format": 1,
        "models": [source.reference for source in sources],
        "rows": len(rows),
        "split": "validation",
        "batch_norm_reestimated": normalised,
        "curves": {name: {**found[name], "points": [asdict(point) for point in points]} for name, points in curves.items()},
    }
    (directory / "connectivity.json").write_bytes(canonical_json(described) + b"\n")
    page, picture = directory / "report.md", directory / "figures" / "connectivity.png"
    page.write_text(render(described))
    draw(curves, found["line"]["barrier"]).savefig(picture, metadata={"Software": None})
    metrics = {
        f"{name}_{what}": value for name, one in found.items() for what, value in (("barrier", one["barrier"]), ("barrier_at", one["at"]))
    }
    summary = {name: value for name, value in described.items() if name != "curves"} | {"barriers": found}
    return Outcome({"report": Output("report", directory)}, metrics, summary, (page, picture))


def render(described: Mapping[str, Any]) -> str:
    """``report.md``."""
    lines = [
        "# Connectivity",
        "",
        f"From {described['models'][0]} (a = 0) to {described['models'][1]} (a = 1), {described['rows']:,} rows.",
        "",
    ]
    if described["batch_norm_reestimated"]:
        lines += ["The statistics of batch normalisation were taken anew at every point, from the train split.", ""]
    for name, curve in described["curves"].items():
        lines += [
            f"## {name}",
            "",
            f"Barrier {curve['barrier']:.4f} nats, at a = {curve['at']:.2f}.",
            "",
            "| a | loss | accuracy |",
            "|---:|---:|---:|",
        ]
        lines += [f"| {point['a']:.2f} | {point['loss']:.4f} | {point['accuracy']:.3f} |" for point in curve["points"]]
        lines.append("")
    return "\n".join([*lines, "![connectivity](figures/connectivity.png)", ""])
