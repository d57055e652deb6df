"""What became of a model that a gate had judged, found by the tags of the attempts that promoted it or did not."""

from __future__ import annotations

import json

from lfm_tasks.artifacts.store import Store
from lfm_tasks.step import Verdict
from lfm_tasks.tracking.mlflow_connection import Connection
from lfm_tasks.tracking.records import RECORD


def last_verdict(connection: Connection, experiment_id: str, store: Store, model: str, dataset: str) -> Verdict | None:
    """The newest finished *promote* of the artifact ``model`` on a decision about ``dataset``.

    A question that nobody answered in time and a dry run decide nothing.
    """
    chosen = f"tags.`lfm.step` = 'promote' AND tags.`lfm.input.model` = '{model}' AND attributes.status = 'FINISHED'"
    order = ["attributes.start_time DESC"]
    for run in connection.call(connection.client.search_runs, [experiment_id], chosen, max_results=100, order_by=order):
        if RECORD not in run.data.tags:
            continue
        address = run.data.tags[RECORD]
        record = store.get_record(address)
        summary, decision = record["summary"], record["inputs"]["decision"]["sha256"]
        undecided = summary.get("timed_out") or summary.get("dry_run")
        data = None if undecided else store.backend.get_bytes(f"artifacts/report/{decision}/decision.json")
        if data is not None and json.loads(data)["dataset_sha256"] == dataset:
            return Verdict(summary["outcome"], summary["moved"], address, record["finished"])
    return None
