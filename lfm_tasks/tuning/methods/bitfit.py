"""BitFit (arXiv 2106.10199): only the bias terms train."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.opening import fresh_modules, head_modules
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.tuning.methods.config import BitFitConfig
from lfm_tasks.tuning.methods.method import Task


class BitFit:
    adapter = True

    def apply(self, model: PreTrainedModel, config: BitFitConfig, seed: int) -> PreTrainedModel:
        heads = _prefixes(model)
        names = [name for name, _ in model.named_parameters()]
        chosen = {name for name in names if name.endswith(".bias")}
        if config.norms:
            chosen |= {f"{name}.weight" for name, module in model.named_modules() if "norm" in type(module).__name__.lower()} & set(names)
        if not any(not name.startswith(heads) for name in chosen) if heads else not chosen:
            raise IncompatibleModels(
                f"BitFit trains bias terms, and {type(model).__name__} has none. Set the option norms=true to train the gains of its "
                "normalisation layers, or use lora."
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen or (bool(heads) and name.startswith(heads)))
        return model

    def training(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, model: nn.Module, directory: Path, *, base_sha256: str, task: Task, labels: list[str]) -> None:
        tensors = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        save_adapter(model, directory, method="bitfit", base_sha256=base_sha256, task=task, labels=labels, tensors=tensors)

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        return model


def _prefixes(model: PreTrainedModel) -> tuple[str, ...]:
    """Prefixes of the parameters that train whatever the method: the head of a classifier, and what is fresh."""
    heads = head_modules(model) if model.get_output_embeddings() is None else []
    return tuple(f"{name}." for name in sorted({*heads, *fresh_modules(model)}))


BITFIT = BitFit()
