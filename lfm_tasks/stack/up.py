"""``lfm up``: the embedded stack in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lfm_tasks.settings import Settings
from lfm_tasks.stack import credentials
from lfm_tasks.stack.components import REPOSITORY
from lfm_tasks.stack.embedded import Stack, embedded


def up(settings: Settings, console: Console | None = None) -> int:
    """Start everything, say where it is, and stay. Raises :class:`StackFailed` when a component dies."""
    console = console or terminal()
    with suppress(KeyboardInterrupt), starting(settings, console) as stack:
        console.print(addresses(stack))
        console.print("Ctrl-C stops everything.")
        while True:
            stack.supervisor.check()
            time.sleep(0.5)
    console.print("Stopped.")
    return 0


@contextmanager
def starting(settings: Settings, console: Console, dags: Path = REPOSITORY / "dags") -> Iterator[Stack]:
    """:func:`embedded`, with a spinner that names what is being waited for."""
    began = time.monotonic()
    status = console.status("Starting …")
    with status, embedded(settings, dags, waiting=lambda names: status.update(f"Starting {', '.join(names)} …")) as stack:
        status.stop()
        console.print(f"MLflow and Airflow are up ({time.monotonic() - began:.0f} s).")
        yield stack
        status.update("Stopping …")
        status.start()


def terminal() -> Console:
    """The terminal as it is; lines of a log file are not folded at 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def addresses(stack: Stack) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("Airflow", stack.addresses.airflow)
    table.add_row("  user", credentials.USER)
    table.add_row("  password", f"{credentials.password(stack.home)}   (kept in {credentials.password_file(stack.home)})")
    table.add_row("MLflow", stack.addresses.mlflow)
    table.add_row("  for lfm", f"export LFM_MLFLOW_URI={stack.addresses.mlflow} LFM_LEDGER_URI='{stack.environment['LFM_LEDGER_URI']}'")
    table.add_row("Logs", str(stack.supervisor.logs))
    return table
