"""Open models and adapters from verified directories: safetensors only, nothing from the network, no code from the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, KeysView, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from lfm_tasks.errors import IncompatibleModels, InvalidInput
from lfm_tasks.models.edits import apply_edits, is_edits, read_edits
from lfm_tasks.models.memories.files import is_memory, read_memory
from lfm_tasks.models.memories.installing import install
from lfm_tasks.models.mixtures.files import base_tensors, is_mixture, refuse_mixture
from lfm_tasks.models.mixtures.installing import install_experts
from lfm_tasks.models.prepared import Rows
from lfm_tasks.models.safety import check_model_directory
from lfm_tasks.models.saving import ADAPTER_FILE, ADAPTER_WEIGHTS
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input

Tensors = Mapping[str, torch.Tensor]


def open_model(source: Input, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model by what it is: a sequence classifier where its config says so, else a decoder with its head.

    An adapter comes back merged into its base, a mixture with its experts in place.
    """
    directory = model_directory(source)
    if source.kind == "adapter":
        task = read_adapter(source.path)["task"]
    else:
        task = "classification" if is_classifier(read_config(directory)) else "causal_lm"
    return open_classifier(source, dtype=dtype) if task == "classification" else open_causal_lm(source, dtype=dtype)


def open_causal_lm(source: Input, *, dtype: torch.dtype = torch.float32, held: Tensors | None = None) -> PreTrainedModel:
    """A decoder with its language-model head. Raises :class:`IncompatibleModels` for an encoder.

    ``held``: the tensors of the directory's weight files, which are not read then; borrowed.
    """
    directory = model_directory(source)
    config = read_config(directory)
    if type(config) not in AutoModelForCausalLM._model_mapping or _is_encoder(config):
        raise IncompatibleModels(
            f"{source.reference} is a {config.model_type} model, which generates no text. Use a decoder, or a classification data set."
        )
    return _with_adapter(_load(AutoModelForCausalLM, directory, config, dtype, held), source)


def open_classifier(
    source: Input, labels: list[str] | None = None, seed: int = 0, *, dtype: torch.dtype = torch.float32, held: Tensors | None = None
) -> PreTrainedModel:
    """A sequence classifier. Where the directory has no head for ``labels``, one is made, drawn from ``seed``.

    ``labels`` None takes the classes that the model (or the adapter) names; a model without any is refused. ``held`` as of
    :func:`open_causal_lm`.
    """
    directory = model_directory(source)
    config = read_config(directory)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise IncompatibleModels(f"{source.reference} is a {config.model_type} model, which transformers offers no classifier for.")
    if labels is None and source.kind == "adapter":
        labels = read_adapter(source.path)["labels"] or None
    if labels is None and not is_classifier(config):
        raise IncompatibleModels(f"{source.reference} is no classifier. Tune it on a classification data set first.")
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "head"))
        model = _load(AutoModelForSequenceClassification, directory, config, dtype, held)
    return _with_adapter(model, source)


