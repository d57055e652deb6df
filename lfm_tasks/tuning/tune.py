"""The step *tune*: adapt a model to a prepared data set by one of the methods, and prove that what was saved is what was trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import DataError, IntegrityError
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import check_vocabulary, open_causal_lm, open_classifier
from lfm_tasks.models.prepared import read_description
from lfm_tasks.models.saving import save_model
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.step import Input, Outcome, Output, StepContext
from lfm_tasks.tuning.batches import Plan
from lfm_tasks.tuning.config import TuneConfig
from lfm_tasks.tuning.figures import learning_curve
from lfm_tasks.tuning.loop import Training
from lfm_tasks.tuning.split import choose_objective, read_split, sample, with_targets

PROBES, PROBE_TOKENS = 4, 64
CHECKPOINTS = {"model": "checkpoints", "adapter": "adapter_checkpoints"}
"""What the outputs of one kind along the run are called: ``checkpoints.0``, …"""
TOLERANCE = 1e-3
"""Largest difference of a logit that merging and saving may make, as a share of the largest logit."""


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
        metrics=_metrics(training) | differences,
        summary=_summary(training, objective),
        figures=_figures(training, context.workdir / "figures"),
    )


def open_base(base: Input, objective: str, labels: list[str], seed: int) -> PreTrainedModel:
    refuse_mixture(base.path, base.reference)
    return open_classifier(base, labels, seed) if objective == "labels" else open_causal_lm(base)


def prepare(config: TuneConfig, model: PreTrainedModel, dataset: Input, objective: str, context: StepContext) -> Training:
    """Everything that a run needs, on its device."""
    train, left_out = with_targets(read_split(dataset.path, "train", objective), objective)
    if left_out:
        context.log(f"{left_out} training examples have no token to learn (their completion was cut off) and are left out.")
    if not len(train):
        raise DataError("The training split has no example with a token to learn. Raise max_length in the step 'prepare'.")
    validation = sample(with_targets(read_split(dataset.path, "validation", objective), objective)[0], config.evaluate_examples)
    plan = Plan(len(train), config.batch_size, steps=0, seed=config.seed)
    plan = Plan(len(train), config.batch_size, steps=config.max_steps or config.epochs * plan.per_epoch, seed=config.seed)
    method = METHODS[config.method].function
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapted = method.apply(model, config.method_config(), config.seed).to(device)
    return Training(
        model=adapted,
        base=model,
        method=method,
        config=config,
        plan=plan,
        train=train,
        validation=validation,
        labels=objective == "labels",
        context=context,
        device=device,
        identity={"config": config.cache_fields(), "examples": len(train), "steps": plan.steps},
    )


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

    Raises :class:`IntegrityError` where they differ by more than ``TOLERANCE``.
    """
    method, task = training.method, "classification" if training.labels else "causal_lm"
    probe = [ids[:PROBE_TOKENS] for ids in training.train.tokens[:PROBES]]
    expected = probe_logits(trained, probe)
    outputs: dict[str, Output] = {}
    differences: dict[str, float] = {}

    def compare(kind: str, path: Path) -> None:
        written = Input(reference=f"the saved {kind}", kind=kind, sha256="", path=path, base=base if kind == "adapter" else None)
        opened = open_classifier(written, labels or None) if training.labels else open_causal_lm(written)
        differences[f"reload_difference_{kind}"] = check_same(expected, probe_logits(opened, probe), f"the saved {kind}")
        outputs[kind] = Output(kind, path)

    if method.adapter:
        method.save(trained, directory / "adapter", base_sha256=base.sha256, task=task, labels=labels)
        compare("adapter", directory / "adapter")
    if training.config.save_merged or not method.adapter:
        save_model(method.merge(trained), base.path, directory / "model", labels=labels or None)
        compare("model", directory / "model")
    return outputs, differences


def probe_logits(model: nn.Module, probe: list[np.ndarray]) -> list[Tensor]:
    """Logits of each row of ids, one forward pass a row."""
    with torch.inference_mode():
        return [model(input_ids=torch.from_numpy(ids)[None]).logits[0].float() for ids in probe]


def check_same(expected: list[Tensor], found: list[Tensor], what: str) -> float:
    """Largest absolute difference. Raises :class:`IntegrityError` beyond the tolerance."""
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    scale = max(1.0, *(float(a.abs().max()) for a in expected))
    if not difference <= TOLERANCE * scale:
        raise IntegrityError(
            f"{what} gives logits that differ by {difference:.3g} from the model in memory; at most {TOLERANCE * scale:.3g} is rounding. "
            "The save is not used; run the step again, and report it if it happens again."
        )
    return difference


def _introduction(training: Training) -> str:
    counts = training.counts
    shape = "packed" if training.packs else "padded"
    return (
        f"{training.config.method}: {counts['trainable_parameters']:,} of {counts['total_parameters']:,} parameters train on "
        f"{len(training.train):,} examples for {training.plan.steps:,} steps, {shape}, on {training.device}."
    )


def _metrics(training: Training) -> dict[str, float]:
    progress = training.progress
    losses = [entry["loss"] for entry in progress.history if "loss" in entry]
    validation = [entry["validation_loss"] for entry in progress.history if "validation_loss" in entry]
    metrics = training.counts | {
        "train_loss_first": losses[0],
        "train_loss_final": losses[-1],
        "tokens_seen": progress.tokens,
        "tokens_per_second_mean": progress.tokens / max(training.seconds, 1e-9),
        "peak_memory_bytes": peak_memory(training.device),
    }
    if validation:
        metrics |= {"validation_loss_final": validation[-1], "validation_loss_best": min(validation)}
    return {name: float(value) for name, value in metrics.items()}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_rss_bytes()


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


def _figures(training: Training, directory: Path) -> tuple[Path, ...]:
    directory.mkdir(parents=True, exist_ok=True)
    history = directory / "history.json"
    history.write_text(json.dumps(training.progress.history, indent=1))
    curve = directory / "learning_curve.png"
    learning_curve(training.progress.history, training.progress.best_step, curve)
    return curve, history
