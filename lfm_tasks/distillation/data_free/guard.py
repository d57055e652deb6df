"""Proof by refusal that no data is looked at: while the guard is on, opening a data set raises."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet
import torch.utils.data

from lfm_tasks.errors import LfmError

SUFFIXES = (".arrow", ".bmp", ".csv", ".gif", ".jpeg", ".jpg", ".jsonl", ".npy", ".npz", ".parquet", ".pgm", ".pkl", ".png", ".tar", ".tsv")
ENDINGS = ("-ubyte", "dataset.json")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_guarding: ContextVar[str] = ContextVar("guarding", default="")


class RealDataOpened(LfmError):
    """Something opened a data set inside a step that has none."""


@contextmanager
def no_data(step: str) -> Iterator[None]:
    """Inside the block, in this thread, raise :class:`RealDataOpened` where a data file is opened for reading, by name, or a data set by
    pyarrow, ``datasets`` or a ``DataLoader``, which open files of their own or hold what was opened before."""
    _install()
    doors = [
        (pyarrow.parquet.ParquetFile, "__init__"),
        (pyarrow.parquet, "read_table"),
        (pyarrow.dataset, "dataset"),
        (torch.utils.data.DataLoader, "__init__"),
    ]
    if "datasets" in sys.modules:
        doors += [(sys.modules["datasets"], name) for name in ("load_dataset", "load_from_disk")]
    with ExitStack() as open_again:
        open_again.callback(_guarding.reset, _guarding.set(step))
        for owner, name in doors:
            opens = getattr(owner, name)
            setattr(owner, name, _shut(opens, name))
            open_again.callback(setattr, owner, name, opens)
        yield


def _shut(opens: Callable[..., Any], name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _guarding.get():
            raise _refusal(f"{opens.__module__}.{opens.__qualname__}" if name != "__init__" else type(args[0]).__name__)
        return opens(*args, **kwargs)

    return refuse


def _refusal(what: str) -> RealDataOpened:
    return RealDataOpened(f"{what} was opened while {_guarding.get()} ran, which looks at no data. Give the data to another step.")


def is_data(path: Path) -> bool:
    """By its name."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(SUFFIXES + ENDINGS)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event not in ("open", "import") or not _guarding.get():
        return
    if event == "import" and args[0] == "datasets":
        raise _refusal("The package datasets")
    if event == "import" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path, mode, flags = Path(os.fsdecode(args[0])), args[1], args[2]
    reads = "r" in mode if mode else not flags & os.O_WRONLY
    if reads and is_data(path):
        raise _refusal(str(path))


def _install(installed: list[bool] = []) -> None:  # noqa: B006 - an audit hook cannot be taken away, so there is one in a process
    if not installed:
        sys.addaudithook(_watch)
        installed.append(True)
