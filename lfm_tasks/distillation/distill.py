"""The step *distill*: a student learns what its teachers say of a prepared data set, and of the labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.distillation.across.answered import Answered, open_answered, unanswered
from lfm_tasks.distillation.across.pairs import TEXTS, Across, pairs, read_texts, shared_tokens
from lfm_tasks.distillation.black_box.signals import FORM as ANSWERS
from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.distillation.objective import Setting
from lfm_tasks.distillation.sequences.writing import Writing
from lfm_tasks.distillation.stored import Recorded, Stored, open_signals, places
from lfm_tasks.distillation.teachers import LogitTeacher, open_teacher
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.models.generating import stop_tokens
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import check_vocabulary, model_directory, open_causal_lm, open_classifier
from lfm_tasks.models.prepared import read_description
from lfm_tasks.models.saving import save_model
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.step import Input, Outcome, Output, StepContext, all_of
from lfm_tasks.training.examples import make_plan, read_examples
from lfm_tasks.training.loop import Training
from lfm_tasks.training.report import history_figures, measurements
from lfm_tasks.training.saved import check_same, probe, probe_logits
from lfm_tasks.training.split import Split, choose_objective, read_split, with_targets


def run(config: DistillConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    student, dataset = inputs["student"], inputs["dataset"]
    description = read_description(dataset.path)
    objective = choose_objective(config.objective, description["task"])
    labels = description["labels"] if objective == "labels" else []
    refuse_mixture(student.path, student.reference)
    model = open_classifier(student, labels, config.seed) if labels else open_causal_lm(student)
    check_vocabulary(model, tokenizer_digest(student.path), description)
    training = prepare(config, model, inputs, objective, context)
    context.log(_introduction(training))
    training.run()
    if not training.ranks.leads:
        return Outcome(outputs={})
    directory = context.workdir / "model"
    difference = save(training, student, labels, directory)
    return Outcome(
        outputs={"model": Output("model", directory)},
        metrics=measurements(training) | {"reload_difference_model": difference, "cpu_seconds": time.process_time() - began},
        summary=_summary(training, objective, inputs),
        figures=history_figures(training, context.workdir / "figures"),
    )


def prepare(config: DistillConfig, model: PreTrainedModel, inputs: Mapping[str, Input], objective: str, context: StepContext) -> Training:
    """Everything that a run needs, on its device. ``model`` is the student, every parameter of which trains."""
    dataset, description = inputs["dataset"], read_description(inputs["dataset"].path)
    labels = description["labels"] if objective == "labels" else []
    train, validation = read_examples(config, dataset, objective, context)
    if train.parts is not None:
        raise DataError(
            "The rows have shares of the loss (parts), which the step distill does not take. Tune on them, or prepare them without."
        )
    plan = make_plan(config, len(train))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = model.to(device).requires_grad_(True)
    vocabulary = len(labels) or description["vocabulary"]
    signals = [open_signals(one) for one in all_of(inputs, "signals")] if config.alpha else []
    answered = open_answers(config, signals, inputs, train, objective, context)
    local = not answered or "teacher_dataset" in inputs or bool(all_of(inputs, "teachers"))
    across = open_across(config, inputs, train, objective) if local else None
    asked = read_description(inputs["teacher_dataset"].path) if across else description
    sources = open_sources(config, inputs, signals, asked, labels, train, device)
    writing = open_writing(config, student, inputs["student"], sources, labels, plan.steps)
    setting = Setting(config, student, sources, bool(labels), vocabulary, writing, across, answered)
    return Training(
        model=student,
        base=student,
        objective=METHODS[config.method].function.objective(setting),
        config=config,
        plan=plan,
        train=train,
        validation=validation,
        context=context,
        device=device,
        identity={"config": config.cache_fields(), "examples": len(train), "steps": plan.steps},
    )


def open_sources(
    config: DistillConfig,
    inputs: Mapping[str, Input],
    signals: Sequence[Stored],
    description: dict[str, Any],
    labels: list[str],
    train: Split,
    device: torch.device,
) -> list[LogitTeacher | Recorded]:
    """Teachers, then recorded signals; none where alpha is 0. Raises :class:`ConfigError` where there is none to learn from."""
    teachers = all_of(inputs, "teachers")
    if not config.alpha:
        return []
    if not teachers and not signals:
        raise ConfigError(f"alpha={config.alpha:g}: no teacher was given. Give teachers or signals, or set alpha=0 for the baseline.")
    card = METHODS[config.method]
    if "activations" in card.access and signals:
        raise ConfigError(f"{config.method} looks at a teacher's activations, which recorded signals do not hold. Give the teacher itself.")
    sources: list[LogitTeacher | Recorded] = [open_teacher(one, description, labels, card.access, device) for one in teachers]
    offsets = places(train, labels=bool(labels))
    for stored in (one for one in signals if one.form != ANSWERS):
        stored.check(train, description["tokenizer_sha256"], labels, config.temperature)
        sources.append(Recorded(stored, offsets, device))
    return sources


def open_answers(
    config: DistillConfig, signals: Sequence[Stored], inputs: Mapping[str, Input], train: Split, objective: str, context: StepContext
) -> list[Answered]:
    """Those signals that are an API's answers. Raises :class:`ConfigError` where the method cannot learn from one of ``signals``."""
    card, found = METHODS[config.method], []
    for one in signals:
        if one.form != ANSWERS:
            if card.needs == "teacher_dataset":
                raise ConfigError(
                    f"{config.method} compares texts; {one.reference} was recorded over the student's tokens. Give the teacher with "
                    "teacher_dataset, or take forward_kl."
                )
            continue
        if not card.enough or not set(card.enough) <= set(one.description["access"]):
            able = " and ".join(other.name for other in methods_of("distill") if other.enough)
            raise ConfigError(
                f"{config.method} needs a teacher's {', '.join(card.access)}; {one.reference} are an API's answers with the "
                f"log-probabilities of their likeliest tokens, which {able} learn from. Take one of these, or give the teacher itself."
            )
        if objective != "completion":
            raise ConfigError(f"{one.reference} are an API's answers, which are completions; the objective is {objective}. Set it to auto.")
        tokenizer = open_tokenizer(model_directory(inputs["student"]))
        answered = open_answered(one.path, one.reference, train, inputs["dataset"].path, tokenizer)
        context.log(
            f"{one.reference} has a word on {answered.rows:,} of {len(train):,} rows, and on {answered.share:.0%} of their tokens; others "
            "learn from their labels alone."
        )
        found.append(answered)
    return found


