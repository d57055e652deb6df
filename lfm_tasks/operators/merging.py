"""Merges, measured: every source and every result on every source's task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.operators.base import StepOperator, mapped_outputs, of_params
from lfm_tasks.runner.job import Job, numbered_inputs

BASE = "base"
CHAMPION = "champion"


class PlanMergeOperator(BaseOperator):
    """Inputs of *prepare*, one for each of the Param ``data``."""

    def execute(self, context: Context) -> list[dict[str, str]]:
        *_, inputs = of_params(context, lambda params: (methods(params), mixtures(params), sources(params)))
        return inputs


def methods(params: Mapping[str, Any]) -> list[str]:
    """The method of the form, whose result the gate judges, then the others.

    Raises :class:`ConfigError` for one named twice, and for one whose models are of one task.
    """
    named = [params["merge_method"], *_known("also", "merge", params["also"])]
    if len(set(named)) < len(named):
        raise ConfigError(f"also names a method twice, or the one that the form has: {', '.join(named)}. Give each once.")
    if soups := [name for name in named if METHODS[name].needs == "dataset"]:
        raise ConfigError(f"{', '.join(soups)}: for models of one task; here each has its own. Run the step 'merge' with one data set.")
    return named


def mixtures(params: Mapping[str, Any]) -> list[str]:
    """Raises :class:`ConfigError` for one that is not known, and where there is no base to mix on."""
    if params["mixtures"] and not params["base"]:
        raise ConfigError(f"mixtures: {', '.join(params['mixtures'])} need the base that the models were made from. Give base.")
    return _known("mixtures", "mix", params["mixtures"])


def _known(param: str, step: str, given: list[str]) -> list[str]:
    known = [card.name for card in methods_of(step)]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{param}: {unknown_name('method', unknown[0], known)}")
    return list(given)


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


class AfterPrepareOperator(BaseOperator):
    """Plans the work on the prepared data sets.

    :param prepare_task: id of the mapped prepare task.
    """

    def __init__(self, *, prepare_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prepare_task = prepare_task

    def datasets(self, context: Context) -> list[str | None]:
        """One for each model, in their order."""
        return mapped_outputs(context, self.prepare_task, "dataset", len(context["params"]["data"]))


class PlanStatisticsOperator(AfterPrepareOperator):
    """What *statistics* is given: every model with its own data, once for each kind that one of the methods needs."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params = dict(context["params"])
        pairs = [{"model": model, "dataset": one} for model, one in zip(params["models"], self.datasets(context), strict=True)]
        return [{"config": {"method": kind}, "inputs": pair} for kind in statistics_kinds(params) for pair in pairs]


def statistics_kinds(params: Mapping[str, Any]) -> list[str]:
    kinds = [card.name for card in methods_of("statistics")]
    return [kind for kind in kinds if any(METHODS[name].needs == kind for name in methods(params))]


