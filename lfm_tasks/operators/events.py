"""Announce what a step made, as events of the assets in :mod:`lfm_tasks.assets`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.sdk import Context

from lfm_tasks.assets import ANNOUNCED
from lfm_tasks.registry import Step
from lfm_tasks.runner.job import Job, JobResult


def announce(context: Context, outlets: Iterable[Any], step: Step, job: Job, result: JobResult) -> None:
    """An event for each model, adapter and data set that ``result`` made, where its alias is among ``outlets``.

    A cache hit made nothing. What is one of many (the models along a training) is not announced. An adapter whose merged model is
    made beside it says so by ``merged``, for it is the same model.
    """
    declared = {getattr(outlet, "name", None) for outlet in outlets}
    if result.cache == "hit" or not declared:
        return
    merged = next((reference for name, reference in result.outputs.items() if step.outputs.get(name) == "model"), None)
    for name, reference in result.outputs.items():
        kind = step.outputs.get(name)
        if kind not in ANNOUNCED or ANNOUNCED[kind][0].name not in declared:
            continue
        alias, asset = ANNOUNCED[kind]
        extra = {"sha256": reference.removeprefix("sha256:"), "kind": kind, "step": step.name, "method": job.config.get("method")}
        extra |= {"record": result.record, "run_id": result.run_id, "merged": merged if kind == "adapter" else None}
        context["outlet_events"][alias].add(asset, extra=extra)
