"""The step *tune*: adapt a model to a prepared data set by one of the methods, and prove that what was saved is what was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import check_vocabulary, open_causal_lm, open_classifier
from lfm_tasks.models.prepared import read_description
from lfm_tasks.models.saving import save_model
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.step import Input, Outcome, Output, StepContext
from lfm_tasks.training.examples import make_plan, read_examples
from lfm_tasks.training.loop import Training
from lfm_tasks.training.objectives import CrossEntropy
from lfm_tasks.training.report import history_figures, measurements
from lfm_tasks.training.saved import check_same, probe, probe_logits
from lfm_tasks.training.snapshots import snapshot_steps
from lfm_tasks.training.split import choose_objective
from lfm_tasks.tuning.config import TuneConfig
from lfm_tasks.tuning.methods.method import TuningMethod

CHECKPOINTS = {"model": "checkpoints", "adapter": "adapter_checkpoints"}
"""What the outputs of one kind along the run are called: ``checkpoints.0``, …"""


def run(config: TuneConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    base, dataset = inputs["model"], inputs["dataset"]
    description = read_description(dataset.path)
    objective = choose_objective(config.objective, description["task"])
    labels = description["labels"] if objective == "labels" else []
    model = open_base(base, objective, labels, config.seed)
    check_vocabulary(model, tokenizer_digest(base.path), description)
    training = prepare(config, model, dataset, objective, context)
    context.log(_introduction(training))
    training.run()
    if not training.ranks.leads:
        return Outcome(outputs={})
    outputs, differences = save(training, inputs, labels)
    return Outcome(
        outputs=outputs,
        metrics=measurements(training) | differences,
        summary=_summary(training, objective),
        figures=history_figures(training, context.workdir / "figures"),
    )


def open_base(base: Input, objective: str, labels: list[str], seed: int) -> PreTrainedModel:
    refuse_mixture(base.path, base.reference)
    return open_classifier(base, labels, seed) if objective == "labels" else open_causal_lm(base)


def prepare(config: TuneConfig, model: PreTrainedModel, dataset: Input, objective: str, context: StepContext) -> Training:
    """Everything that a run needs, on its device."""
    train, validation = read_examples(config, dataset, objective, context)
    plan = make_plan(config, len(train))
    method = METHODS[config.method].function
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapted = method.apply(model, config.method_config(), config.seed).to(device)
    return Training(
        model=adapted,
        base=model,
        objective=Tuning(method, adapted, labels=objective == "labels"),
        config=config,
        plan=plan,
        train=train,
        validation=validation,
        context=context,
        device=device,
        identity={"config": config.cache_fields(), "examples": len(train), "steps": plan.steps},
        kept_steps=snapshot_steps(plan.steps, config.keep_last, config.keep_every),
    )


class Tuning(CrossEntropy):
    """With the faster kernels that the method has."""

    def __init__(self, method: TuningMethod, model: nn.Module, *, labels: bool) -> None:
        super().__init__(labels=labels)
        self.method, self.model = method, model

    def modes(self) -> AbstractContextManager[None]:
        return self.method.training(self.model)


def save(training: Training, inputs: Mapping[str, Input], labels: list[str]) -> tuple[dict[str, Output], dict[str, float]]:
    """What was trained at the end, and at the steps of which the model is kept, written below the work directory."""
    trained, workdir, along = training.model.to("cpu").eval(), training.context.workdir, {}
    for place, path in enumerate(training.snapshots.files()):
        one, tensors = copy.deepcopy(trained), load_file(path)
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                if name in tensors:
                    parameter.copy_(tensors[name])
        found, _ = write(training, one, inputs["model"], labels, workdir / f"checkpoint-{place}")
        along |= {f"{CHECKPOINTS[kind]}.{place}": output for kind, output in found.items()}
    outputs, differences = write(training, trained, inputs["model"], labels, workdir)
    return outputs | along, differences


def write(
    training: Training, trained: nn.Module, base: Input, labels: list[str], directory: Path
) -> tuple[dict[str, Output], dict[str, float]]:
    """Write adapter and model below ``directory``, open each again, and compare its logits with those in memory. ``trained`` is used up.

    Raises what :func:`check_same` raises where they differ.
    """
    method, task = METHODS[training.config.method].function, "classification" if training.labels else "causal_lm"
    rows = probe(training.train)
    expected = probe_logits(trained, rows)
    outputs: dict[str, Output] = {}
    differences: dict[str, float] = {}

    def compare(kind: str, path: Path) -> None:
        written = Input(reference=f"the saved {kind}", kind=kind, sha256="", path=path, base=base if kind == "adapter" else None)
        opened = open_classifier(written, labels or None) if training.labels else open_causal_lm(written)
        differences[f"reload_difference_{kind}"] = check_same(expected, probe_logits(opened, rows), f"the saved {kind}")
        outputs[kind] = Output(kind, path)

    if method.adapter:
        method.save(trained, directory / "adapter", base_sha256=base.sha256, task=task, labels=labels)
        compare("adapter", directory / "adapter")
    if training.config.save_merged or not method.adapter:
        save_model(method.merge(trained), base.path, directory / "model", labels=labels or None)
        compare("model", directory / "model")
    return outputs, differences


def _introduction(training: Training) -> str:
    counts = training.counts
    shape = "packed" if training.packs else "padded"
    return (
        f"{training.config.method}: {counts['trainable_parameters']:,} of {counts['total_parameters']:,} parameters train on "
        f"{len(training.train):,} examples for {training.plan.steps:,} steps, {shape}, on {training.device}."
    )


def _summary(training: Training, objective: str) -> dict[str, Any]:
    progress = training.progress
    return {
        "method": training.config.method,
        "objective": objective,
        "examples": len(training.train),
        "steps": progress.step,
        "steps_planned": training.plan.steps,
        "stopped_early": progress.stopped_early,
        "best_step": progress.best_step,
        "kept_steps": sorted(training.snapshots.steps),
        "packed": training.packs,
        "device": str(training.device),
    }
