"""Steps and method cards, resolved lazily: listing them imports no torch.

A *step* is a unit of work (prepare, tune, …); a *method* is one algorithm inside a step (lora, ties, …). Both are
declared here as text (``package.module:Name``), so that DAG files, forms and ``lfm methods`` stay light.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.importing import undisturbed_imports

Access = Literal["weights", "gradients", "activations", "logits", "probabilities", "labels", "text"]
Kind = Literal["dataset", "model", "adapter", "signals", "statistics", "report"]


def resolve(target: str) -> Any:
    """Import the object that ``package.module:Name`` names."""
    module, _, name = target.partition(":")
    with undisturbed_imports():
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class InputSpec:
    """What a step accepts under one input name.

    ``many``: one artifact or more, in order, named ``<name>.0``, ``<name>.1``, … ``refuse_revoked`` refuses what descends
    from a revoked artifact. Of a step with such inputs, the others are only what it compares with: a mark does not go
    through them.
    """

    kinds: tuple[Kind, ...]
    description: str
    required: bool = True
    many: bool = False
    refuse_revoked: bool = False


@dataclass(frozen=True)
class Step:
    """A step's declaration. ``run`` is ``(config, inputs, context) -> Outcome`` (see :mod:`lfm_tasks.step`).

    An output may be many, in order: ``<name>.0``, ``<name>.1``, … as inputs are.
    ``code`` names the packages and modules whose source enters the cache key: all that the step imports (a test holds it to that).
    ``distributed``: with torchrun or accelerate every process runs the step's function, which divides the work among them.
    ``ranged`` names the inputs whose weights (of adapters: their bases') it reads by byte ranges where the store is remote, if at
    all, so that they are never on local disk; ``ranged_unless``: an input with which it opens those models from disk after all.
    """

    name: str
    title: str
    config: str
    run: str
    inputs: dict[str, InputSpec]
    outputs: dict[str, Kind]
    code: tuple[str, ...]
    cached: bool = True
    distributed: bool = False
    ranged: tuple[str, ...] = ()
    ranged_unless: str = ""

    def reads_by_range(self, name: str, given: Iterable[str]) -> bool:
        """Whether the weights of the input ``name`` (of many: ``models.0``) may stay in the store where ``given`` are the inputs."""
        return name.partition(".")[0] in self.ranged and self.ranged_unless not in {one.partition(".")[0] for one in given}

    @property
    def config_class(self) -> type[Config]:
        return resolve(self.config)

    @property
    def function(self) -> Callable[..., Any]:
        return resolve(self.run)

    def output_kind(self, name: str) -> Kind:
        return self.outputs[name.partition(".")[0]]


@dataclass(frozen=True)
class Card:
    """A method's declaration: what it is, what it needs, what it costs."""

    name: str
    area: str
    step: str
    title: str
    config: str
    implementation: str
    paper: str
    access: tuple[Access, ...]
    preconditions: str
    cost: str
    tasks: tuple[str, ...] = field(default=())
    enough: tuple[Access, ...] = ()
    """What of a teacher is enough where ``access`` cannot be had, as an artifact of kind ``signals`` that says so; empty: nothing is."""
    needs: str = ""
    """Optional input of the step that the method needs: ``datasets`` (of each model's task), ``dataset`` (one of all models), or the
    kind of ``statistics`` of each model; of the step edit the method that makes its ``statistics`` or its ``editor``."""

    @property
    def config_class(self) -> type[Config]:
        return resolve(self.config)

    @property
    def function(self) -> Callable[..., Any]:
        return resolve(self.implementation)

    @property
    def asks_for(self) -> str:
        """The access in words."""
        return ", ".join(self.access) + (f" or {' with '.join(self.enough)}" if self.enough else "")


Entry = TypeVar("Entry", Step, Card)


class Registry(Generic[Entry]):
    """Names to entries: a second entry of the same name is an error, an unknown name lists the known ones."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> Entry:
        if entry.name in self._entries:
            raise ConfigError(f"{self._what} '{entry.name}' is declared twice.")
        self._entries[entry.name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ConfigError(unknown_name(self._what, name, self._entries))
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        return list(self._entries)
