"""What the page reads: the store's index, refreshed at most every few seconds, and where MLflow shows a run."""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from urllib.parse import quote

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import TrackingUnavailable
from lfm_tasks.settings import Settings, settings
from lfm_tasks.tracking.index import LineageIndex
from lfm_tasks.tracking.rest import request, without_credentials

REFRESH_SECONDS = 2.0
MLFLOW_SECONDS = 2.0
ASK_MLFLOW_AGAIN_SECONDS = 15.0


class Mlflow:
    """Addresses of runs in MLflow's UI. The page never waits for MLflow longer than two seconds, nor again soon after that."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._experiments: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self.problem: str | None = None if tracking_uri.startswith("http") else "MLflow has no server here: there are no links to it."

    def run_url(self, project: str, run_id: str | None) -> str | None:
        """None where there is no such experiment, or MLflow did not say: see :attr:`problem`."""
        experiment = self._experiment(project) if run_id and self._uri.startswith("http") else None
        if experiment is None:
            return None
        return f"{without_credentials(self._uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def _experiment(self, project: str) -> str | None:
        now = time.monotonic()
        if now - self._asked.get(project, -ASK_MLFLOW_AGAIN_SECONDS) < ASK_MLFLOW_AGAIN_SECONDS:
            return self._experiments.get(project)
        self._asked[project] = now
        try:
            path = f"experiments/get-by-name?experiment_name={quote(project, safe='')}"
            self._experiments[project] = request(self._uri, path, None, MLFLOW_SECONDS)["experiment"]["experiment_id"]
            self.problem = None
        except FileNotFoundError:
            self.problem = None
        except TrackingUnavailable:
            self.problem = f"MLflow at {without_credentials(self._uri)} does not answer: links to it may lead nowhere."
        return self._experiments.get(project)


class Sources:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mlflow = Mlflow(settings.tracking_uri)
        self._index = LineageIndex(Store.open(settings.store))
        self._lock = threading.Lock()
        self._refreshed = float("-inf")

    def index(self) -> LineageIndex:
        """The index, not older than :data:`REFRESH_SECONDS`."""
        with self._lock:
            if time.monotonic() - self._refreshed > REFRESH_SECONDS:
                self._index.refresh()
                self._refreshed = time.monotonic()
        return self._index

    def notices(self) -> list[str]:
        """What could not be read, in sentences for the reader."""
        damaged = [f"{key} is left out: {why}" for key, why in self._index.snapshot.damaged.items()]
        return ([self.mlflow.problem] if self.mlflow.problem else []) + damaged


@lru_cache(maxsize=1)
def sources() -> Sources:
    """Those of this process. What Airflow's connections hold comes into its environment first, as it does for a step."""
    if settings().store_connection or settings().mlflow_connection:
        from lfm_tasks.operators.connections import connect

        connect()
    return Sources(settings())
