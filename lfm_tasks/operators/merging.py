"""A merge, measured: every source and the result on every source's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators.base import StepOperator, check_params, mapped_outputs
from lfm_tasks.runner.job import Job, numbered_inputs

RESULT = "merged"
BASE = "base"
CHAMPION = "champion"


class PlanMergeOperator(BaseOperator):
    """Inputs of *prepare*, one for each of the Param ``data``; hands on ``models``, the references to merge."""

    def execute(self, context: Context) -> list[dict[str, str]]:
        params = dict(context["params"])
        try:
            check_params(params, context["dag"].params)
            plan = sources(params)
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        context["ti"].xcom_push(key="models", value=list(params["models"]))
        return plan


def sources(params: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each data set beside the model whose tokenizer it is prepared with. Raises :class:`ConfigError` unless each model has one."""
    models, data = list(params["models"]), list(params["data"])
    if len(models) < 2:
        raise ConfigError(f"models names {len(models)} model. Give the two or more that are to be merged.")
    if len(data) != len(models):
        raise ConfigError(f"data names {len(data)} data sets for {len(models)} models. Give one for each model, in their order.")
    for name, given in (("models", models), ("data", data)):
        if len(set(given)) < len(given):
            raise ConfigError(f"{name} names one twice: {', '.join(given)}. Give each once.")
    return [{"data": rows, "model": params["base"] or model} for rows, model in zip(data, models, strict=True)]


def task_names(data: list[str]) -> list[str]:
    """What the data sets are called in tables: the last part of each reference, numbered where that does not tell them apart."""
    short = [reference.rstrip("/").rpartition("/")[2].removeprefix("sha256:")[:24] or reference for reference in data]
    return [f"{place + 1} {name}" if short.count(name) > 1 else name for place, name in enumerate(short)]


def expert_of(task: str) -> str:
    """What the task's own model is called in tables."""
    return f"{task} expert"


class PlanEvaluationsOperator(BaseOperator):
    """Inputs of *evaluate*: base, champion, experts and result on every task; hands on ``cells``, whose they are.

    Classifiers are measured with the head of the task's own expert (Param ``heads``).

    :param prepare_task: id of the mapped prepare task.
    :param merged: address of the result.
    """

    template_fields = ("merged",)

    def __init__(self, *, prepare_task: str, merged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prepare_task, self.merged = prepare_task, merged

    def execute(self, context: Context) -> list[dict[str, str]]:
        params = dict(context["params"])
        datasets = mapped_outputs(context, self.prepare_task, "dataset", len(params["data"]))
        cells, inputs = evaluations(params, datasets, self.merged)
        context["ti"].xcom_push(key="cells", value=cells)
        return inputs


def evaluations(params: Mapping[str, Any], datasets: list[str], merged: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The comparison's cells and the inputs of the evaluations behind them, task by task."""
    tasks, cells, inputs = task_names(params["data"]), [], []
    subjects = {expert_of(task): model for task, model in zip(tasks, params["models"], strict=True)}
    others = {name: params[name] for name in (BASE, CHAMPION) if params[name]}
    subjects = {**others, **subjects, RESULT: merged}
    for task, dataset, expert in zip(tasks, datasets, params["models"], strict=True):
        for name, model in subjects.items():
            own_head = not params["heads"] or name == expert_of(task)
            cells.append({"subject": name, "task": task})
            inputs.append({"model": model, "dataset": dataset, **({} if own_head else {"head": expert})})
    return cells, inputs


class CompareOperator(StepOperator):
    """The table of the mapped evaluations.

    :param cells: whose the evaluations are, in the order of the mapping.
    :param merged: the merge task's result, which has its cost.
    """

    step = "compare"
    template_fields = (*StepOperator.template_fields, "cells", "merged")

    def __init__(self, *, cells: Any, merged: Any, evaluate_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells, self.merged, self.evaluate_task = cells, merged, evaluate_task

    def job(self, context: Context) -> Job:
        reports = mapped_outputs(context, self.evaluate_task, "report", len(self.cells))
        self.config = {"subjects": subjects(self.cells, self.merged["metrics"]), "cells": list(self.cells)}
        self.inputs = numbered_inputs({"reports": reports})
        return super().job(context)


def subjects(cells: list[dict[str, str]], metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """The subjects of ``cells``; ``metrics`` are those of the step that made the result."""
    cost = {name: metrics.get(name) for name in ("cpu_seconds", "peak_memory_bytes")}
    known = {BASE: {"role": "base"}, CHAMPION: {"role": "base"}, RESULT: {"role": "result", **cost}}
    known |= {expert_of(cell["task"]): {"role": "expert", "expert_of": cell["task"]} for cell in cells}
    return [{"name": name, **known[name]} for name in dict.fromkeys(cell["subject"] for cell in cells)]


class PlanGatesOperator(BaseOperator):
    """Inputs of *gate*, one for each task: the result's report and that of the champion, or of the base without one."""

    template_fields = ("cells",)

    def __init__(self, *, cells: Any, evaluate_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells, self.evaluate_task = cells, evaluate_task

    def execute(self, context: Context) -> list[dict[str, str]]:
        reports = mapped_outputs(context, self.evaluate_task, "report", len(self.cells))
        return gates(self.cells, reports)


def gates(cells: list[dict[str, str]], reports: list[str]) -> list[dict[str, str]]:
    """Empty where there is neither a champion nor a base."""
    found = {(cell["task"], cell["subject"]): report for cell, report in zip(cells, reports, strict=True)}
    pairs = []
    for task in dict.fromkeys(cell["task"] for cell in cells):
        if rival := found.get((task, CHAMPION)) or found.get((task, BASE)):
            pairs.append({"challenger": found[task, RESULT], "champion": rival})
    return pairs
