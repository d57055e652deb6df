"""What the embedded stack consists of: each server's command, environment and health."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from lfm_tasks.settings import Settings
from lfm_tasks.stack import credentials
from lfm_tasks.stack.ports import HOST
from lfm_tasks.stack.supervisor import Component

REPOSITORY = Path(__file__).parents[2]
COMMON = REPOSITORY / "docker" / "common.env"
"""Settings that the compose file reads too, so that what runs here tries them."""


@dataclass(frozen=True)
class Addresses:
    """Where the servers of one start are."""

    airflow_port: int
    mlflow_port: int

    @property
    def airflow(self) -> str:
        return f"http://{HOST}:{self.airflow_port}"

    @property
    def mlflow(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"


def common_environment() -> dict[str, str]:
    """The variables of ``docker/common.env``."""
    lines = (line.strip() for line in COMMON.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def task_environment(settings: Settings, addresses: Addresses, ledger: str) -> dict[str, str]:
    """What steps read: this process's own variables, with the places of this stack laid over them."""
    home = settings.home.resolve()
    python_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **os.environ,
        **common_environment(),
        "PATH": path,
        "PYTHONPATH": python_path,
        "PYTHONUNBUFFERED": "1",
        "LFM_HOME": str(home),
        "LFM_STORE_URI": settings.store,
        "LFM_MLFLOW_URI": addresses.mlflow,
        "LFM_LEDGER_URI": ledger,
        "LFM_INTERPRETER": settings.interpreter,
    }


def airflow_environment(settings: Settings, addresses: Addresses, urls: Mapping[str, str], dags: Path) -> dict[str, str]:
    """Every Airflow component gets the same: one way to differ less."""
    home = settings.home.resolve()
    keys = credentials.keys(home)
    return task_environment(settings, addresses, urls["lfm"]) | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(credentials.password_file(home)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{addresses.airflow}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": urls["airflow"],
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(addresses.airflow_port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": addresses.airflow,
        "AIRFLOW__API__SECRET_KEY": keys["session"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs" / "dag-files"),
    }


def airflow(subcommand: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "airflow", subcommand, *arguments)


def airflow_components(addresses: Addresses, environment: Mapping[str, str]) -> list[Component]:
    """In the order in which they start. There is no triggerer: no operator here defers."""
    health = f"{addresses.airflow}/api/v2/monitor/health"

    def component(name: str, part: str, *arguments: str) -> Component:
        return Component(f"airflow-{name}", airflow(name, *arguments), environment, lambda: _part_is_healthy(health, part))

    return [
        component("api-server", "metadatabase"),
        component("dag-processor", "dag_processor"),
        # Logs are read from files here; the scheduler's log server would listen on every interface.
        component("scheduler", "scheduler", "--skip-serve-logs"),
    ]


def mlflow_component(settings: Settings, addresses: Addresses, url: str) -> Component:
    """The tracking server. The database's URL goes by environment: command lines are public."""
    hosts = ",".join(f"{name}:{addresses.mlflow_port}" for name in (HOST, "localhost"))
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(addresses.mlflow_port), "--workers", "1"]
    command += ["--serve-artifacts", "--artifacts-destination", f"{settings.store}/mlflow", "--allowed-hosts", hosts]
    environment = task_environment(settings, addresses, "") | {"MLFLOW_BACKEND_STORE_URI": url}
    health = f"{addresses.mlflow}/health"
    return Component("mlflow", tuple(command), environment, lambda: _get(health) is not None)


def _part_is_healthy(url: str, part: str) -> bool:
    answer = _get(url)
    return answer is not None and answer.json().get(part, {}).get("status") == "healthy"


def _get(url: str) -> requests.Response | None:
    try:
        answer = requests.get(url, timeout=5)
    except requests.RequestException:
        return None
    return answer if answer.ok else None
