"""``lfm up``: the embedded stack in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import time
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from lfm_tasks.settings import Settings
from lfm_tasks.stack import credentials
from lfm_tasks.stack.embedded import Stack, embedded


def up(settings: Settings, console: Console | None = None) -> int:
    """Start everything, say where it is, and stay. Raises :class:`StackFailed` when a component dies."""
    console = console or Console()
    with suppress(KeyboardInterrupt), starting(settings, console) as stack:
        console.print(addresses(stack))
        console.print("Ctrl-C stops everything.")
        while True:
            stack.supervisor.check()
            time.sleep(0.5)
    console.print("Stopped.")
    return 0


def starting(settings: Settings, console: Console, **options):
    """:func:`embedded`, with a spinner that names what is being waited for."""
    from contextlib import contextmanager

    @contextmanager
    def shown():
        began = time.monotonic()
        status = console.status("Starting …")
        status.start()
        try:
            with embedded(settings, waiting=lambda names: status.update(f"Starting {', '.join(names)} …"), **options) as stack:
                status.stop()
                console.print(f"MLflow and Airflow are up ({time.monotonic() - began:.0f} s).")
                yield stack
        finally:
            status.stop()

    return shown()


def addresses(stack: Stack) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("Airflow", stack.addresses.airflow)
    table.add_row("  user", credentials.USER)
    table.add_row("  password", f"{credentials.password(stack.home)}   (kept in {credentials.password_file(stack.home)})")
    table.add_row("MLflow", stack.addresses.mlflow)
    table.add_row("Logs", str(stack.supervisor.logs))
    return table