def open_across(config: DistillConfig, inputs: Mapping[str, Input], train: Split, objective: str) -> Across | None:
    """The rows in the teacher's tokens as well, for the methods that need them. Raises :class:`ConfigError` where others get them."""
    if METHODS[config.method].needs != "teacher_dataset" or not config.alpha:
        if "teacher_dataset" in inputs and config.alpha:
            raise ConfigError(
                f"{config.method} compares distributions over the student's tokens: teacher_dataset is for alm, uld and hybrid."
            )
        return None
    if "teacher_dataset" not in inputs or not all_of(inputs, "teachers"):
        raise ConfigError(
            f"{config.method} needs teachers and the rows in their tokens: give teachers, and as teacher_dataset the same rows, prepared "
            f"with the teacher's model{'; or the signals of an API' if METHODS[config.method].enough else ''}."
        )
    if objective not in TEXTS:
        raise ConfigError(f"{config.method} matches texts; the objective {objective} has none. Allowed: {', '.join(TEXTS)}.")
    dataset, teacher = inputs["teacher_dataset"], all_of(inputs, "teachers")[0]
    tokenizers = [open_tokenizer(model_directory(one)) for one in (inputs["student"], teacher)]
    theirs, _ = with_targets(read_split(dataset.path, "train", objective), objective)
    found = pairs(train, theirs, read_texts(inputs["dataset"].path, objective), tokenizers, objective)
    return Across(theirs, found, shared_tokens(*tokenizers), tokenizers[1].pad_token_id or 0)


def open_writing(
    config: DistillConfig,
    student: PreTrainedModel,
    source: Input,
    sources: Sequence[LogitTeacher | Recorded],
    labels: list[str],
    steps: int,
) -> Writing | None:
    """What writes rows in the student's words; None where none are. Raises :class:`ConfigError` where there is nobody to judge them."""
    if not config.on_policy and config.on_policy_schedule == "constant":
        return None
    if labels:
        raise ConfigError(f"on_policy={config.on_policy:g}: a classifier writes no text. Set on_policy=0 and on_policy_schedule=constant.")
    if not sources or any(isinstance(one, Recorded) for one in sources):
        raise ConfigError(
            f"on_policy={config.on_policy:g}, on_policy_schedule={config.on_policy_schedule}: what the student writes is judged by "
            "teachers that can be asked; signals are of given texts, and alpha=0 asks nobody. Give teachers, and alpha above 0."
        )
    if config.teacher_share and len(sources) > 1:
        raise ConfigError(f"teacher_share={config.teacher_share:g}: {len(sources)} teachers cannot lead the drawing. Give one, or set 0.")
    stop = stop_tokens(student, open_tokenizer(source.path))
    return Writing(config, student, sources[0] if config.teacher_share else None, stop, steps)


def save(training: Training, base: Input, labels: Sequence[str], directory: Path) -> float:
    """Write the student and open it again; the largest difference of a logit. Raises what :func:`check_same` does."""
    trained, rows = training.model.to("cpu").eval(), probe(training.train)
    expected = probe_logits(trained, rows)
    save_model(trained, base.path, directory, labels=list(labels) or None)
    written = Input("the saved model", "model", "", directory)
    opened = open_classifier(written, list(labels)) if labels else open_causal_lm(written)
    return check_same(expected, probe_logits(opened, rows), "the saved model")


def _introduction(training: Training) -> str:
    config, counts = training.config, training.counts
    return (
        f"{config.method}, alpha {config.alpha:g}, temperature {config.temperature:g}: {counts['trainable_parameters']:,} parameters train "
        f"on {len(training.train):,} examples for {training.plan.steps:,} steps, on {training.device}."
    )


def _summary(training: Training, objective: str, inputs: Mapping[str, Input]) -> dict[str, Any]:
    progress = training.progress
    return {
        "method": training.config.method,
        "objective": objective,
        "alpha": training.config.alpha,
        "temperature": training.config.temperature,
        "teachers": [one.reference for one in all_of(inputs, "teachers")] if training.config.alpha else [],
        "signals": [one.reference for one in all_of(inputs, "signals")] if training.config.alpha else [],
        "examples": len(training.train),
        **({"rows_without_signals": unanswered(answered)} if (answered := training.objective.setting.answered) else {}),
        "steps": progress.step,
        "steps_planned": training.plan.steps,
        "stopped_early": progress.stopped_early,
        "best_step": progress.best_step,
        "packed": training.packs,
        "device": str(training.device),
    }
