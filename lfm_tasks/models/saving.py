"""Write models and adapters as directories that Hugging Face and a stock MLflow client both load.

The bytes depend on weights, tokenizer and labels alone: no time, no uuid, no path, so that the same model has one address.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from peft import LoraConfig  # these take five CPU-seconds to import, which a merge has no use for
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_FORMAT = 1
ADAPTER_FILE = "lfm_adapter.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
PREPROCESSOR = "preprocessor_config.json"
COMPANIONS = ("config.json", "generation_config.json", PREPROCESSOR, "processor_config.json")
AdapterTask = Literal["causal_lm", "classification"]
PIPELINES = {
    "text-generation": "TextGenerationPipeline",
    "text-classification": "TextClassificationPipeline",
    "feature-extraction": "FeatureExtractionPipeline",
}
SIGNATURE_OUTPUTS: dict[str, list[dict[str, Any]]] = {
    "text-generation": [{"type": "string", "required": True}],
    "text-classification": [
        {"type": "string", "name": "label", "required": True},
        {"type": "double", "name": "score", "required": True},
    ],
}
PATH_KEYS = ("_name_or_path", "_model_name_or_path", "name_or_path", "is_local", "local_files_only")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | Path, directory: Path, *, labels: list[str] | None = None
) -> None:
    """Write a model artifact: weights as safetensors, config, tokenizer, and what MLflow needs to load it.

    ``tokenizer`` may be a directory: its tokenizer files are then copied byte for byte, which keeps the digest that data
    sets were prepared for. ``labels`` name the classes of a classifier and are written into its config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if labels is not None:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.save_pretrained(directory)
    components = directory / "components" / "tokenizer"
    for target in (directory, components):
        _save_tokenizer(tokenizer, target)
    for path in sorted(directory.rglob("*.json")):
        _forget_paths(path)
    description = mlmodel(type(model).__name__, _tokenizer_type(directory))
    (directory / "MLmodel").write_text(yaml.safe_dump(description, sort_keys=True))


def save_image_model(model: PreTrainedModel, sources: Iterable[Path], directory: Path) -> None:
    """Write an image classifier: weights as safetensors, its config, and the preprocessor of the first of ``sources`` that has one."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    for source in sources:
        if (source / PREPROCESSOR).is_file():
            shutil.copyfile(source / PREPROCESSOR, directory / PREPROCESSOR)
            break
    for path in sorted(directory.rglob("*.json")):
        _forget_paths(path)


def save_companions(source: Path, directory: Path, *, dtype: str | None = None, stock: bool = True) -> None:
    """Put beside the weights in ``directory`` what the model directory ``source`` has beside its own, and what MLflow needs.

    ``dtype`` is written into the config where the weights were cast to it. A directory without a tokenizer (a vision model)
    gets no ``MLmodel``, nor does one that stock tools cannot open (``stock`` False).
    """
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    config = json.loads((directory / "config.json").read_text())
    if dtype is not None:
        config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
        _write_json(directory / "config.json", config)
    if (source / "tokenizer.json").is_file():
        for target in (directory, directory / "components" / "tokenizer") if stock else (directory,):
            _save_tokenizer(source, target)
    if stock and (source / "tokenizer.json").is_file():
        description = mlmodel((config.get("architectures") or ["Model"])[0], _tokenizer_type(directory))
        (directory / "MLmodel").write_text(yaml.safe_dump(description, sort_keys=True))
    for path in sorted(directory.rglob("*.json")):
        _forget_paths(path)


def mlmodel(architecture: str, tokenizer_type: str) -> dict[str, Any]:
    """The content of ``MLmodel``: transformers and python_function flavours of a directory that is its own checkpoint."""
    task = pipeline_task(architecture)
    flavour = {
        "task": task,
        "instance_type": PIPELINES[task],
        "pipeline_model_type": architecture,
        "model_binary": ".",
        "components": ["tokenizer"],
        "tokenizer_type": tokenizer_type,
    }
    described: dict[str, Any] = {
        "artifact_path": "model",
        "flavors": {
            "transformers": flavour,
            "python_function": {"loader_module": "mlflow.transformers", "model_binary": ".", "task": task},
        },
    }
    if task in SIGNATURE_OUTPUTS:
        described["signature"] = {
            "inputs": json.dumps([{"type": "string", "required": True}]),
            "outputs": json.dumps(SIGNATURE_OUTPUTS[task]),
            "params": None,
        }
    return described


def pipeline_task(architecture: str) -> str:
    """The transformers pipeline that serves a model class, from its name."""
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    if re.search(r"ForCausalLM$|LMHeadModel$", architecture):
        return "text-generation"
    return "feature-extraction"


def save_adapter(
    model: Any,
    directory: Path,
    *,
    method: str,
    base_sha256: str,
    task: AdapterTask,
    labels: list[str] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write an adapter artifact that names its base by hash.

    ``model`` is a ``PeftModel``; or ``tensors`` are the changed parameters by their names in the base (bitfit), and
    ``model`` is not read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if tensors is None:
        _save_peft(model, directory, base_sha256)
    else:
        save_file({name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}, directory / ADAPTER_WEIGHTS)
    write_entry(directory, method, base_sha256, task, labels)


def save_lora(
    tensors: dict[str, Tensor],
    config: LoraConfig,
    directory: Path,
    *,
    method: str,
    base_sha256: str,
    task: AdapterTask,
    labels: list[str] | None = None,
) -> None:
    """As :func:`save_adapter`, from the tensors and the config of a LoRA adapter; no model is needed."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    config.save_pretrained(directory)
    _name_base(directory, base_sha256)
    write_entry(directory, method, base_sha256, task, labels)


def write_entry(directory: Path, method: str, base_sha256: str, task: AdapterTask, labels: list[str] | None) -> None:
    entry = {
        "format": ADAPTER_FORMAT,
        "method": method,
        "base": {"kind": "model", "sha256": base_sha256},
        "task": task,
        "labels": labels or [],
    }
    _write_json(directory / ADAPTER_FILE, entry)


def _save_peft(model: Any, directory: Path, base_sha256: str) -> None:
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    _name_base(directory, base_sha256)


def _name_base(directory: Path, base_sha256: str) -> None:
    """In peft's own config, whose lists of names are sorted."""
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"sha256:{base_sha256}"
    for name, value in config.items():
        if isinstance(value, list) and name in {"target_modules", "modules_to_save"}:
            config[name] = sorted(value)
    _write_json(directory / "adapter_config.json", config)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase | Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not isinstance(tokenizer, Path):
        tokenizer.save_pretrained(directory)
        return
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)


def _tokenizer_type(directory: Path) -> str:
    from transformers import AutoTokenizer

    return type(AutoTokenizer.from_pretrained(directory, local_files_only=True)).__name__


def _forget_paths(path: Path) -> None:
    """Drop where a file was loaded from; leave files alone that do not say so (``tokenizer.json`` keeps its bytes)."""
    if path.name in {"tokenizer.json", "vocab.json"}:
        return
    content = json.loads(path.read_text())
    if isinstance(content, dict) and any(key in content for key in PATH_KEYS):
        _write_json(path, {key: value for key, value in content.items() if key not in PATH_KEYS})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