def open_as_saved(source: Input, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model by the class of transformers that its config names: any kind, a bare backbone or a vision model too."""
    directory = model_directory(source)
    config = read_config(directory)
    names = config.architectures or [None]
    architecture = getattr(transformers, names[0] or "", None)
    if not (isinstance(architecture, type) and issubclass(architecture, PreTrainedModel)):
        raise IncompatibleModels(
            f"{source.reference} names the architecture {names[0]!r} in its config, which is no model of transformers. "
            "Save the model by save_pretrained of a model class that transformers has built in."
        )
    return _with_adapter(_load(architecture, directory, config, dtype), source)


def open_with_head(source: Input, head: Input, labels: list[str] | None = None, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The backbone of ``source`` below the head (:func:`head_modules`) and the classes of the classifier ``head``.

    Raises :class:`IncompatibleModels` where the two backbones differ in architecture, or in a tensor's name or shape.
    """
    kinds = [read_config(model_directory(one)).model_type for one in (source, head)]
    if kinds[0] != kinds[1]:
        raise IncompatibleModels(f"{source.reference} is a {kinds[0]} model, the head {head.reference} belongs to a {kinds[1]} model.")
    if not is_classifier(read_config(model_directory(head))):
        raise IncompatibleModels(f"{head.reference} is no classifier, so it has no head to give. Give a tuned classifier.")
    refuse_mixture(head.path, head.reference)
    model = open_classifier(head, labels, dtype=dtype)
    given, wanted = _backbone(source, dtype), model.base_model.state_dict()
    if problems := [name for name, tensor in wanted.items() if name not in given or given[name].shape != tensor.shape]:
        shapes = [list(tensors[problems[0]].shape) if problems[0] in tensors else "absent" for tensors in (given, wanted)]
        raise IncompatibleModels(
            f"The head of {head.reference} does not fit {source.reference}: '{problems[0]}' is {shapes[0]} in the model and {shapes[1]} "
            f"in the head's model ({len(problems)} tensors differ). Give a head that was tuned on the same base."
        )
    model.base_model.load_state_dict({name: given[name] for name in wanted})
    return install_experts(model, source.path, dtype=dtype, backbone=True) if is_mixture(source.path) else model


def _backbone(source: Input, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of the backbone that the directory holds, by their names inside it; of a mixture those without its experts."""
    if source.kind == "adapter":
        return open_classifier(source, dtype=dtype).base_model.state_dict()
    directory = model_directory(source)
    model = _load_plain(AutoModel, directory, read_config(directory), dtype)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.fresh_parameters}


def head_modules(model: nn.Module) -> list[str]:
    """Names of the modules that hold parameters and stand outside the backbone: ``lm_head``, ``classifier``, ``score``."""
    return [name for name, module in model.named_children() if name != model.base_model_prefix and any(True for _ in module.parameters())]


def fresh_modules(model: nn.Module) -> list[str]:
    """Modules whose parameters the directory did not hold, so that they were drawn at random when it was opened."""
    return sorted({name.rpartition(".")[0] for name in getattr(model, "fresh_parameters", ())})


def model_directory(source: Input) -> Path:
    """Where the weights of a model, or of an adapter's base, are; checked to be safe to open.

    Raises :class:`IncompatibleModels` when an adapter was made for another base.
    """
    if source.kind == "model":
        check_model_directory(source.path, source.remote)
        return source.path
    if source.kind != "adapter":
        raise InvalidInput(f"{source.reference} is a {source.kind}; a model or an adapter is needed.")
    check_model_directory(source.path)
    made_for = read_adapter(source.path)["base"]["sha256"]
    if source.base is None:
        raise IncompatibleModels(f"{source.reference} is an adapter on sha256:{made_for}, which was not given. Give its base with it.")
    if made_for != source.base.sha256:
        raise IncompatibleModels(
            f"{source.reference} was made for the base sha256:{made_for}, but the base given is sha256:{source.base.sha256}. "
            "Use the former."
        )
    return model_directory(source.base)


def read_adapter(directory: Path) -> dict[str, Any]:
    """The content of ``lfm_adapter.json``."""
    path = directory / ADAPTER_FILE
    if not path.is_file():
        raise InvalidInput(f"The adapter has no {ADAPTER_FILE}, which names its base. Make it by the step 'tune'.")
    return json.loads(path.read_text())


def read_config(directory: Path) -> PreTrainedConfig:
    """The model's config. Raises :class:`IncompatibleModels` for an architecture that transformers does not know."""
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidInput("The model directory has no config.json. Give a Hugging Face model directory.")
    model_type = json.loads(path.read_text()).get("model_type")
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (KeyError, ValueError) as error:
        raise IncompatibleModels(
            f"The model_type {model_type!r} in config.json is not one that this version of transformers can open ({type(error).__name__}). "
            "Use an architecture that transformers has built in."
        ) from None


def is_classifier(config: PreTrainedConfig) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def open_for(source: Input, rows: Rows, held: Tensors | None = None) -> PreTrainedModel:
    """The model that the rows are for: a classifier of their classes, or a decoder. ``held`` as of :func:`open_causal_lm`.

    Raises :class:`IncompatibleModels` for rows of other classes or another tokenizer.
    """
    if rows.task == "classification":
        check_labels(source, rows.labels)
        model = open_classifier(source, rows.labels, held=held)
    else:
        model = open_causal_lm(source, held=held)
    check_vocabulary(model, tokenizer_digest(model_directory(source)), rows.description)
    return model


def check_names(where: str, names: Iterable[str], model: nn.Module) -> None:
    """Raise :class:`IncompatibleModels` for a stored name that the opened model does not have."""
    known = model.state_dict().keys()
    if unknown := sorted(name for name in names if name not in known):
        raise IncompatibleModels(
            f"{where} names a tensor {unknown[0]} that transformers has no place for in {type(model).__name__} ({len(unknown)} such "
            "tensors). Save the model anew by save_pretrained."
        )


def check_labels(source: Input, labels: list[str]) -> None:
    """Raise :class:`IncompatibleModels` unless a trained classifier's classes are the data set's, in the same order."""
    if source.kind == "adapter":
        known = read_adapter(source.path)["labels"]
    else:
        config = read_config(model_directory(source))
        known = [config.id2label[index] for index in range(config.num_labels)] if is_classifier(config) else []
    if known and known != labels and known[0] != "LABEL_0":
        raise IncompatibleModels(
            f"{source.reference} tells the classes {', '.join(known)} apart, in this order; the data set has {', '.join(labels)}. "
            "Take data with the model's classes, or tune the model on these."
        )


def check_vocabulary(model: PreTrainedModel, tokenizer_sha256: str, dataset: dict[str, Any]) -> None:
    """Raise :class:`IncompatibleModels` unless ``dataset`` (its ``dataset.json``) was tokenized for ``model``.

    ``tokenizer_sha256`` is the digest of the model's tokenizer.
    """
    if dataset["tokenizer_sha256"] != tokenizer_sha256:
        raise IncompatibleModels(
            f"The data set was prepared with the tokenizer {dataset['tokenizer_sha256'][:12]}…, the model has {tokenizer_sha256[:12]}…. "
            "Prepare the data with this model."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if dataset["vocabulary"] > rows:
        raise IncompatibleModels(
            f"The data set has a vocabulary of {dataset['vocabulary']:,} tokens, the model embeds {rows:,}. "
            "Prepare the data with this model."
        )


def _is_encoder(config: PreTrainedConfig) -> bool:
    """BERT and its kin can be decoders, when their config says so."""
    return getattr(config, "is_encoder_decoder", False) or (config.model_type in _ENCODERS and not getattr(config, "is_decoder", False))


_ENCODERS = frozenset({"bert", "roberta", "electra", "camembert", "xlm-roberta", "roformer", "data2vec-text", "megatron-bert", "rembert"})


def _load(auto: Any, directory: Path, config: PreTrainedConfig, dtype: torch.dtype, held: Tensors | None = None) -> PreTrainedModel:
    model = _load_plain(auto, directory, config, dtype, held)
    return install_experts(model, directory, dtype=dtype) if is_mixture(directory) else model


def _load_plain(auto: Any, directory: Path, config: PreTrainedConfig, dtype: torch.dtype, held: Tensors | None = None) -> PreTrainedModel:
    options = {"config": config, "dtype": dtype, "local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    architecture, where = auto, directory
    if is_mixture(directory):
        held = base_tensors(directory)
    if held is not None:
        architecture, where, options["state_dict"] = auto._model_mapping[type(config)], None, dict(held)
    try:
        model, info = architecture.from_pretrained(where, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        model, info = architecture.from_pretrained(where, attn_implementation="eager", **options)
    model.fresh_parameters = sorted(info["missing_keys"])
    return model.eval()


def _with_adapter(model: PreTrainedModel, source: Input) -> PreTrainedModel:
    """What the adapter holds, a head say, is no longer drawn at random."""
    if source.kind != "adapter":
        return model
    if is_memory(source.path):
        install(model, read_memory(source.path), open_tokenizer(model_directory(source)))
        return model
    if is_edits(source.path):
        return apply_edits(model, read_edits(source.path), source.reference)
    tensors = load_file(source.path / ADAPTER_WEIGHTS)
    if (source.path / "adapter_config.json").is_file():
        adapted = _with_peft_adapter(model, source, tensors.keys())
    else:
        adapted = load_tensors(model, tensors, source.reference)
    held = {name.removeprefix("base_model.model.") for name in tensors}
    adapted.fresh_parameters = [name for name in model.fresh_parameters if name not in held]
    return adapted


def _with_peft_adapter(model: PreTrainedModel, source: Input, given: KeysView[str]) -> PreTrainedModel:
    """peft itself only warns of tensors that the base has no place for, and of places that got no tensor."""
    try:
        adapted = PeftModel.from_pretrained(model, str(source.path), local_files_only=True, use_safetensors=True)
    except (RuntimeError, ValueError) as error:
        raise IncompatibleModels(_does_not_fit(source, str(error).strip().splitlines()[-1].strip())) from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if wanted != given:
        raise IncompatibleModels(_does_not_fit(source, f"'{min(wanted ^ given)}' is in one of them only"))
    return adapted.merge_and_unload()


def _does_not_fit(source: Input, why: str) -> str:
    return f"{source.reference} does not fit its base sha256:{source.base.sha256}: {why.rstrip('.')}. Use the base that it was made from."


def load_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> Any:
    """Copy named tensors over the model's parameters; raise :class:`IncompatibleModels` for a name or shape it lacks."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise IncompatibleModels(f"{where} changes the parameter '{name}' {list(tensor.shape)}, which the base does not have.")
            parameters[name].copy_(tensor)
    return model
