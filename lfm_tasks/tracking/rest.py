"""Small requests to MLflow without MLflow: for a task that is being killed and has three seconds left. Light to import."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from lfm_tasks.errors import TrackingUnavailable
from lfm_tasks.tracking.filters import equals


def set_terminated(tracking_uri: str, run_id: str, status: str, timeout: float = 2.0) -> None:
    """Close run ``run_id`` as ``status`` (KILLED, FAILED, FINISHED); doing it twice changes only the end time.

    Raises :class:`TrackingUnavailable` when MLflow did not do it within ``timeout`` seconds.
    """
    if not tracking_uri.startswith("http"):
        from mlflow import MlflowClient

        MlflowClient(tracking_uri).set_terminated(run_id, status)
        return
    request(tracking_uri, "runs/update", {"run_id": run_id, "status": status, "end_time": int(time.time() * 1000)}, timeout)


def finish_parent(tracking_uri: str, project: str, key: str, status: str, timeout: float = 5.0) -> bool:
    """Close the parent run with tag ``lfm.key`` = ``key``; False where there is none. ``timeout`` is for each of 3 requests."""
    if not tracking_uri.startswith("http"):
        return _finish_parent_by_client(tracking_uri, project, key, status)
    try:
        experiment = request(tracking_uri, f"experiments/get-by-name?experiment_name={quote(project, safe='')}", None, timeout)[
            "experiment"
        ]
    except FileNotFoundError:
        return False
    query = {"experiment_ids": [experiment["experiment_id"]], "filter": equals("lfm.key", key), "max_results": 10}
    runs = request(tracking_uri, "runs/search", query, timeout).get("runs", [])
    for run in runs:
        if {"key": "lfm.key", "value": key} in run["data"].get("tags", []):
            set_terminated(tracking_uri, run["info"]["run_id"], status, timeout)
            return True
    return False


def request(tracking_uri: str, path: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    """One request to MLflow's REST API 2.0 (GET without a body). Raises :class:`FileNotFoundError` on 404."""
    address = f"{without_credentials(tracking_uri).rstrip('/')}/api/2.0/mlflow/{path}"
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json", **_authorization(tracking_uri)})
    try:
        with urllib.request.urlopen(asked, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(path) from error
        raise TrackingUnavailable(f"MLflow answered {error.code} to {path.partition('?')[0]}.") from error
    except (OSError, ValueError) as error:
        raise TrackingUnavailable(f"MLflow did not answer to {path.partition('?')[0]} within {timeout:g} s: {error}.") from error


def without_credentials(uri: str) -> str:
    """``uri`` as it may be shown: no user, no password, no query."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("sqlite"):
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _authorization(tracking_uri: str) -> dict[str, str]:
    """From the address itself, as MLflow's client takes it, else from the environment."""
    parts = urlsplit(tracking_uri)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _finish_parent_by_client(tracking_uri: str, project: str, key: str, status: str) -> bool:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(project)
    for run in client.search_runs([experiment.experiment_id], equals("lfm.key", key)) if experiment else ():
        if run.data.tags.get("lfm.key") == key:
            client.set_terminated(run.info.run_id, status)
            return True
    return False
