"""Pareto MoE (Tang et al. 2024, arXiv 2406.09770): one training for the whole Pareto front.

Each step draws a preference from the simplex; routers turn it into weights of the task vectors, module by module. The tasks'
labelled losses are weighted by the preference, or by exact Pareto optimal search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lfm_tasks.models.mixtures.files import Description, save_mixture
from lfm_tasks.models.mixtures.pareto import checked_preference
from lfm_tasks.models.mixtures.task_vectors import ROUTER, Router, combined, make_router
from lfm_tasks.models.resuming import below, load_optimizer_state, optimizer_state, under
from lfm_tasks.reuse.mixtures.epo import epo_weights
from lfm_tasks.reuse.mixtures.method import Mixing, MixMethod
from lfm_tasks.reuse.mixtures.wemoe import describe, load_routers, router_tensors, start, task_vectors
from lfm_tasks.seeds import derive_seed


def build(mixing: Mixing, directory: Path) -> dict[str, float]:
    options, experts = mixing.options, len(mixing.models)
    preference = checked_preference(options.preference, experts)
    names = list(describe(mixing).modules)
    description = Description("pareto_moe", experts, {name: {} for name in names}, options.model_dump() | {"preference": preference})
    mixed = {f"{name}.{part}": name for name in names for part, _ in mixing.skeleton.get_submodule(name).named_parameters()}
    vectors = task_vectors(mixing, list(mixed), None)
    base = mixing.summed(sorted(mixing.mergeable - mixed.keys()), options.initial)
    routers = {
        name: start(make_router(experts, description), options.initial, derive_seed(mixing.config.seed, "router", name)) for name in names
    }
    last = train(mixing, base, vectors, mixed, routers)
    learnt = {f"{ROUTER}.{name}": one for name, one in router_tensors(routers).items()}
    save_mixture(description, base, vectors | learnt, mixing.base.directory, directory)
    return {
        "mixed_modules": float(len(names)),
        "router_parameters": float(sum(one.numel() for one in learnt.values())),
        "extra_parameters": float(sum(one.numel() for one in (vectors | learnt).values())),
        **last,
    }


def train(
    mixing: Mixing, base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], mixed: Mapping[str, str], routers: Mapping[str, Router]
) -> dict[str, float]:
    """Changes the routers; ``mixed`` says to which module a tensor belongs. Returns each task's last loss."""
    options, random = mixing.options, np.random.default_rng(derive_seed(mixing.config.seed, "preference"))
    for task in mixing.tasks:
        task.module.load_state_dict({task.prefix + name: tensor for name, tensor in base.items()}, strict=False)
    own = {name: (base[name].float(), vectors[name].float()) for name in mixed}
    parameters = [parameter for router in routers.values() for parameter in router.parameters()]
    optimizer = torch.optim.Adam(parameters, options.learning_rate)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.steps), options.learning_rate / 10)
    done, losses = 0, []
    if before := mixing.kept():
        done, losses = int(before["step"]), list(before["losses"])
        load_routers(routers, below(before, "router"))
        load_optimizer_state(optimizer, below(before, "adam"))
        rate.last_epoch, optimizer.param_groups[0]["lr"] = done, float(before["rate"])
        random.dirichlet(np.ones(len(mixing.tasks)), done)

    def state() -> dict[str, Tensor]:
        now = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64)
        kept = {"step": torch.tensor(step), "losses": torch.stack(losses), "rate": now}
        return kept | under(router_tensors(routers), "router") | under(optimizer_state(optimizer), "adam")

    streams = [islice(task.stream(options.batch_size, mixing.config.seed), done, None) for task in mixing.tasks]
    for step in range(done + 1, options.steps + 1):
        preference = random.dirichlet(np.ones(len(mixing.tasks)))
        weights = {name: router(torch.tensor(preference, dtype=torch.float32)) for name, router in routers.items()}
        tensors = {name: combined(*own[name], weights[module]) for name, module in mixed.items()}
        losses = []
        for task, stream in zip(mixing.tasks, streams, strict=True):
            batch = next(stream)
            losses.append(cross_entropy(task.logits(tensors, batch), batch["target"], ignore_index=-1))
        descend(losses, parameters, preference, options.scalarisation)
        optimizer.step()
        rate.step()
        mixing.report(step, options.steps, state, last_losses(losses))
    return last_losses(losses)


def last_losses(losses: Sequence[Tensor]) -> dict[str, float]:
    return {f"loss_{place}": loss.item() for place, loss in enumerate(losses)}


def descend(losses: Sequence[Tensor], parameters: Sequence[Tensor], preference: np.ndarray, scalarisation: str) -> None:
    """Put the gradient of the scalarised losses into ``parameters``."""
    if scalarisation == "linear":
        total = sum(float(share) * loss for share, loss in zip(preference, losses, strict=True))
        found = torch.autograd.grad(total, parameters)
    else:
        each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        flat = torch.stack([torch.cat([part.reshape(-1) for part in one]) for one in each]).double().numpy()
        weights = len(losses) * epo_weights(flat @ flat.T, np.array([loss.item() for loss in losses]), preference)
        found = [sum(float(w) * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*each, strict=True)]
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient


PARETO = MixMethod(build, data="required")
