"""LoRA (arXiv 2106.09685) and its kin by peft: W' = W + s BA, with s = alpha / r.

rsLoRA (arXiv 2312.03732): s = alpha / sqrt(r). DoRA (arXiv 2402.09353): W' = m (W + s BA) / ||W + s BA||, the norm taken
over each output's row, m trained from ||W||.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.opening import fresh_modules, head_modules
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.seeds import derive_seed
from lfm_tasks.tuning.fused import fused_lora
from lfm_tasks.tuning.methods.config import LoraConfig
from lfm_tasks.tuning.methods.method import Task


@dataclass(frozen=True)
class LowRank:
    name: str
    use_dora: bool = False
    use_rslora: bool = False
    adapter: bool = True

    def apply(self, model: PreTrainedModel, config: LoraConfig, seed: int) -> peft.PeftModel:
        classifier = model.get_output_embeddings() is None
        heads = sorted({*(head_modules(model) if classifier else ()), *fresh_modules(model)})
        linear = linear_modules(model, excluded=heads)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "adapter"))
            return peft.get_peft_model(
                model,
                peft.LoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,
                    lora_dropout=config.dropout,
                    target_modules=chosen_modules(config.target_modules, linear),
                    exclude_modules=heads or None,
                    modules_to_save=heads or None,
                    use_dora=self.use_dora,
                    use_rslora=self.use_rslora,
                    task_type="SEQ_CLS" if classifier else "CAUSAL_LM",
                ),
            )

    def training(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext() if self.use_dora else fused_lora(model)

    def save(self, model: peft.PeftModel, directory: Path, *, base_sha256: str, task: Task, labels: list[str]) -> None:
        save_adapter(model, directory, method=self.name, base_sha256=base_sha256, task=task, labels=labels)

    def merge(self, model: peft.PeftModel) -> PreTrainedModel:
        return model.merge_and_unload()


def linear_modules(model: PreTrainedModel, excluded: list[str]) -> list[str]:
    """Full names of the linear layers, but for the output embedding and ``excluded``."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and not name.startswith(tuple(excluded) or ("\0",))
    ]


def chosen_modules(wanted: list[str], linear: list[str]) -> list[str]:
    """Last parts of the names to adapt. Raises :class:`ConfigError` for a name that no linear layer has."""
    there = sorted({name.rpartition(".")[2] for name in linear})
    if wanted == ["all-linear"]:
        return there
    for name in wanted:
        if not any(full == name or full.endswith(f".{name}") for full in linear):
            raise ConfigError(f"target_modules: the model has no linear layer '{name}'. It has: {', '.join(there)}; or use 'all-linear'.")
    return sorted(wanted)


LORA = LowRank("lora")
DORA = LowRank("dora", use_dora=True)
RSLORA = LowRank("rslora", use_rslora=True)
