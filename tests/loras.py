"""LoRA adapters with random weights on a toy model, as artifacts."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lfm_tasks.models.saving import save_adapter
from lfm_tasks.step import Input

TARGETS = ("q_proj", "down_proj")


def make_lora(
    base: Input, directory: Path, *, seed: int, rank: int = 4, alpha: int = 8, labels: list[str] | None = None, **options
) -> Input:
    """Both factors random. With ``labels`` it is a classifier's, with a head of its own."""
    auto = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_pretrained(base.path, **({} if labels is None else {"num_labels": len(labels)}))
        options = {"target_modules": list(TARGETS if labels is None else ("query", "value"))} | options
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            modules_to_save=None if labels is None else ["classifier"],
            task_type="CAUSAL_LM" if labels is None else "SEQ_CLS",
            **options,
        )
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.data = 0.1 * torch.randn(parameter.shape)
    task = "causal_lm" if labels is None else "classification"
    save_adapter(adapted, directory, method="lora", base_sha256=base.sha256, task=task, labels=labels)
    return Input(directory.name, "adapter", directory.name, directory, base)
