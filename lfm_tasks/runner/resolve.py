"""From the references of a job to artifacts in the store, and from artifacts to verified directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.remote import RemoteFile
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.errors import ConfigError, IncompatibleModels, IntegrityError, ReferenceRefused, unknown_name
from lfm_tasks.registry import InputSpec, Step
from lfm_tasks.runner.imports import import_reference
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input, numbered
from lfm_tasks.tracking.tracker import Tracker


@dataclass(frozen=True)
class Resolved:
    """An input whose address is known; its bytes are not read yet. ``base`` is set for an adapter."""

    reference: str
    artifact: Artifact
    version: str | None = None
    base: Artifact | None = None

    def content(self) -> dict[str, str]:
        """What of the input enters the cache key: content, never names."""
        return {"sha256": self.artifact.sha256, **({"base": self.base.sha256} if self.base else {})}


class Resolver:
    def __init__(self, store: Store, tracker: Tracker, settings: Settings, workdir: Path) -> None:
        self.store, self.tracker, self.settings, self.workdir = store, tracker, settings, workdir

    def resolve(self, step: Step, references: Mapping[str, str | list[str]]) -> dict[str, Resolved]:
        """Addresses of all inputs of ``step``; raises before any work when one is unknown, missing or of a wrong kind."""
        given = {name for name, spec in step.inputs.items() if not spec.many}
        places = {name: numbered(references, name) for name, spec in step.inputs.items() if spec.many}
        for name in references:
            if name not in given.union(*places.values()):
                raise ConfigError(_unknown_input(step, name))
        found = {}
        for name, spec in step.inputs.items():
            wanted = places[name] if spec.many else [name] if references.get(name) else []
            if spec.required and not wanted:
                raise ConfigError(f"Step {step.name} needs the input '{name}': {spec.description}")
            for key in wanted:
                found[key] = self._first(references[key] if isinstance(references[key], list) else [references[key]], key, spec)
        return found

    def open(self, resolved: Resolved, ranged: bool = False) -> Input:
        """The input as a verified directory on local disk.

        ``ranged``: weight files of a model in a remote store may stay there; of an adapter those of its base, which are large.
        """
        artifact, base = resolved.artifact, None
        if resolved.base is not None:
            path, remote = self._directory(resolved.base, ranged)
            base = Input(f"sha256:{resolved.base.sha256}", "model", resolved.base.sha256, path, remote=remote)
        path, remote = self._directory(artifact, ranged and base is None)
        return Input(resolved.reference, artifact.kind, artifact.sha256, path, base, resolved.version, remote)

    def _directory(self, artifact: Artifact, ranged: bool) -> tuple[Path, dict[str, RemoteFile]]:
        cache = self.settings.home / "downloads"
        return self.store.materialise_small(artifact, cache) if ranged else (self.store.materialise(artifact, cache), {})

    def _first(self, references: list[str], name: str, spec: InputSpec) -> Resolved:
        """The first reference that names something; only an absent registered model passes to the next."""
        for position, text in enumerate(references):
            try:
                return self._one(text, name, spec)
            except ReferenceRefused:
                if position + 1 == len(references) or not text.startswith("models:/"):
                    raise
        raise ConfigError(f"The input '{name}' lists no reference.")

    def _one(self, text: str, name: str, spec: InputSpec) -> Resolved:
        reference = parse_reference(text, self.settings.prefixes)
        version = None
        if reference.scheme == "sha256":
            artifact = self.store.find(reference.name)
        elif reference.scheme == "models":
            address, version = self.tracker.resolve(reference)
            artifact = self.store.find(address)
        else:
            artifact = import_reference(reference, spec.kinds[0], self.store, self.settings, self.workdir)
        if artifact.kind not in spec.kinds:
            raise ConfigError(f"The input '{name}' takes a {' or '.join(spec.kinds)}; {text} is a {artifact.kind}.")
        return Resolved(text, artifact, version, self._base(artifact))

    def _base(self, artifact: Artifact) -> Artifact | None:
        if artifact.kind != "adapter":
            return None
        data = self.store.backend.get_bytes(f"artifacts/adapter/{artifact.sha256}/lfm_adapter.json")
        if data is None:
            raise IncompatibleModels(f"Adapter sha256:{artifact.sha256} does not name its base. Import it together with its base model.")
        base = json.loads(data)["base"]["sha256"]
        try:
            return self.store.find(base)
        except ReferenceRefused:
            raise IntegrityError(
                f"The base sha256:{base} of adapter sha256:{artifact.sha256} is not in the store. Import it again."
            ) from None


def _unknown_input(step: Step, name: str) -> str:
    base, _, number = name.partition(".")
    if base in step.inputs and step.inputs[base].many:
        return f"The input '{base}' takes many: name them {base}.0, {base}.1, … without a gap; '{name}' does not follow."
    if base in step.inputs and number:
        return f"The input '{base}' takes one reference, not many: name it '{base}'."
    return unknown_name(f"input of step {step.name}", name, step.inputs)
