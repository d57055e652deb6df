"""LoRA as an edit (Hu et al. 2021, arXiv 2106.09685): the factors of a change of a few layers' matrices, trained on the facts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.config import LoraEditConfig
from lfm_tasks.editing.tuned.finetune import edited
from lfm_tasks.editing.tuned.optimise import minimise
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import sites_from
from lfm_tasks.models.edits import LowRank
from lfm_tasks.seeds import derive_seed

DEPTH = 0.7


def lora_edit(editing: Editing, facts: Sequence[Fact], options: LoraEditConfig) -> Edit:
    """W = W0 + left right^T; left starts as zero, right as normal / sqrt(in). The model has no adapter at any time."""
    sites, device = sites_from(editing.decoder, options.layer, options.span, DEPTH), editing.model.device
    batch = fact_batch(editing.tokenizer, facts).to(device)
    generator = torch.Generator().manual_seed(derive_seed(editing.seed, "lora_edit"))
    factors = []
    for site in sites:
        out, inner = site.matrix.shape
        right = torch.randn(inner, options.rank, generator=generator) / inner**0.5
        factors.append(LowRank(site.name, torch.zeros(out, options.rank, device=device), right.to(device), site.transposed))
    trained = [tensor.requires_grad_() for one in factors for tensor in (one.left, one.right)]
    weights = {site.name: site.module.weight.detach() for site in sites}

    def losses() -> Tensor:
        return target_nll(editing.model, batch, {one.name: weights[one.name] + one.stored for one in factors})

    steps = minimise(trained, losses, options, editing.context)
    for tensor in trained:
        tensor.requires_grad_(False)
    return edited(editing, batch, factors, {"steps": float(steps)})


LORA_EDIT = EditMethod(edit=lora_edit)
