"""WEMoE (Tang et al. 2024, arXiv 2402.00433) and E-WEMoE (Shen et al. 2024, arXiv 2410.21804).

What is not mixed is merged by task arithmetic. The routers learn by minimising the entropy of what every task's head says of its
own unlabelled rows, with one set of weights for each batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.forward import forward
from lfm_tasks.models.mixtures import wemoe
from lfm_tasks.models.mixtures.files import Description, save_mixture
from lfm_tasks.models.mixtures.task_vectors import ROUTER, Router, make_router, sparse
from lfm_tasks.models.mixtures.wemoe import WeightEnsembling
from lfm_tasks.models.resuming import below, copy_in_place, load_optimizer_state, optimizer_state, under
from lfm_tasks.reuse.entropy import entropy
from lfm_tasks.reuse.mixtures.method import Mixing, MixMethod
from lfm_tasks.reuse.mixtures.modules import feed_forwards
from lfm_tasks.seeds import derive_seed


def build(mixing: Mixing, directory: Path) -> dict[str, float]:
    options = mixing.options
    if options.router_depth and any(task.rows.task != "classification" for task in mixing.tasks):
        raise ConfigError(
            f"{mixing.config.method} with router_depth {options.router_depth} routes by the mean over a whole text, which would show a "
            "decoder the tokens that it is to predict. Mix classifiers, set router_depth=0, or choose smile, which routes by the token."
        )
    description = describe(mixing)
    names = {f"{name}.{part}": name for name in description.modules for part, _ in mixing.skeleton.get_submodule(name).named_parameters()}
    vectors = task_vectors(mixing, list(names), getattr(options, "density", None))
    base = mixing.summed(sorted(mixing.mergeable - names.keys()), options.initial)
    routers = first_routers(mixing, description)
    last = train(mixing, description, base, vectors, routers)
    learnt = {f"{ROUTER}.{name}": one for name, one in router_tensors(routers).items()}
    save_mixture(description, base, vectors | learnt, mixing.base.directory, directory)
    numbers = [tensor for name, tensor in (vectors | learnt).items() if tensor.is_floating_point()]
    return {
        "mixed_modules": float(len(description.modules)),
        "router_parameters": float(sum(one.numel() for one in learnt.values())),
        "extra_parameters": float(sum(one.numel() for one in numbers)),
        **last,
    }


def describe(mixing: Mixing) -> Description:
    found = feed_forwards(mixing.skeleton)
    names = mixing.chosen([name for modules in found.values() for name in modules if _whole(mixing, name)])
    modules = {}
    for block, members in found.items():
        chosen = [name for name in members if name in names]
        modules |= {name: {"feed_forward": block, "first": name == chosen[0]} for name in chosen}
    return Description(mixing.config.method, len(mixing.models), modules, mixing.options.model_dump())


def _whole(mixing: Mixing, name: str) -> bool:
    return all(f"{name}.{part}" in mixing.mergeable for part, _ in mixing.skeleton.get_submodule(name).named_parameters())


def task_vectors(mixing: Mixing, names: list[str], density: float | None) -> dict[str, Tensor]:
    """As they are stored: in the base's precision, sparse where a ``density`` is given."""
    stored = {}
    for name in names:
        differences = mixing.differences(name)
        dtype = mixing.base.tensors[name].dtype
        if density is None:
            stored[name] = differences.to(dtype)
        else:
            values, places = sparse(differences, density)
            stored |= {f"{name}.values": values.to(dtype), f"{name}.places": places}
    return stored


def first_routers(mixing: Mixing, description: Description) -> dict[str, Router]:
    """Weights from N(0, 0.01), drawn for each router by its name; the last bias is ``initial``, the others are zero."""
    places = {name: name for name in description.modules}
    routers = {}
    for name, width in wemoe.router_widths(mixing.skeleton, description, places).items():
        routers[name] = start(make_router(width, description), mixing.options.initial, derive_seed(mixing.config.seed, "router", name))
    return routers


def start(router: Router, initial: float, seed: int) -> Router:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in router.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, 0, 0.01, generator)
        else:
            nn.init.constant_(parameter, 0.0 if name.startswith("hidden") else initial)
    return router


def train(
    mixing: Mixing, description: Description, base: Mapping[str, Tensor], vectors: Mapping[str, Tensor], routers: Mapping[str, Router]
) -> dict[str, float]:
    """Changes the routers; returns the mean entropy of the first step and of the last."""
    options, wide = mixing.options, {name: one.float() if one.is_floating_point() else one for name, one in vectors.items()}
    for task in mixing.tasks:
        task.module.load_state_dict({task.prefix + name: tensor for name, tensor in base.items()}, strict=False)
        places = {name: task.prefix + name for name in description.modules}
        wemoe.install(task.module, description, wide, places, routers)
        for module in task.module.modules():
            if isinstance(module, WeightEnsembling):
                module.gate.reduced = True
    parameters = [parameter for router in routers.values() for parameter in router.parameters()]
    optimizer = torch.optim.Adam(parameters, options.learning_rate)
    seen, done = [], 0
    if before := mixing.kept():
        done, seen = int(before["step"]), before["entropy"].tolist()
        load_routers(routers, below(before, "router"))
        load_optimizer_state(optimizer, below(before, "adam"))

    def state() -> dict[str, Tensor]:
        kept = {"step": torch.tensor(len(seen)), "entropy": torch.tensor(seen, dtype=torch.float64)}
        return kept | under(router_tensors(routers), "router") | under(optimizer_state(optimizer), "adam")

    streams = [islice(task.stream(options.batch_size, mixing.config.seed), done, None) for task in mixing.tasks]
    for step in range(done + 1, options.steps + 1):
        optimizer.zero_grad()
        total = 0.0
        for task, stream in zip(mixing.tasks, streams, strict=True):
            loss = entropy(forward(task.module, next(stream))).mean()
            loss.backward()
            total += loss.item()
        optimizer.step()
        seen.append(total / len(mixing.tasks))
        mixing.report(step, options.steps, state, {"entropy": seen[-1]})
    return {"entropy_first": seen[0], "entropy_last": seen[-1]} if seen else {}


def router_tensors(routers: Mapping[str, Router]) -> dict[str, Tensor]:
    return {f"{name}.{part}": one for name, router in routers.items() for part, one in router.state_dict().items()}


def load_routers(routers: Mapping[str, Router], tensors: Mapping[str, Tensor]) -> None:
    copy_in_place(router_tensors(routers), tensors)


WEMOE = MixMethod(build, data="required")
