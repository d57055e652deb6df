"""The embedded stack as one context manager: everything up and healthy inside it, nothing left behind after it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lfm_tasks.settings import Settings
from lfm_tasks.stack import credentials
from lfm_tasks.stack.airflow_client import AirflowClient
from lfm_tasks.stack.components import (
    REPOSITORY,
    Addresses,
    airflow,
    airflow_components,
    airflow_environment,
    mlflow_component,
    task_environment,
)
from lfm_tasks.stack.database import databases
from lfm_tasks.stack.ports import free_ports
from lfm_tasks.stack.supervisor import StackFailed, Supervisor

POOLS = {"cpu_heavy": (1, "Work that fills this machine's cores"), "gpu": (1, "One slot for each GPU")}


@dataclass(frozen=True)
class Stack:
    """A running stack. ``environment`` is what a step or a client of ours needs to reach it."""

    home: Path
    addresses: Addresses
    airflow: AirflowClient
    environment: Mapping[str, str]
    supervisor: Supervisor

    def settings(self) -> Settings:
        """Settings of a client of this stack."""
        places = {name.removeprefix("LFM_").lower(): value for name, value in self.environment.items() if name.startswith("LFM_")}
        return Settings(**places)


@contextmanager
def embedded(
    settings: Settings, dags: Path = REPOSITORY / "dags", waiting: Callable[[Sequence[str]], None] = lambda names: None
) -> Iterator[Stack]:
    """Start PostgreSQL, MLflow and Airflow; stop them when the block ends, however it ends (also by SIGTERM).

    :param waiting: told what is being waited for, several times a second.
    :raises StackFailed: with the end of the log of the component that failed, or when this home is in use.
    """
    home = settings.home.resolve()
    (home / "airflow").mkdir(parents=True, exist_ok=True)
    (home / "airflow").chmod(0o700)
    with _only_one(home), _interruptible(), Supervisor(home / "logs") as supervisor:
        waiting(["postgres"])
        with databases(settings, supervisor) as urls:
            addresses = Addresses(*free_ports(2))
            supervisor.start(mlflow_component(settings, addresses, urls["mlflow"]))
            environment = airflow_environment(settings, addresses, urls, dags.resolve())
            password = credentials.password(home)
            waiting(["mlflow", "airflow-db-migrate"])
            _migrate(home, urls["airflow"], supervisor, environment)
            for component in airflow_components(addresses, environment):
                supervisor.start(component)
            supervisor.wait(waiting)
            client = AirflowClient(addresses.airflow, credentials.USER, password)
            for name, (slots, description) in POOLS.items():
                client.pool(name, slots, description)
            yield Stack(home, addresses, client, task_environment(settings, addresses, urls["lfm"]), supervisor)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock, which ends with the process; raises :class:`StackFailed` where somebody else holds it."""
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StackFailed(
                f"{home} is in use by process {lock.read().strip() or '?'} (`lfm up` or `lfm demo`). "
                "Stop it first, or set LFM_HOME to another directory."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into KeyboardInterrupt; later ones must not disturb the stopping."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _migrate(home: Path, url: str, supervisor: Supervisor, environment: Mapping[str, str]) -> None:
    """Bring Airflow's schema up to date; skipped where this version of Airflow left the database as it is now."""
    stamp = home / "airflow" / "migrated"
    if stamp.exists() and stamp.read_text() == _schema(url):
        return
    supervisor.run("airflow-db-migrate", airflow("db", "migrate"), environment)
    stamp.write_text(_schema(url))


def _schema(url: str) -> str:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError

    revision = ""
    engine = create_engine(url)
    with suppress(DBAPIError), engine.connect() as connection:
        revision = ",".join(connection.execute(text("select version_num from alembic_version order by 1")).scalars())
    engine.dispose()
    return f"{version('apache-airflow-core')} {revision}"
