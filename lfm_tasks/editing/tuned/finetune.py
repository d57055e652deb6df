"""FT-M and FT-L: one matrix tuned on the facts, alone or inside an L-infinity ball (Zhu et al. 2020, arXiv 2012.00363)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lfm_tasks.editing.likelihood import FactBatch, fact_batch, prompt_last_nll, target_nll
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.config import FtlConfig, FtmConfig, TunedConfig
from lfm_tasks.editing.tuned.optimise import minimise
from lfm_tasks.errors import NonFiniteLoss
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Site, site_at
from lfm_tasks.models.edits import LowRank

DEPTH = 1 / 7
"""Early layers keep the neighbours of a fact best; late ones reach paraphrases better."""


def ft_m(editing: Editing, facts: Sequence[Fact], options: FtmConfig) -> Edit:
    """Cross entropy of the target's tokens with the prompt masked, Adam on one matrix."""
    return _tuned(editing, facts, options, lambda site, delta: None)


def ft_l(editing: Editing, facts: Sequence[Fact], options: FtlConfig) -> Edit:
    """As FT-M with every entry of W - W0 clamped to [-e, e] after each step; e = ``ball`` root mean squares of W0."""

    def clamp(site: Site, delta: Tensor) -> None:
        radius = ball(site, options)
        delta.clamp_(-radius, radius)

    return _tuned(editing, facts, options, clamp)


def ball(site: Site, options: FtlConfig) -> float:
    return options.ball * site.matrix.square().mean().sqrt().item()


def _tuned(editing: Editing, facts: Sequence[Fact], options: TunedConfig, project: Callable[[Site, Tensor], None]) -> Edit:
    site = site_at(editing.decoder, options.layer, DEPTH)
    stored, batch = site.module.weight.detach(), fact_batch(editing.tokenizer, facts).to(editing.model.device)
    delta = torch.zeros_like(stored, requires_grad=True)
    nll = prompt_last_nll if getattr(options, "scoring", "each") == "prompt_last" else target_nll

    def losses() -> Tensor:
        return nll(editing.model, batch, {site.name: stored + delta})

    steps = minimise([delta], losses, options, editing.context, lambda: project(site, delta))
    changed = delta.detach().T if site.transposed else delta.detach()
    return edited(editing, batch, (full_rank(site, changed.cpu()),), {"steps": float(steps)})


def full_rank(site: Site, delta: Tensor) -> LowRank:
    """``delta`` [out, in] with the identity of its smaller side as the other factor.

    Adam divides the gradient entry by entry, so what it makes has full rank and a decomposition would keep no fewer numbers; this one
    is exact.
    """
    out, inner = delta.shape
    if out <= inner:
        return LowRank(site.name, torch.eye(out), delta.T.contiguous(), site.transposed)
    return LowRank(site.name, delta.contiguous(), torch.eye(inner), site.transposed)


def edited(editing: Editing, batch: FactBatch, changes: Sequence[LowRank], figures: dict[str, float]) -> Edit:
    """The edit, its factors on the CPU, with -log p of each target once it is applied. Raises :class:`NonFiniteLoss` where that is no
    number."""
    weights, device = dict(editing.model.named_parameters()), editing.model.device
    with torch.no_grad():
        after = target_nll(editing.model, batch, {one.name: weights[one.name] + one.stored.to(device) for one in changes})
    if not after.isfinite().all():
        raise NonFiniteLoss("After the edit the loss of a fact is no finite number. Take a smaller step, or fewer facts in a round.")
    changes = [LowRank(one.name, one.left.cpu(), one.right.cpu(), one.transposed) for one in changes]
    norms = {f"delta_norm.{one.name}": one.stored.norm().item() / weights[one.name].norm().item() for one in changes}
    return Edit(tuple(changes), facts=tuple({"nll": value} for value in after.tolist()), figures=figures | norms)


FT_M = EditMethod(edit=ft_m)
FT_L = EditMethod(edit=ft_l)
