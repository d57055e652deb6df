"""The step *evaluate*: score a model on held-out samples, one line per sample, and measure with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.choice import Choice
from lfm_tasks.evaluation.classification import Classification
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.generation import Generation
from lfm_tasks.evaluation.image_classification import ImageClassification, open_image_subject
from lfm_tasks.evaluation.perplexity import Perplexity
from lfm_tasks.evaluation.report import Findings, Skipped, write_report
from lfm_tasks.evaluation.task import Subject, Task
from lfm_tasks.metrics.catalogue import metric_names
from lfm_tasks.models.opening import (
    check_labels,
    check_vocabulary,
    fresh_modules,
    model_directory,
    open_causal_lm,
    open_classifier,
    open_with_head,
)
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.step import Input, Outcome, StepContext

TASKS: dict[str, Task] = {
    "choice": Choice(),
    "classification": Classification(),
    "image_classification": ImageClassification(),
    "generation": Generation(),
    "perplexity": Perplexity(),
}
GENERAL = Perplexity("general")
Plan = list[tuple[Task, Rows]]


def run(config: EvaluateConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    plan, skipped = make_plan(config, inputs)
    if config.backend == "lm_eval":
        from lfm_tasks.evaluation.lm_eval_backend import Harness

        plan = [(Harness(task), rows) for task, rows in plan]
    for task, rows in plan:
        task.check(rows)
    subject, fresh = open_subject(inputs["model"], inputs.get("head"), plan, config.seed)
    tables = score(subject, plan, config, context)
    asked = {task.group(rows): len(rows) for task, rows in plan}
    model, labels = inputs["model"].sha256, plan[0][1].labels
    title = f"Model `sha256:{model}`"
    findings = Findings(config, model, title, dict(inputs), tables, labels=labels, skipped=skipped, fresh=fresh, asked=asked)
    return write_report(findings, context.workdir / "report")


def make_plan(config: EvaluateConfig, inputs: Mapping[str, Input]) -> tuple[Plan, Skipped]:
    """Which task is asked about which rows, and why the general perplexity is not among them, where it is not."""
    rows = read_rows(inputs["dataset"].path, config.split, config.max_samples)
    plan: Plan = [(TASKS[name], rows) for name in choose_tasks(config.tasks, rows)]
    general = metric_names("general")
    if "causal_lm" not in {task.needs for task, _ in plan}:
        return plan, {name: {"possible": False, "reason": "a classifier has no next-token probabilities"} for name in general}
    if "general" not in inputs:
        return plan, {name: {"possible": True, "reason": "no general text was given"} for name in general}
    return [*plan, (GENERAL, read_rows(inputs["general"].path, config.split, config.max_samples))], {}


def choose_tasks(wanted: list[str], rows: Rows) -> list[str]:
    """``wanted``, or what the data set calls for. Raises :class:`ConfigError` for tasks that need two kinds of model."""
    if len({TASKS[name].needs for name in wanted}) > 1:
        raise ConfigError(f"tasks {', '.join(wanted)} need a classifier and a language model at once. Evaluate them in two steps.")
    if wanted:
        return list(wanted)
    if rows.task == "instruction":
        return ["choice" if len(rows.completions) > 1 else "generation"]
    return [{"classification": "classification", "images": "image_classification"}.get(rows.task, "perplexity")]


def open_subject(source: Input, head: Input | None, plan: Plan, seed: int) -> tuple[Subject, list[str]]:
    """The model for the plan's tasks, and its modules that were drawn at random (an untrained head).

    With ``head``, the head and the classes of that model stand in for the model's own.

    Raises :class:`IncompatibleModels` when the data was prepared for another tokenizer or other classes.
    """
    rows, device = plan[0][1], "cuda" if torch.cuda.is_available() else "cpu"
    if plan[0][0].needs == "image_classifier":
        if head:
            raise ConfigError("A classifier of images keeps its own head. Leave the input 'head' out.")
        return open_image_subject(source, rows, device), []
    if plan[0][0].needs == "classifier":
        check_labels(head or source, rows.labels)
        model = open_with_head(source, head, rows.labels) if head else open_classifier(source, rows.labels, seed)
        fresh = fresh_modules(model)
    elif head:
        raise ConfigError(
            f"The task '{plan[0][0].group(rows)}' needs a language model, which keeps its own head. Leave the input 'head' out."
        )
    else:
        model, fresh = open_causal_lm(source), []
    directory = model_directory(source)
    for _, asked in plan:
        check_vocabulary(model, tokenizer_digest(directory), asked.description)
    return Subject(model.to(device).eval(), open_tokenizer(directory)), fresh


def score(subject: Subject, plan: Plan, config: EvaluateConfig, context: StepContext) -> dict[str, pa.Table]:
    """The per-sample table of each group."""
    counter = Counter(context, sum(len(rows) for _, rows in plan))
    return {task.group(rows): task.score(subject, rows, config, counter) for task, rows in plan}


@dataclass
class Counter:
    """Turns "so many more are done" into "so many of all are done"."""

    context: StepContext
    total: int
    done: int = 0

    def __call__(self, more: int) -> None:
        self.done += more
        if more:
            self.context.report(self.done, self.total)
