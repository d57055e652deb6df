"""Numbers and tables as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The first column is text; text that came from outside is shown as it is, never as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console().print(table)


def duration(seconds: float) -> str:
    return "" if not seconds else f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"


def byte_count(size: float) -> str:
    return "" if not size else f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.2f} GiB"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def money(amount: float | None, currency: str | None) -> str:
    return "" if amount is None else f"{amount:.4f} {currency or ''}".strip()


def interval(measured: Mapping[str, Any] | None) -> str:
    return "" if measured is None else f"{measured['value']:.4g} [{measured['low']:.4g}, {measured['high']:.4g}]"
