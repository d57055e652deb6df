"""Which models to evaluate: every one that the triggering events announce, or the one of the form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from lfm_tasks.assets import MODEL
from lfm_tasks.errors import ConfigError, LfmError
from lfm_tasks.operators.base import check_params
from lfm_tasks.operators.connections import connect


class FindModelsOperator(BaseOperator):
    """A list of inputs of *evaluate*, ``{"model", "dataset"}``, one for each model.

    A model of an event is evaluated on the data set that its own record names; one without (a merge has none) is left out.

    :param dataset: the data set that was prepared for the form's model, ``prepare.output["dataset"]``.
    """

    template_fields = ("dataset",)

    def __init__(self, *, dataset: Any, **kwargs: Any) -> None:
        super().__init__(inlets=[MODEL], **kwargs)
        self.dataset = dataset

    def execute(self, context: Context) -> list[dict[str, str]]:
        params = dict(context["params"])
        events = events_of(context)
        try:
            check_params(params, context["dag"].params)
            if not events:
                return [of_form(params, self.dataset)]
            from lfm_tasks.artifacts.store import Store

            found, left_out = of_events(events, Store.open(connect().store).get_record)
        except LfmError as error:
            raise AirflowFailException(str(error)) from error
        for line in left_out:
            self.log.info(line)
        self.log.info("%d events name %d models to evaluate", len(events), len(found))
        return found


def events_of(context: Context) -> list[Mapping[str, Any]]:
    """What the triggering events say, and all events since the first of them; empty for a run that no event started.

    Airflow queues a DAG once, with the time of the first event. Events that come between that time and the start of the run (the
    run before may last) are neither given to this run nor do they start another.
    """
    given = [event for asset, found in context["triggering_asset_events"].items() if asset.name == MODEL.name for event in found]
    if not given:
        return []
    first = min(event.timestamp for event in given)
    return [event.extra for event in [*given, *context["inlet_events"][MODEL].after(first.isoformat())]]


def of_form(params: Mapping[str, Any], dataset: str | None) -> dict[str, str]:
    if not params["model"] or not dataset:
        raise ConfigError("Give a model and data to evaluate it on. Without them this DAG is started by what other DAGs produce.")
    return {"model": params["model"], "dataset": dataset}


def of_events(events: Iterable[Mapping[str, Any]], record_at: Any) -> tuple[list[dict[str, str]], list[str]]:
    """Inputs of *evaluate* for the models of ``events``, each once, and a line for each that is left out.

    :param record_at: gives the record at an address.
    """
    found, left_out = {}, []
    for event in events:
        address = f"{event.get('kind', 'model')} sha256:{event['sha256']}"
        if event.get("merged"):
            left_out.append(f"{address} is evaluated as its merged model {event['merged']}.")
            continue
        dataset = record_at(event["record"])["inputs"].get("dataset") if event.get("record") else None
        if dataset is None:
            left_out.append(f"{address} was made without a prepared data set, so there is none to evaluate it on. Use this DAG's form.")
            continue
        found[event["sha256"]] = {"model": f"sha256:{event['sha256']}", "dataset": f"sha256:{dataset['sha256']}"}
    return list(found.values()), left_out
