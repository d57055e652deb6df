"""Airflow's REST API, as far as the demo and the tests need it."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any
from urllib.parse import quote

import requests

from lfm_tasks.errors import LfmError, Unavailable


class AirflowRefused(LfmError):
    """Airflow answered, and said no."""


class AirflowClient:
    """Logs in with a user's password on the first request. Raises :class:`Unavailable` when Airflow does not answer."""

    def __init__(self, address: str, user: str, password: str, timeout: float = 30.0) -> None:
        self.address = address.rstrip("/")
        self._user, self._password, self._timeout = user, password, timeout
        self._session = requests.Session()

    def pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, or leave it as it is: an operator may have given it more slots."""
        if self.get(f"pools/{quote(name)}", missing_ok=True) is None:
            self._call("POST", "pools", {"name": name, "slots": slots, "description": description, "include_deferred": True})

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        return self.get(f"dags/{quote(dag_id)}", missing_ok=True)

    def import_errors(self) -> dict[str, str]:
        """Stack traces of DAG files that cannot be imported, by file name."""
        return {error["filename"]: error["stack_trace"] for error in self.get("importErrors")["import_errors"]}

    def unpause(self, dag_id: str) -> None:
        self._call("PATCH", f"dags/{quote(dag_id)}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run now; returns its run id."""
        return self._call("POST", f"dags/{quote(dag_id)}/dagRuns", {"logical_date": None, "conf": conf or {}})["dag_run_id"]

    def fail(self, dag_id: str, run_id: str) -> None:
        """End a run as failed, so that a scheduler that starts later does not go on with it."""
        self._call("PATCH", _run_path(dag_id, run_id), {"state": "failed"})

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self.get(_run_path(dag_id, run_id))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run, in Airflow's words (``task_id``, ``state``, ``start_date``, ``duration``, ``try_number``)."""
        return self.get(f"{_run_path(dag_id, run_id)}/taskInstances?limit=100")["task_instances"]

    def task_order(self, dag_id: str) -> list[str]:
        """Task ids of a DAG, each after those it waits for."""
        downstream = {task["task_id"]: task["downstream_task_ids"] for task in self.get(f"dags/{quote(dag_id)}/tasks")["tasks"]}
        sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(downstream, ()))
        for task, followers in downstream.items():
            for follower in followers:
                sorter.add(follower, task)
        return list(sorter.static_order())

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> list[str]:
        """Lines of one try of a task; of a mapped task that of the instance ``map_index``."""
        answer = self.get(
            f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}?full_content=true&map_index={map_index}"
        )
        return [_line(entry) for entry in answer.get("content", [])]

    def get(self, path: str, missing_ok: bool = False) -> Any:
        return self._call("GET", path, missing_ok=missing_ok)

    def _call(self, method: str, path: str, body: Any = None, missing_ok: bool = False) -> Any:
        if "Authorization" not in self._session.headers:
            self._log_in()
        answer = self._send(method, f"/api/v2/{path}", body)
        if answer.status_code == 401:
            self._log_in()
            answer = self._send(method, f"/api/v2/{path}", body)
        if answer.status_code == 404 and missing_ok:
            return None
        if not answer.ok:
            raise AirflowRefused(f"Airflow answered {answer.status_code} to {method} {path}: {_detail(answer)}")
        return answer.json()

    def _log_in(self) -> None:
        self._session.headers.pop("Authorization", None)
        answer = self._send("POST", "/auth/token", {"username": self._user, "password": self._password})
        if not answer.ok:
            raise AirflowRefused(f"Airflow at {self.address} does not accept the password of user {self._user!r}.")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _send(self, method: str, path: str, body: Any) -> requests.Response:
        try:
            return self._session.request(method, self.address + path, json=body, timeout=self._timeout)
        except requests.RequestException as error:
            raise Unavailable(f"Airflow at {self.address} did not answer to {method} {path}: {type(error).__name__}.") from error


def _run_path(dag_id: str, run_id: str) -> str:
    return f"dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _line(entry: Any) -> str:
    """One entry of a task's log; what it says of an exception is the exception's own words."""
    if isinstance(entry, str):
        return entry
    raised = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return "\n".join([str(entry.get("event", "")), *raised])


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json().get("detail"))[:500]
    except ValueError:
        return answer.text[:200]