class PlanMergesOperator(AfterPrepareOperator):
    """What *merge* is given for each method: the form's options for the form's method, the others have their defaults.

    Data sets go to methods that learn from data, statistics to those that use them.

    :param statistics_task: id of the mapped statistics task.
    """

    def __init__(self, *, statistics_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.statistics_task = statistics_task

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params, count = dict(context["params"]), len(context["params"]["models"])
        kinds = statistics_kinds(params)
        found = mapped_outputs(context, self.statistics_task, "statistics", count * len(kinds)) if kinds else []
        given: dict[str, list[str]] = {kind: found[place * count :][:count] for place, kind in enumerate(kinds)}
        given["datasets"] = self.datasets(context)
        return merges(params, given)


def merges(params: Mapping[str, Any], given: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """``given``: one for each model, by what a card says that its method needs."""
    judged, *others = methods(params)
    plan = [{"config": {}, "inputs": _inputs(params, judged, given)}]
    return plan + [{"config": {"method": name, "options": {}}, "inputs": _inputs(params, name, given)} for name in others]


class PlanMixturesOperator(AfterPrepareOperator):
    """What *mix* is given for each of the Param ``mixtures``."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params = dict(context["params"])
        given = {"datasets": self.datasets(context)}
        return [{"config": {"method": name}, "inputs": _inputs(params, name, given)} for name in mixtures(params)]


def _inputs(params: Mapping[str, Any], method: str, given: Mapping[str, list[str]]) -> dict[str, Any]:
    inputs = {"models": list(params["models"])}
    needs = METHODS[method].needs
    return inputs | ({"datasets" if needs == "datasets" else "statistics": given[needs]} if needs else {})


class ResultsOperator(AfterPrepareOperator):
    """Inputs of *evaluate*: base, champion, experts and results on every task.

    Hands on ``cells``, whose they are, ``subjects``, and ``judged``, the result that the gate is asked about. Classifiers are measured
    with the head of the task's own expert (Param ``heads``).
    """

    def execute(self, context: Context) -> list[dict[str, str]]:
        params, datasets = dict(context["params"]), self.datasets(context)
        judged, results = self.results(context)
        if None in datasets:
            raise AirflowFailException("The data of a task is not there. See the logs of prepare.")
        cells, inputs = evaluations(params, datasets, {name: one["outputs"]["model"] for name, one in results.items()})
        context["ti"].xcom_push(key="cells", value=cells)
        context["ti"].xcom_push(key="subjects", value=subjects(cells, {name: one["metrics"] for name, one in results.items()}))
        context["ti"].xcom_push(key="judged", value=judged)
        return inputs

    @abstractmethod
    def results(self, context: Context) -> tuple[str, dict[str, Any]]:
        """The one that the gate is asked about, and what the steps said that made them, by their names in tables."""


def made(context: Context, task_id: str, names: list[str]) -> dict[str, Any]:
    """Results of the instances of a mapped task that ended well, by their names."""
    found = context["ti"].xcom_pull(task_ids=task_id, map_indexes=range(len(names))) if names else []
    return {name: one for name, one in zip(names, found, strict=True) if one}


class PlanEvaluationsOperator(ResultsOperator):
    """The results are merges and mixtures; a method that failed is left out, but for the form's, which the gate judges.

    :param merge_task: id of the mapped merge task.
    :param mix_task: id of the mapped mix task.
    """

    def __init__(self, *, merge_task: str, mix_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.merge_task, self.mix_task = merge_task, mix_task

    def results(self, context: Context) -> tuple[str, dict[str, Any]]:
        params = dict(context["params"])
        judged, *_ = named = methods(params)
        found = made(context, self.merge_task, named) | made(context, self.mix_task, mixtures(params))
        if judged not in found:
            raise AirflowFailException(f"The merge by {judged}, which the gate judges, is not there. See its log.")
        return judged, found


def evaluations(
    params: Mapping[str, Any], datasets: list[str], results: Mapping[str, str]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The comparison's cells and the inputs of the evaluations behind them, task by task; ``results`` are addresses by method."""
    tasks, cells, inputs = task_names(params["data"]), [], []
    others = {name: params[name] for name in (BASE, CHAMPION) if params[name]}
    experts = {expert_of(task): model for task, model in zip(tasks, params["models"], strict=True)}
    for task, dataset, expert in zip(tasks, datasets, params["models"], strict=True):
        for name, model in {**others, **experts, **results}.items():
            own_head = not params["heads"] or name == expert_of(task)
            cells.append({"subject": name, "task": task})
            inputs.append({"model": model, "dataset": dataset, **({} if own_head else {"head": expert})})
    return cells, inputs


def subjects(cells: list[dict[str, str]], results: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The subjects of ``cells``; ``results``: the metrics of the steps that made them, by their names."""
    known: dict[str, dict[str, Any]] = {name: {"role": "base"} for name in (BASE, CHAMPION)}
    known |= {expert_of(cell["task"]): {"role": "expert", "expert_of": cell["task"]} for cell in cells}
    for name, metrics in results.items():
        known[name] = {"role": "result", **{shown: metrics[metric] for shown, metric in SHOWN.items() if metric in metrics}}
    return [{"name": name, **known[name]} for name in dict.fromkeys(cell["subject"] for cell in cells)]


SHOWN = {name: name for name in ("cpu_seconds", "peak_memory_bytes", "extra_parameters")} | {"validation": "best_score"}
"""What the table says of a result beside its evaluations, by the metric of the step that made it."""


class CompareOperator(StepOperator):
    """The table of the mapped evaluations.

    :param cells: whose the evaluations are, in the order of the mapping.
    :param subjects: who was measured.
    """

    step = "compare"
    template_fields = (*StepOperator.template_fields, "cells", "subjects")

    def __init__(self, *, cells: Any, subjects: Any, evaluate_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells, self.subjects, self.evaluate_task = cells, subjects, evaluate_task

    def job(self, context: Context) -> Job:
        self.config = {"subjects": list(self.subjects), "cells": list(self.cells)}
        self.inputs = numbered_inputs({"reports": mapped_outputs(context, self.evaluate_task, "report", len(self.cells))})
        return super().job(context)


class PlanGatesOperator(BaseOperator):
    """Inputs of *gate*, one for each task: the report of the judged result and that of the champion, or of the base without one.

    :param cells: whose the evaluations are, in the order of the mapping.
    :param judged: name of the result.
    """

    template_fields = ("cells", "judged")

    def __init__(self, *, cells: Any, judged: Any, evaluate_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells, self.judged, self.evaluate_task = cells, judged, evaluate_task

    def execute(self, context: Context) -> list[dict[str, str]]:
        reports = mapped_outputs(context, self.evaluate_task, "report", len(self.cells))
        return gates(self.cells, reports, self.judged)


def gates(cells: list[dict[str, str]], reports: list[str], judged: str) -> list[dict[str, str]]:
    """Empty where there is neither a champion nor a base."""
    found = {(cell["task"], cell["subject"]): report for cell, report in zip(cells, reports, strict=True)}
    pairs = []
    for task in dict.fromkeys(cell["task"] for cell in cells):
        if rival := found.get((task, CHAMPION)) or found.get((task, BASE)):
            pairs.append({"challenger": found[task, judged], "champion": rival})
    return pairs
