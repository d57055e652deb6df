"""From what lies outside the store to an artifact in it: starters, the Hugging Face hub, folders and buckets.

Each import leaves ``imports/<key>.json`` in the store: the artifact, and where it came from. The entry also answers the
next import: at once where the source is immutable (a pinned package, a commit of the hub), else after the files were copied
and hashed, because what lies there may have changed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.hashing import sha256_bytes, sha256_file
from lfm_tasks.artifacts.manifest import list_files
from lfm_tasks.artifacts.references import Reference
from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import DataError, InvalidInput, ReferenceRefused
from lfm_tasks.registry import Kind
from lfm_tasks.runner.environment import code_digest
from lfm_tasks.settings import Settings

FORMAT = 1
DRESSERS = ("lfm_tasks.models",)
"""Code that adds to what was copied."""
IMPORTED = ("dataset", "model")
DATA_SUFFIXES = (".jsonl", ".csv", ".parquet")


def import_reference(reference: Reference, kind: Kind, store: Store, settings: Settings, workdir: Path) -> Artifact:
    """The artifact that a ``starter``, ``hf``, ``file`` or ``s3`` reference names, committed if it is not in the store yet.

    ``kind`` is what the caller wants: "dataset" or "model". A model is checked by
    :func:`lfm_tasks.models.safety.check_model_directory` before it is committed.
    """
    if kind not in IMPORTED:
        raise ReferenceRefused(f"{reference.text} cannot be imported as a {kind}. Give a sha256: address from the store.")
    with tempfile.TemporaryDirectory(prefix="import-", dir=workdir) as scratch:
        importers = {"starter": _starter, "hf": _hub, "file": _files, "s3": _objects}
        return importers[reference.scheme](reference, kind, store, settings, Path(scratch))


def imports(store: Store) -> Iterator[dict[str, Any]]:
    """Every import: ``{"artifact": {"kind", "sha256"}, "provenance": {…}}``."""
    for key in store.backend.list("imports/"):
        data = store.backend.get_bytes(key)
        if data is not None:
            yield json.loads(data)


def _starter(reference: Reference, kind: Kind, store: Store, settings: Settings, scratch: Path) -> Artifact:
    from lfm_tasks.starter.catalogue import STARTERS, find_starter

    starter = find_starter(reference.name)
    if starter.kind != kind:
        others = ", ".join(f"starter://{each.name}" for each in STARTERS.values() if each.kind == kind)
        raise ReferenceRefused(f"{reference.text} is a {starter.kind}; a {kind} is wanted here: {others}.")
    provenance = {"scheme": "starter", **starter.provenance()}
    key = _key({name: provenance[name] for name in ("scheme", "name", "sha256", "converter_version")})
    if artifact := _known(store, key):
        return artifact
    from lfm_tasks.starter.convert import build

    print(f"importing {reference.text} from the package {starter.package}=={starter.version}", flush=True)
    (scratch / "package").mkdir()
    build(starter, settings.home / "packages", scratch / "package", scratch / "artifact")
    return _commit(store, scratch / "artifact", kind, key, provenance)


def _hub(reference: Reference, kind: Kind, store: Store, settings: Settings, scratch: Path) -> Artifact:
    from lfm_tasks.runner.hub import FILES, cache_directory, snapshot
    from lfm_tasks.runner.snapshots import copy_tree

    source, commit = snapshot(reference, kind, settings)
    provenance = {"scheme": "hf", "name": reference.name, "kind": kind, "revision": reference.revision or "main", "commit": commit}
    key = _key({name: provenance[name] for name in ("scheme", "name", "kind", "commit")})
    if artifact := _known(store, key):
        return artifact
    copy_tree(source, FILES[kind], scratch / "artifact", [cache_directory(settings).resolve()], reference.text)
    left_out = [path.name for path in sorted(source.rglob("*")) if path.is_file()]
    _check(scratch / "artifact", kind, reference, left_out)
    return _commit(store, _dressed(scratch / "artifact", kind, reference), kind, key, provenance)


def _files(reference: Reference, kind: Kind, store: Store, settings: Settings, scratch: Path) -> Artifact:
    from lfm_tasks.runner.snapshots import DATA_FILES, EVERY_FILE, copy_files

    patterns = DATA_FILES if kind == "dataset" else EVERY_FILE
    copied = copy_files(reference.name, settings.prefixes, patterns, scratch / "artifact")
    return _commit_copy(store, scratch / "artifact", kind, reference, copied)


def _objects(reference: Reference, kind: Kind, store: Store, settings: Settings, scratch: Path) -> Artifact:
    from lfm_tasks.runner.snapshots import DATA_FILES, EVERY_FILE, copy_objects

    copied = copy_objects(reference.name, DATA_FILES if kind == "dataset" else EVERY_FILE, scratch / "artifact")
    return _commit_copy(store, scratch / "artifact", kind, reference, copied)


def _commit_copy(store: Store, directory: Path, kind: Kind, reference: Reference, copied: list[str]) -> Artifact:
    """A copy of a place that may change: its entry is kept per content."""
    _check(directory, kind, reference, copied)
    provenance = {"scheme": reference.scheme, "reference": reference.text}
    content = {name: sha256_file(path) for name, path in list_files(directory)}
    key = _key({**provenance, "kind": kind, "content": content, "code": code_digest(DRESSERS)})
    if artifact := _known(store, key):
        return artifact
    return _commit(store, _dressed(directory, kind, reference), "adapter" if _is_adapter(directory) else kind, key, provenance)


def _check(directory: Path, kind: Kind, reference: Reference, found: list[str]) -> None:
    """Raise when ``directory`` holds no data, or is no model, or not a safe one."""
    there = ", ".join(found[:8]) or "no file of a known form"
    if kind == "dataset":
        if not any(path.suffix.lower() in DATA_SUFFIXES for path in directory.rglob("*")):
            raise DataError(f"{reference.text} holds no {', '.join(DATA_SUFFIXES)} file; it holds {there}.")
        return
    from lfm_tasks.models.safety import check_model_directory

    if not directory.is_dir() or not any(directory.rglob("*.safetensors")):
        raise InvalidInput(f"{reference.text} holds no .safetensors weights; it holds {there}. Convert the weights to safetensors.")
    check_model_directory(directory)


def _is_adapter(directory: Path) -> bool:
    return (directory / "lfm_adapter.json").is_file()


def _dressed(directory: Path, kind: Kind, reference: Reference) -> Path:
    if kind == "model" and not _is_adapter(directory):
        _dress(directory, reference)
    return directory


def _dress(directory: Path, reference: Reference) -> None:
    """Add to a Hugging Face directory what a stock MLflow client needs to load it; the model's own files stay as they are.

    A mixture gets nothing: no stock client can run it.
    """
    if (directory / "lfm_mixture.json").is_file():
        return
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidInput(f"{reference.text} has no config.json. Give a Hugging Face model directory (for an adapter: merge it first).")
    architectures = json.loads(path.read_text()).get("architectures")
    if (directory / "MLmodel").exists() or not architectures or not (directory / "tokenizer.json").is_file():
        return
    import yaml

    from lfm_tasks.models.saving import TOKENIZER_FILES, mlmodel
    from lfm_tasks.models.tokenizers import open_tokenizer

    components = directory / "components" / "tokenizer"
    components.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, components / name)
    description = mlmodel(architectures[0], type(open_tokenizer(directory)).__name__)
    (directory / "MLmodel").write_text(yaml.safe_dump(description, sort_keys=True))


def _commit(store: Store, directory: Path, kind: Kind, key: str, provenance: dict[str, Any]) -> Artifact:
    if kind == "model":
        from lfm_tasks.models.safety import check_model_directory

        check_model_directory(directory)
    artifact = store.commit(directory, kind)
    _remember(store, key, artifact, provenance)
    return artifact


def _remember(store: Store, key: str, artifact: Artifact, provenance: dict[str, Any]) -> None:
    entry = {"format": FORMAT, "artifact": {"kind": artifact.kind, "sha256": artifact.sha256}, "provenance": provenance}
    store.backend.put_bytes(f"imports/{key}.json", canonical_json(entry))


def _known(store: Store, key: str) -> Artifact | None:
    """The artifact of an earlier import, unless it has gone from the store since."""
    data = store.backend.get_bytes(f"imports/{key}.json")
    if data is None:
        return None
    try:
        return store.find(json.loads(data)["artifact"]["sha256"])
    except ReferenceRefused:
        return None


def _key(identity: dict[str, Any]) -> str:
    return sha256_bytes(canonical_json({"import": FORMAT, **identity}))
