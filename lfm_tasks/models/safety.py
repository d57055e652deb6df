"""What a model directory may hold. Nothing that runs code when it is opened gets past this check.

Reads names, JSON and safetensors headers; imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from lfm_tasks.errors import UnsafeModel

CODE = frozenset({".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe", ".bat", ".ps1", ".ipynb"})
PICKLED = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".dill", ".joblib", ".h5", ".hdf5", ".keras", ".pb", ".msgpack", ".npy", ".npz"}
    | {".mar", ".nemo", ".tar", ".gz", ".zip"}
)
CODE_KEYS = ("auto_map", "custom_pipelines")
# Their keys are tokens, not settings: a token may well be called "auto_map".
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
INDEX = ".safetensors.index.json"
MLFLOW_LOADER = "mlflow.transformers"


def check_model_directory(path: Path, elsewhere: Collection[str] = ()) -> None:
    """Raise :class:`UnsafeModel` naming the file and the remedy unless ``path`` holds data only.

    Refused: code, weights in formats that can carry code, settings that name code (``auto_map``, ``custom_pipelines``, a
    foreign ``MLmodel`` loader), symbolic links, broken safetensors files, shard indexes that name absent or outside files.
    ``elsewhere``: paths of safetensors files that are not on local disk; who reads them checks them.
    """
    if not path.is_dir():
        raise UnsafeModel(f"{path.name} is not a directory. Give a Hugging Face model directory.")
    for file, name in _files(path):
        suffix = file.suffix.lower()
        if suffix in CODE:
            raise UnsafeModel(f"{name} is program code, which is never run from a model. Remove it and use a built-in architecture.")
        if suffix in PICKLED:
            raise UnsafeModel(f"{name} is a format that can carry code. Convert the weights to safetensors and remove it.")
        if suffix == ".safetensors":
            _check_safetensors(file, name)
        elif file.name.endswith(INDEX):
            _check_index(file, name, elsewhere)
        elif suffix == ".json" and file.name not in VOCABULARIES:
            _check_settings(file, name)
        elif file.name == "MLmodel":
            _check_mlmodel(file, name)


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise UnsafeModel(f"{name} is a symbolic link, which may lead outside the model. Put the file itself in its place.")
        if path.is_file():
            yield path, name
        elif not path.is_dir():
            raise UnsafeModel(f"{name} is not a plain file. Remove it.")


def _check_safetensors(file: Path, name: str) -> None:
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UnsafeModel(f"{name} is not a valid safetensors file ({error}). Fetch or convert it again.") from None


def _check_index(file: Path, name: str, elsewhere: Collection[str]) -> None:
    shards = _json(file, name).get("weight_map")
    if not isinstance(shards, dict):
        raise UnsafeModel(f"{name} holds no weight_map. Save the model again.")
    for shard in sorted({str(value) for value in shards.values()}):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeModel(f"{name} names the shard {shard!r}; a shard is a .safetensors file beside the index. Save the model again.")
        if not (file.parent / shard).is_file() and (PurePosixPath(name).parent / shard).as_posix() not in elsewhere:
            raise UnsafeModel(f"{name} names the shard {shard!r}, which is absent. Fetch the model again, whole.")


def _check_settings(file: Path, name: str) -> None:
    for key, value in _entries(_json(file, name)):
        if key in CODE_KEYS and value:
            raise UnsafeModel(f"{name} has the key '{key}', which names code to run. Use a model of a built-in architecture, without it.")
        if key == "parent_library" and not str(value).startswith("transformers."):
            raise UnsafeModel(f"{name} would import {value!r} for its base model. Only parts of transformers are allowed there.")


def _check_mlmodel(file: Path, name: str) -> None:
    """MLflow imports the module that a flavour names, so a foreign one is code."""
    try:
        flavours = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"]
        odd = set(flavours) - {"transformers", "python_function"}
        loader = flavours.get("python_function", {}).get("loader_module", MLFLOW_LOADER)
        code = [flavour for flavour, content in flavours.items() if content.get("code")]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise UnsafeModel(f"{name} cannot be read as an MLflow model description. Remove it; it is written anew.") from None
    if odd or code or loader != MLFLOW_LOADER:
        raise UnsafeModel(f"{name} names a loader or code of its own. Remove it; one that loads by {MLFLOW_LOADER} is written.")


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise UnsafeModel(f"{name} is not valid JSON. Fetch the model again, or remove the file if it is not needed.") from None
    return content if isinstance(content, dict) else {"": content}


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
