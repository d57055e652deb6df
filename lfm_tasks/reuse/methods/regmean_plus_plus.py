"""RegMean++ (Nguyen et al. 2025): RegMean on the inputs that a layer will have, those that the merged layers before it give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.models.forward import unpadded
from lfm_tasks.models.layer_inputs import input_products, linear_layers
from lfm_tasks.models.prepared import Rows
from lfm_tasks.models.resuming import below, under
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.methods.config import RegmeanPlusPlusConfig
from lfm_tasks.reuse.methods.linear import weighted_sum
from lfm_tasks.reuse.methods.regmean import nearest
from lfm_tasks.reuse.tasks import Task

BATCH = 32
"""Rows that go through a model at once."""


def regmean_plus_plus(group: Group, options: RegmeanPlusPlusConfig) -> Tensor:
    """What was learnt; the mean for what no row reaches."""
    if group.learnt is None:
        return weighted_sum(group, [1 / len(group.models)] * len(group.models))
    return group.learnt.to(group.dtype)


@torch.no_grad()
def learn(learning: Learning, options: RegmeanPlusPlusConfig) -> Learnt:
    """Stage by stage in the order of the calls: each model's rows go through what is merged so far, then through its own stage."""
    rows = [task.rows.take(list(range(min(options.gram_rows, len(task.rows))))) for task in learning.tasks]
    plan, kept, before = stages(learning.tasks[0], learning.merged), _kept(learning), learning.kept()
    done, learnt = int(before.get("step", 0)), below(before, "tensor")
    if before:
        learning.context.log(f"Resumed: {done} of {len(plan)} steps of learning were done before.")

    def state() -> dict[str, Tensor]:
        return {"step": torch.tensor(done)} | under(learnt, "tensor")

    for names in plan[done:]:
        until = plan[done + 1][0] if done + 1 < len(plan) else None
        found = [grams(*one, kept | learnt, names, until) for one in zip(learning.tasks, rows, strict=True)]
        for name in names:
            weights = [model.read(name).float() for model in learning.models]
            if all(name in one for one in found):
                matrices, (input_axis, *_) = zip(*(one[name] for one in found), strict=True)
                learnt[name] = nearest(name, weights, matrices, input_axis, options).float()
            else:
                learnt[name] = sum(weights[1:], weights[0]) / len(weights)
        done += 1
        learning.report(done, len(plan), {}, state)
    return Learnt(learnt, len(plan), state())


def stages(task: Task, names: Sequence[str]) -> list[list[str]]:
    """The tensors in the order in which their modules are first called: a numbered layer is one stage; outside of layers each module."""
    merged, found = set(names), {}

    def see(stage: str, own: list[str]) -> None:
        found.setdefault(stage, {}).update(dict.fromkeys(own))

    with ExitStack() as hooks:
        for path, module in task.module.named_modules():
            own = [_inside(task, f"{path}.{name}") for name, _ in module.named_parameters(recurse=False)]
            if own := [name for name in own if name in merged]:
                layer = re.match(r".*?\b\d+\b", path)
                stage = layer[0] if layer else path
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, stage=stage, own=own: see(stage, own)))
        task.logits({}, next(unpadded(task.rows, 1)))
    return [list(stage) for stage in found.values()]


def grams(task: Task, rows: Rows, tensors: Mapping[str, Tensor], names: Sequence[str], until: str | None) -> dict[str, tuple[Tensor, int]]:
    """Gram matrix and input axis of the linear layers among ``names``, in the model with ``tensors``.

    ``until``: a tensor of the module that comes after them; it and what follows need not run.
    """
    layers = {_inside(task, name): layer for name, layer in linear_layers(task.module).items()}
    layers = {name: layer for name, layer in layers.items() if name in names}
    if not layers:
        return {}
    with ExitStack() as hooks:
        products = hooks.enter_context(input_products(layers))
        if until is not None:
            hooks.enter_context(task.module.get_submodule((task.prefix + until).rpartition(".")[0]).register_forward_pre_hook(_stop))
        for batch in unpadded(rows, BATCH):
            with suppress(_Reached):
                task.logits(tensors, batch)
    return {name: (products.mean(name), layers[name].input_axis) for name in products.shared}


class _Reached(Exception):
    """The rest of the model is not needed."""


def _stop(*_: Any) -> None:
    raise _Reached


def _inside(task: Task, name: str) -> str:
    """The name among the merged tensors of one of the module's."""
    return name.removeprefix(".").removeprefix(task.prefix)


def _kept(learning: Learning) -> dict[str, Tensor]:
    """What the result has of the donor: the models' own layers will be run after it, too."""
    donor, known = learning.base or learning.models[0], learning.tasks[0].module.state_dict()
    names = [one.name for one in learning.planned if not one.merged and one.dtype.is_floating_point]
    return {name: donor.read(name).float() for name in names if learning.tasks[0].prefix + name in known}


REGMEAN_PLUS_PLUS = MergeMethod(regmean_plus_plus, base="ignored", learn=learn)
