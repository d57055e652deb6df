"""Registered models in MLflow, moved by compare-and-set under the ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from lfm_tasks.artifacts.references import Reference
from lfm_tasks.errors import Conflict, IntegrityError, InvalidInput, ReferenceRefused, unknown_name
from lfm_tasks.names import check_name
from lfm_tasks.step import Input, Move
from lfm_tasks.tracking.ledger import Entry, Ledger, heads
from lfm_tasks.tracking.logged_models import SHA256, LoggedModels
from lfm_tasks.tracking.mlflow_connection import Connection, is_missing

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class RegisteredModels:
    """Implements :class:`lfm_tasks.step.ModelRegistry`. ``who`` tells the ledger on whose behalf a move is made."""

    def __init__(self, connection: Connection, ledger: Ledger, logged: LoggedModels, who: Callable[[], Mapping[str, str]]) -> None:
        self._connection, self._ledger, self._logged, self._who = connection, ledger, logged, who

    def aliased(self, name: str, alias: str) -> tuple[str, str] | None:
        found = self._aliased(check_name("Model name", name), _check_alias(alias))
        return None if found is None else (str(found.version), _sha256(found))

    def promote(self, name: str, alias: str, model: Input, expected: str | None, reason: str, evidence: str) -> Move:
        check_name("Model name", name)
        _check_alias(alias)
        with self._ledger.locks.hold(f"model {name}"):
            last = self._settle(name, alias)
            current = self._current(name, alias)
            if last is not None and _is_same(last, model, evidence) and current == last.content["to"]:
                return _move(last)
            if current != expected:
                raise Conflict(_moved(name, alias, expected, current, last))
            version = self._version(name, model, evidence)
            move = {"alias": alias, "from": current, "to": version, "artifact_sha256": model.sha256}
            move |= {"who": dict(self._who()), "why": reason, "evidence_sha256": evidence}
            entry = self._ledger.append(name, move)
            self._finish(entry)
            return _move(entry)

    def restore(self, name: str, moves: Sequence[Mapping[str, Any]]) -> list[str]:
        """Make the versions and aliases that ``moves`` (the ledger's entries) name, with the same numbers, where MLflow lacks them.

        Nothing that is there is changed. Returns what could not be made as it was.
        """
        check_name("Model name", name)
        client = self._connection.client
        first = {int(move["to"]): move for move in reversed(moves)}
        with self._ledger.locks.hold(f"model {name}"):
            self._connection.create(lambda: self._registered(name), lambda: client.create_registered_model(name))
            found = self._connection.call(client.search_model_versions, f"name = '{name}'", max_results=1000)
            there = {int(version.version): version.tags.get(SHA256) for version in found}
            problems = []
            for number in range(1, max(first) + 1):
                if number not in there:
                    problems += self._restore_version(name, number, first.get(number), max(there, default=0))
                elif number in first and there[number] != first[number]["artifact_sha256"]:
                    problems.append(f"Version {number} of {name} is another artifact in this MLflow than in the ledger.")
            for move in {move["alias"]: move for move in moves}.values() if not problems else ():
                current = self._current(name, move["alias"])
                if current is None:
                    self._connection.call(client.set_registered_model_alias, name, move["alias"], move["to"])
                elif current != move["to"]:
                    problems.append(f"Alias {move['alias']!r} of {name} names version {current} here; the ledger says {move['to']}.")
        return problems

    def _restore_version(self, name: str, number: int, move: Mapping[str, Any] | None, highest: int) -> list[str]:
        """MLflow numbers on from the highest version that ever was, so a number that the ledger skips is made and deleted."""
        client = self._connection.client
        if highest > number:
            return [f"Version {number} of {name} cannot be made: this MLflow has gone on to version {highest}."] if move else []
        if move is None:
            made = client.create_model_version(name, self._logged.store_uri, await_creation_for=0)
            self._connection.call(client.delete_model_version, name, made.version)
        else:
            sha256 = move["artifact_sha256"]
            source = self._logged.source(self._logged.kind(sha256), sha256, move["evidence_sha256"])
            made = client.create_model_version(name, await_creation_for=0, **source)
        return [] if int(made.version) == number else [f"Version {number} of {name} came out as version {made.version}."]

    def resolve(self, reference: Reference) -> tuple[str, str]:
        """(artifact sha256, version) of a ``models:/`` reference; raises :class:`ReferenceRefused` where there is none."""
        found = self._find(reference)
        if found is None:
            raise ReferenceRefused(self._explain(reference))
        return _sha256(found), str(found.version)

    def listed(self) -> list[dict[str, Any]]:
        """Registered models: ``{"name", "aliases": {alias: version}, "versions": [{"version", "sha256", "run_id"}]}``, newest first."""
        client, found = self._connection.client, []
        for model in self._connection.call(client.search_registered_models, max_results=1000):
            versions = self._connection.call(client.search_model_versions, f"name = '{model.name}'", max_results=1000)
            rows = [{"version": str(v.version), "sha256": v.tags.get(SHA256), "run_id": v.run_id} for v in versions]
            aliases = {alias: str(version) for alias, version in model.aliases.items()}
            rows.sort(key=lambda row: -int(row["version"]))
            found.append({"name": model.name, "aliases": aliases, "versions": rows})
        return found

    def labels(self) -> dict[str, str]:
        """{artifact sha256: "NAME version N (ALIAS)"} of everything that is registered, for the lineage tree."""
        found: dict[str, list[str]] = {}
        for model in self.listed():
            for row in model["versions"]:
                aliases = ", ".join(alias for alias, version in model["aliases"].items() if version == row["version"])
                found.setdefault(row["sha256"], []).append(
                    f"{model['name']} version {row['version']}" + (f" ({aliases})" if aliases else "")
                )
        return {sha256: ", ".join(names) for sha256, names in found.items() if sha256}

    def verify(self, name: str, anchors: Mapping[int, str] | None = None) -> list[str]:
        """What is wrong with the ledger of ``name``, its copies, and the aliases that it governs; empty when all is well.

        ``anchors`` are the hashes of entries that records of promotions remember.
        """
        problems = self._ledger.problems(check_name("Model name", name), anchors)
        try:
            moves = heads(self._ledger.entries(name))
        except IntegrityError:
            return problems
        for alias, last in moves.items():
            found = self._aliased(name, alias)
            if found is None or str(found.version) != last.content["to"]:
                names = "nothing" if found is None else f"version {found.version}"
                problems.append(f"Alias {alias!r} of {name} names {names}; the ledger says version {last.content['to']}.")
            elif found.tags.get(SHA256) != last.content["artifact_sha256"]:
                problems.append(f"Version {found.version} of {name} is tagged with another artifact than the ledger names.")
        return problems

    def _settle(self, name: str, alias: str) -> Entry | None:
        """The last move of ``alias``, finished if its process died; a move that is not in the ledger is refused."""
        last = heads(self._ledger.entries(name)).get(alias)
        if last is None:
            return None
        current, finished = self._current(name, alias), self._ledger.has_copy(last)
        if current != last.content["to"] and (finished or current != last.content["from"]):
            raise Conflict(
                f"Alias {alias!r} of {name!r} names {_version_text(current)}, but the ledger's last move (entry {last.n} at "
                f"{last.content['time']}) set it to version {last.content['to']}: somebody moved it outside this platform. "
                f"Set it back to version {last.content['to']} in MLflow, then promote again."
            )
        if not finished:
            self._finish(last)
        return last

    def _finish(self, entry: Entry) -> None:
        """Move MLflow's alias, then put the copy into the store: a move with a copy is a finished one."""
        move = entry.content
        self._connection.call(self._connection.client.set_registered_model_alias, move["model"], move["alias"], move["to"])
        self._ledger.copy(entry)

    def _version(self, name: str, model: Input, evidence: str) -> str:
        """The one version of ``model``'s artifact, made if it is not there yet."""
        client = self._connection.client
        self._connection.create(lambda: self._registered(name), lambda: client.create_registered_model(name))
        made = self._connection.create(
            lambda: self._version_of(name, model.sha256),
            lambda: client.create_model_version(name, await_creation_for=0, **self._logged.source(model.kind, model.sha256, evidence)),
        )
        return str(made.version)

    def _version_of(self, name: str, sha256: str) -> ModelVersion | None:
        found = self._connection.client.search_model_versions(f"name = '{name}' AND tags.`{SHA256}` = '{sha256}'")
        return min(found, key=lambda version: int(version.version), default=None)

    def _registered(self, name: str) -> Any | None:
        return self._or_none(self._connection.client.get_registered_model, name)

    def _aliased(self, name: str, alias: str) -> ModelVersion | None:
        return self._or_none(self._connection.client.get_model_version_by_alias, name, alias)

    def _current(self, name: str, alias: str) -> str | None:
        found = self._aliased(name, alias)
        return None if found is None else str(found.version)

    def _find(self, reference: Reference) -> ModelVersion | None:
        if reference.alias is not None:
            return self._aliased(reference.name, reference.alias)
        return self._or_none(self._connection.client.get_model_version, reference.name, reference.version)

    def _or_none(self, function: Callable[..., Any], *arguments: str | None) -> Any | None:
        try:
            return self._connection.call(function, *arguments)
        except MlflowException as error:
            if is_missing(error):
                return None
            raise

    def _explain(self, reference: Reference) -> str:
        registered = self._registered(reference.name)
        if registered is None:
            names = [model.name for model in self._connection.call(self._connection.client.search_registered_models, max_results=100)]
            return unknown_name("registered model", reference.name, names)
        if reference.alias is not None:
            return unknown_name(f"alias of model '{reference.name}'", reference.alias, registered.aliases)
        versions = self._connection.call(self._connection.client.search_model_versions, f"name = '{reference.name}'")
        return unknown_name(f"version of model '{reference.name}'", str(reference.version), (str(v.version) for v in versions))


def _is_same(entry: Entry, model: Input, evidence: str) -> bool:
    return entry.content["artifact_sha256"] == model.sha256 and entry.content["evidence_sha256"] == evidence


def _move(entry: Entry) -> Move:
    move = entry.content
    return Move(move["model"], move["alias"], move["to"], move["from"], entry.n, entry.sha256, move["artifact_sha256"])


def _moved(name: str, alias: str, expected: str | None, current: str | None, last: Entry | None) -> str:
    by = ""
    if last is not None:
        who = ", ".join(f"{key} {value}" for key, value in last.content["who"].items()) or "unknown"
        by = f" It was moved at {last.content['time']} by {who} ({last.content['why'] or 'no reason given'})."
    return (
        f"Alias {alias!r} of {name!r} names {_version_text(current)}, not {_version_text(expected)} as expected; nothing was moved.{by} "
        "Run the gate again, against the model that it names now."
    )


def _version_text(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def _sha256(version: ModelVersion) -> str:
    if SHA256 not in version.tags:
        raise ReferenceRefused(
            f"Version {version.version} of {version.name!r} was registered outside this platform: it has no tag {SHA256}. "
            "Import the model into the store and promote it from there."
        )
    return version.tags[SHA256]


def _check_alias(alias: str) -> str:
    if not ALIAS.fullmatch(alias):
        raise InvalidInput(f"Alias {alias!r} is not valid. Use 1 to 32 lower-case letters, digits, '_' and '-', beginning with a letter.")
    return alias
