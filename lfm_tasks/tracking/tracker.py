"""What the runner tells MLflow: parents, attempts, metrics on the way, and the record at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelInput, LoggedModelOutput, Run
from mlflow.exceptions import MlflowException

from lfm_tasks.artifacts.references import Reference
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError, TrackingUnavailable
from lfm_tasks.names import check_name
from lfm_tasks.settings import Settings
from lfm_tasks.tracking import records
from lfm_tasks.tracking.cost import FREE, Prices
from lfm_tasks.tracking.filters import equals
from lfm_tasks.tracking.ledger import Ledger
from lfm_tasks.tracking.logged_models import PAGE, LoggedModels
from lfm_tasks.tracking.mlflow_connection import Connection, is_missing
from lfm_tasks.tracking.models import RegisteredModels
from lfm_tasks.tracking.redact import redact
from lfm_tasks.tracking.reporter import Reporter

KEY, ROLE = "lfm.key", "lfm.role"
TEXTS_PER_BATCH = 100
"""Parameters and tags. MLflow takes a hundred of each, and a megabyte."""
METRICS_PER_BATCH = 800
"""MLflow takes a thousand of all."""


class Tracker:
    """One connection to MLflow. Every method but :meth:`report` raises :class:`TrackingUnavailable` when MLflow is away."""

    def __init__(self, connection: Connection, store: Store, ledger: Ledger, project: str, prices: Prices = FREE) -> None:
        self.connection, self.store, self.ledger, self.prices = connection, store, ledger, prices
        self._client = connection.client
        self._experiments: dict[str, str] = {}
        self.project = check_name("Project", project)
        self.experiment_id = self._experiment(project)
        self._logged: dict[str, LoggedModels] = {}
        self._reporters: dict[str, Reporter] = {}
        self._closed: set[str] = set()
        self._replayed_parents: dict[str, int] = {}
        self._who: dict[str, str] = {}
        self.registry = RegisteredModels(connection, ledger, self._models(self.experiment_id), lambda: self._who)

    @classmethod
    def open(cls, settings: Settings, store: Store) -> Tracker:
        """Check that MLflow answers, and find or make the experiment ``settings.project``."""
        return cls(Connection(settings), store, Ledger(settings.ledger, store), settings.project, Prices.of(settings))

    def run_url(self, run_id: str) -> str:
        """Address of the run's page in MLflow's UI; empty without a server."""
        base = self.connection.shown_uri.rstrip("/")
        return f"{base}/#/experiments/{self.experiment_id}/runs/{run_id}" if self.connection.is_server else ""

    def parent(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        """Run id of the parent run with tag ``lfm.key`` = ``key``; found before it is made."""
        return self._parent(self.experiment_id, key, name, tags).info.run_id

    def finish_parent(self, key: str, status: str) -> None:
        """Close the parent run; no error where there is none."""
        found = self.find_run(key)
        if found is not None:
            self.connection.call(self._client.set_terminated, found.info.run_id, status)

    def open_attempt(self, parent_run_id: str | None, key: str, name: str, tags: Mapping[str, str]) -> str:
        """Run id of the attempt ``key`` (which holds the try number); found before it is made. Starts system metrics."""
        run = self._open(self.experiment_id, key, name, {**tags, ROLE: "attempt"}, parent_run_id)
        self._who = {"run_id": run.info.run_id, **{k: v for k, v in tags.items() if k.startswith("airflow.") and k != "airflow.url"}}
        self._reporters[run.info.run_id] = Reporter(self.connection, run.info.run_id)
        return run.info.run_id

    def report(self, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Queue metrics; a thread sends them every two seconds. A failure is a warning, never an error."""
        if run_id not in self._reporters:
            self._reporters[run_id] = Reporter(self.connection, run_id)
        self._reporters[run_id].put(step, metrics)

    def log_record(self, address: str, record: dict[str, Any], figures: Sequence[Path] = ()) -> dict[str, str]:
        """Put the whole record into MLflow, once; returns {artifact sha256: LoggedModel id} of its models and adapters.

        The record alone is enough: a run that this MLflow does not know is found by its key, or made. Status and times
        are those of the record. Edges go first and the tag ``lfm.record`` last, so that a run with the tag has them all.
        """
        experiment_id = self._experiment(record["project"])
        run = self._run_of(record, experiment_id)
        models = self._link(run, record, address, self._models(experiment_id))
        if run.data.tags.get(records.RECORD) != address:
            self._show(run.info.run_id, figures)
            self._describe(run.info.run_id, record, models, records.tags(record) | {records.RECORD: address})
        if run.info.status != "FINISHED":
            self._end(run.info.run_id, "FINISHED", records.milliseconds(record["finished"]))
        return models

    def close_attempt(self, run_id: str, status: str, error: str | None = None) -> None:
        """Send what is queued, stop system metrics, set FINISHED, FAILED or KILLED. Closing twice changes nothing."""
        if reporter := self._reporters.pop(run_id, None):
            reporter.close()
        if error:
            message = redact(error)[: records.TAG_LENGTH]
            self.connection.call(self._client.set_tag, run_id, "lfm.error", message)
        if run_id not in self._closed:
            self._end(run_id, status)

    def resolve(self, reference: Reference) -> tuple[str, str]:
        """(artifact sha256, version) that a ``models:/`` reference names; raises :class:`ReferenceRefused` if none."""
        return self.registry.resolve(reference)

    def find_run(self, key: str, experiment_id: str | None = None) -> Run | None:
        """The oldest run with tag ``lfm.key`` = ``key``."""
        found = self.connection.call(
            self._client.search_runs, [experiment_id or self.experiment_id], equals(KEY, key), order_by=["attributes.start_time ASC"]
        )
        return next((run for run in found if run.data.tags.get(KEY) == key), None)

    def recorded(self) -> dict[str, str]:
        """{record address: run id} of the records that this MLflow holds in full, over all projects."""
        chosen = f"tags.`{records.RECORD}` LIKE '%' AND attributes.status = 'FINISHED'"
        return {run.data.tags[records.RECORD]: run.info.run_id for run in self.search(chosen, self._experiment_ids())}

    def search(self, chosen: str, experiment_ids: list[str] | None = None) -> list[Run]:
        """Every run that the filter chooses, page after page."""
        found, token = [], None
        while True:
            page = self.connection.call(
                self._client.search_runs, experiment_ids or [self.experiment_id], chosen, max_results=1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def running(self) -> dict[str, str]:
        """{run id: key} of the attempts that run, over all projects."""
        found = self.search(f"attributes.status = 'RUNNING' AND tags.`{ROLE}` = 'attempt'", self._experiment_ids())
        return {run.info.run_id: run.data.tags.get(KEY, "") for run in found}

    def withdraw(self, sha256: str, files: Mapping[str, str]) -> None:
        """Take an artifact's files out of what MLflow shows, in every project, see :meth:`LoggedModels.withdraw`."""
        for experiment_id in self._experiment_ids():
            self._models(experiment_id).withdraw(sha256, files)

    # A record becomes a run.

    def _run_of(self, record: dict[str, Any], experiment_id: str) -> Run:
        if (run_id := record["mlflow"].get("run_id")) and (run := self._get(run_id)) is not None:
            return run
        attempt, started = record["attempt"], records.milliseconds(record["started"])
        if (run := self.find_run(attempt["key"], experiment_id)) is not None:
            return run
        parent = self._replayed_parent(record, experiment_id)
        tags = {ROLE: "attempt", "lfm.replayed": "true"}
        return self._open(experiment_id, attempt["key"], attempt["name"], tags, parent, started)

    def _replayed_parent(self, record: dict[str, Any], experiment_id: str) -> str | None:
        """The parent's run id; one that is made here covers the times of its children."""
        key = (record.get("parent") or {}).get("key")
        if not key:
            return None
        tags = {f"airflow.{k}": v for k, v in (record.get("airflow") or {}).items() if k in ("dag_id", "run_id", "user")}
        tags["lfm.replayed"] = "true"
        run = self._parent(experiment_id, key, record["parent"].get("name") or key, tags, records.milliseconds(record["started"]))
        end = records.milliseconds(record["finished"])
        if run.data.tags.get("lfm.replayed") and end > max(run.info.end_time or 0, self._replayed_parents.get(key, 0)):
            self._replayed_parents[key] = end
            self.connection.call(self._client.set_terminated, run.info.run_id, "FINISHED", end)
        return run.info.run_id

    def _link(self, run: Run, record: dict[str, Any], address: str, logged: LoggedModels) -> dict[str, str]:
        """Draw the edges that the run does not have yet."""
        run_id, about = run.info.run_id, {records.RECORD: address, "lfm.step": record["step"], "lfm.method": record.get("method")}
        about[PAGE] = records.page_url(record)
        given, made = records.input_models(record), records.models(record, "outputs")
        logged.look_up(given | made)
        inputs, outputs = logged.ensure(given), logged.ensure(made, run_id, records.clean_tags(about))
        if run.data.tags.get(records.RECORD) != address:
            datasets, models = records.datasets(record), [LoggedModelInput(model_id) for model_id in inputs.values()]
            if datasets or models:
                self.connection.call(self._client.log_inputs, run_id, datasets=datasets, models=models)
            drawn = _outputs(run)
            self._draw_outputs(run_id, [LoggedModelOutput(model_id, 0) for model_id in outputs.values() if model_id not in drawn])
        return inputs | outputs

    def _draw_outputs(self, run_id: str, outputs: list[LoggedModelOutput]) -> None:
        """MLflow refuses to draw an edge twice, so a request without an answer is followed by a look."""
        if not outputs:
            return
        with suppress(TrackingUnavailable):
            self.connection.call(self._client.log_outputs, run_id, models=outputs, retries=0)
            return
        wanted = {output.model_id for output in outputs}
        self.connection.create(
            lambda: True if wanted <= _outputs(self._client.get_run(run_id)) else None,
            lambda: self._client.log_outputs(run_id, models=outputs) is None,
        )

    def _describe(self, run_id: str, record: dict[str, Any], models: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Parameters, metrics and tags in as few batches as MLflow takes; the last of the tags is in the last."""
        params, metrics, run_tags = records.params(record), records.metrics(record, models, self.prices), records.run_tags(tags)
        told = {"params": params, "metrics": metrics, "tags": run_tags}
        count = max(ceil((len(params) + len(run_tags)) / TEXTS_PER_BATCH), ceil(len(metrics) / METRICS_PER_BATCH))
        for k in range(count):
            batch = {name: given[len(given) * k // count : len(given) * (k + 1) // count] for name, given in told.items()}
            self.connection.call(self._client.log_batch, run_id, **batch)

    def _show(self, run_id: str, figures: Sequence[Path]) -> None:
        """Put pictures and tables beside the run; they are for the eye, so a failure is a warning."""
        try:
            for path in figures:
                self.connection.call(self._client.log_artifact, run_id, str(path), "report", retries=0)
        except Exception as error:
            print(f"Warning: MLflow did not take the run's figures: {error}", file=sys.stderr, flush=True)

    def _end(self, run_id: str, status: str, time: int | None = None) -> None:
        self.connection.call(self._client.set_terminated, run_id, status, time)
        self._closed.add(run_id)

    # Runs and experiments, found before they are made.

    def _open(
        self, experiment_id: str, key: str, name: str, tags: Mapping[str, Any], parent: str | None = None, started: int | None = None
    ) -> Run:
        nested = {"mlflow.parentRunId": parent} if parent else {}
        return self.connection.create(
            lambda: self.find_run(key, experiment_id),
            lambda: self._client.create_run(experiment_id, started, records.clean_tags({**tags, **nested, KEY: key}), name),
        )

    def _parent(self, experiment_id: str, key: str, name: str, tags: Mapping[str, str], started: int | None = None) -> Run:
        """Several tasks of a DAG run may begin at once: the first makes the parent, under a lock."""
        if (run := self.find_run(key, experiment_id)) is not None:
            return run
        with self.ledger.locks.hold(f"parent {key}"):
            return self._open(experiment_id, key, name, {**tags, ROLE: "parent"}, None, started)

    def _get(self, run_id: str) -> Run | None:
        try:
            run = self.connection.call(self._client.get_run, run_id)
        except MlflowException as error:
            if is_missing(error):
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _models(self, experiment_id: str) -> LoggedModels:
        if experiment_id not in self._logged:
            self._logged[experiment_id] = LoggedModels(self.connection, experiment_id, self.store, self.ledger.locks)
        return self._logged[experiment_id]

    def _experiment_ids(self) -> list[str]:
        return [experiment.experiment_id for experiment in self.connection.call(self._client.search_experiments)]

    def _experiment(self, project: str) -> str:
        if project not in self._experiments:
            found = self.connection.create(
                lambda: self._client.get_experiment_by_name(check_name("Project", project)), lambda: self._make_experiment(project)
            )
            if found.lifecycle_stage != "active":
                raise ConfigError(f"Experiment {project!r} was deleted in MLflow. Restore it there or set LFM_PROJECT to another name.")
            self._experiments[project] = found.experiment_id
        return self._experiments[project]

    def _make_experiment(self, project: str) -> Any:
        """A server chooses where its artifacts are; a bare database would choose a directory of this process."""
        location = None if self.connection.is_server else f"{self.store.backend.uri}/mlflow/{project}"
        try:
            self._client.create_experiment(project, location, {"mlflow.experimentKind": "custom_model_development"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._client.get_experiment_by_name(project)


def _outputs(run: Run) -> set[str]:
    return {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
