"""The step *trace_facts*: where a model keeps facts, by causal tracing, as a report with its heat map.

It is evidence of where a fact is read, not of where it is best written: which layer to edit is what *sweep_edit_layers* finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lfm_tasks.config import canonical_json
from lfm_tasks.editing.edit import open_editing
from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.trace_config import TraceFactsConfig
from lfm_tasks.editing.tracing import KINDS, ROLES, Trace, Traced, embedding_deviation
from lfm_tasks.errors import DataError
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.step import Input, Outcome, Output, StepContext

TITLES = {"state": "layer's output", "mlp": "MLPs of a window", "attention": "attentions of a window"}


def run(config: TraceFactsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    editing = open_editing(inputs, context, config.seed)
    facts = read_facts(inputs["facts"].path)
    found = trace_all(editing, facts, config)
    return write_report(found, len(facts), context.workdir / "report")


def trace_all(editing: Editing, facts: Sequence[Fact], config: TraceFactsConfig) -> list[Traced]:
    """Raises :class:`DataError` where the model knows none of them."""
    asked = [fact for fact in facts if fact.target_true is not None]
    known = list(islice((fact for fact in asked if Trace(editing, fact, 0.0, 1, 0).known), config.max_facts))
    if not known:
        raise DataError(
            f"The model says the present answer (target_true) to none of the {len(facts):,} facts, so that there is nothing to trace. "
            "Take facts that it knows: evaluate_edits with mode=known finds them."
        )
    scale = config.noise * embedding_deviation(editing, known)
    found = []
    for fact in known:
        found.append(Trace(editing, fact, scale, config.samples, config.seed).traced(config.window))
        editing.context.report(len(found), len(known))
    return found


def by_role(traced: Sequence[Traced]) -> dict[str, Tensor]:
    """Of each kind the mean effect [roles, layers] over the facts that have such tokens, which are averaged first; NaN where none has."""
    means = {}
    for kind in KINDS:
        rows = []
        for role in range(len(ROLES)):
            own = [one.effects[kind][torch.tensor(one.roles) == role].mean(0) for one in traced if role in one.roles]
            rows.append(torch.stack(own).mean(0) if own else torch.full_like(traced[0].effects[kind][0], torch.nan))
        means[kind] = torch.stack(rows)
    return means


def write_report(traced: Sequence[Traced], asked: int, directory: Path) -> Outcome:
    """Equal findings give equal bytes."""
    (directory / "figures").mkdir(parents=True)
    means = by_role(traced)
    peaks = {kind: peak_of(means[kind]) for kind in KINDS}
    clean, low = (sum(getattr(one, name) for one in traced) / len(traced) for name in ("clean", "corrupted"))
    described = {
        "roles": list(ROLES),
        "effects": {kind: [None if bool(row.isnan().any()) else row.tolist() for row in means[kind]] for kind in KINDS},
        "facts": [{"id": one.fact, "tokens": list(one.tokens), "clean": one.clean, "corrupted": one.corrupted} for one in traced],
        "peaks": peaks,
    }
    (directory / "trace.json").write_bytes(canonical_json(described) + b"\n")
    page, picture = directory / "report.md", directory / "figures" / "trace.png"
    page.write_text(render(len(traced), asked, clean, low, peaks))
    draw(means, peaks).savefig(picture, metadata={"Software": None})
    metrics = {"facts": float(len(traced)), "probability/clean": clean, "probability/corrupted": low}
    metrics |= {f"{kind}/{name}": float(peaks[kind][name]) for kind in KINDS for name in ("layer", "effect")}
    return Outcome({"report": Output("report", directory)}, metrics, {"facts": len(traced), "peaks": peaks}, (page, picture))


def peak_of(effects: Tensor) -> dict[str, Any]:
    """The largest mean effect, and where it is."""
    place = int(effects.nan_to_num(-torch.inf).argmax())
    role, layer = divmod(place, effects.shape[1])
    return {"role": ROLES[role], "layer": layer, "effect": float(effects[role, layer])}


def render(count: int, asked: int, clean: float, low: float, peaks: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"# Causal tracing of {count} facts",
        "",
        f"Of {asked} facts the first {count} that the model knows. Probability of the answer: {clean:.3f}; with noise on the subject "
        f"{low:.3f}. The effect of a state is what it brings back of that.",
        "",
        "| restored | most at | layer | effect |",
        "|---|---|---|---|",
        *(f"| {TITLES[kind]} | {peak['role']} | {peak['layer']} | {peak['effect']:.3f} |" for kind, peak in peaks.items()),
        "",
        "Where a fact is read is not where it is best written: choose the layer by the step *sweep_edit_layers*.",
    ]
    return "\n".join(lines) + "\n"


def draw(means: Mapping[str, Tensor], peaks: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(12, 3.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(means))
    most = max(0.01, *(float(one.nan_to_num(0).abs().max()) for one in means.values()))
    for axes, (kind, effects) in zip(panels, means.items(), strict=True):
        image = axes.imshow(effects.numpy(), cmap="PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(ROLES)), ROLES if axes is panels[0] else [""] * len(ROLES), fontsize=8)
        axes.set_xlabel("layer")
        axes.set_title(f"{TITLES[kind]}: most at layer {peaks[kind]['layer']}", loc="left", fontsize=9)
    figure.colorbar(image, ax=panels, label="effect on the answer's probability")
    return figure
