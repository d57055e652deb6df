"""Searches over merges: a mapped one for each method; who is best on validation is judged on test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.form import config_values, override
from lfm_tasks.operators.base import of_params
from lfm_tasks.operators.merging import AfterPrepareOperator, ResultsOperator, made, sources
from lfm_tasks.steps import STEPS


class PlanSearchOperator(BaseOperator):
    """Inputs of *prepare*, one for each of the Param ``data``; every method's search is checked before anything runs."""

    def execute(self, context: Context) -> list[dict[str, str]]:
        planned, inputs = of_params(context, lambda params: (searches(params), sources(params)))
        self.log.info("%d searches: %s", len(planned), planned)
        return inputs


def searches(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each of the Param ``methods`` varies: those that it has of the options in ``search_merge_search``.

    Raises :class:`ConfigError` that names every method that cannot be searched, and for an option that none of them has.
    """
    methods, search = list(params["methods"]), dict(params["search_merge_search"])
    if not methods:
        raise ConfigError("methods names none. Give one or more to search.")
    if len(set(methods)) < len(methods):
        raise ConfigError(f"methods names one twice: {', '.join(methods)}. Give each once.")
    step = STEPS["search_merge"]
    known = [card.name for card in step.config_class.methods()]
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(f"methods: {unknown_name('method', unknown[0], known)}")
    options = {method: METHODS[method].config_class.model_fields for method in methods}
    if nobodys := [name for name in search if not any(name in one for one in options.values())]:
        what = f"option of {', '.join(methods)}"
        raise ConfigError(f"search: {unknown_name(what, nobodys[0], set().union(*options.values()))}")
    planned, refused, values = [], [], config_values(step, step.name, params)
    for method, own in options.items():
        planned.append({"method": method, "search": {name: given for name, given in search.items() if name in own}})
        try:
            parse_config(step.config_class, override(step, values, planned[-1]), where=f"Params {step.name}_*")
        except ConfigError as error:
            refused.append(f"{method}: {error}")
    if refused:
        raise ConfigError(f"{len(refused)} of {len(methods)} methods cannot be searched; nothing was started. " + " ".join(refused))
    return planned


class PlanSearchesOperator(AfterPrepareOperator):
    """What *search_merge* is given for each method."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        params = dict(context["params"])
        inputs = {"models": list(params["models"]), "datasets": self.datasets(context)}
        return [{"config": config, "inputs": inputs} for config in searches(params)]


class PlanSearchEvaluationsOperator(ResultsOperator):
    """The results are the searches' winners; the one that is best on validation is judged, and a method that failed is left out.

    :param search_task: id of the mapped search task.
    """

    def __init__(self, *, search_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.search_task = search_task

    def results(self, context: Context) -> tuple[str, dict[str, Any]]:
        found = made(context, self.search_task, list(context["params"]["methods"]))
        return best_on_validation({name: one["summary"]["best"] for name, one in found.items()}), found


def best_on_validation(winners: Mapping[str, Mapping[str, Any]]) -> str:
    """The method whose winner scores best, of equals by the other measure, then the first; ``winners`` as the searches describe them."""
    return max(winners, key=lambda name: (winners[name]["score"], winners[name]["tie_break"]))
