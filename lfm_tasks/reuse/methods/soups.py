"""Greedy and learned soups (Wortsman et al. 2022): averages of models of one task, whose weights labelled rows choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lfm_tasks.models.resuming import below, copy_in_place, load_optimizer_state, optimizer_state, under
from lfm_tasks.reuse.blocks import accumulate
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.group import Group, MergeMethod
from lfm_tasks.reuse.learning import Learning, Learnt
from lfm_tasks.reuse.methods.config import GreedySoupConfig, LearnedSoupConfig, ScoreName
from lfm_tasks.reuse.methods.linear import weighted_sum
from lfm_tasks.reuse.scoring import Score, Scorer


def soup(group: Group, options: GreedySoupConfig | LearnedSoupConfig) -> Tensor:
    """sum_i w_i theta_i with the weights [models] that were learnt."""
    return weighted_sum(group, group.learnt.tolist())


def greedy(learning: Learning, options: GreedySoupConfig) -> Learnt:
    """The mean of those models, taken from the best on, that do not make its score worse (recipe 1).

    Of equal models the one whose hash is lower comes first. Beside the task's model a sum and a candidate are in memory.
    """
    models, context = learning.models, learning.context
    trials = Trials(learning, 2 * len(models) - 1, Scorer(learning.tasks[0], options.score_rows), options.score)
    alone = []
    for model in models:
        alone.append(trials.score(lambda model=model: _read(learning, model)))
        context.log(f"{model.name} alone: {alone[-1]}.")
    order = sorted(range(len(models)), key=lambda place: (-alone[place].by(options.score), models[place].key))
    kept, best, total = order[:1], alone[order[0]].by(options.score), _read(learning, models[order[0]])
    for place in order[1:]:
        wider = {name: tensor + total[name] for name, tensor in _read(learning, models[place]).items()}
        found = trials.score(partial(_divided, learning, wider, len(kept) + 1))
        if joins := found.by(options.score) >= best:
            kept, best, total = [*kept, place], found.by(options.score), wider
        context.log(f"With {models[place].name}: {found}; {'kept' if joins else 'left out'}.")
    weights = torch.zeros(len(models), dtype=torch.float64)
    weights[kept] = 1 / len(kept)
    return Learnt(dict.fromkeys(learning.merged, weights), trials.total, trials.state())


class Trials:
    """Scores in the order in which they are asked for; those of a stopped attempt of the same job are not found again."""

    def __init__(self, learning: Learning, total: int, scorer: Scorer, shown: ScoreName) -> None:
        self.learning, self.total, self.scorer, self.shown = learning, total, scorer, shown
        self.before = [Score(*one) for one in learning.kept().get("scores", torch.empty(0)).tolist()]
        self.done: list[Score] = []
        if self.before:
            learning.context.log(f"Resumed: {len(self.before)} of {total} scores were found before.")

    def score(self, make: Callable[[], Mapping[str, Tensor]]) -> Score:
        """Raises :class:`AttemptKilled` when a stop was asked for, once the score is kept."""
        if len(self.done) < len(self.before):
            self.done.append(self.before[len(self.done)])
        else:
            self.done.append(self.scorer(make()))
            self.learning.report(len(self.done), self.total, {"score": self.done[-1].by(self.shown)}, self.state)
        return self.done[-1]

    def state(self) -> dict[str, Tensor]:
        return {"scores": torch.tensor([[one.accuracy, one.log_likelihood] for one in self.done], dtype=torch.float64)}


def learned(learning: Learning, options: LearnedSoupConfig) -> Learnt:
    """Softmax weights, and a temperature beside them, that minimise the cross entropy of the soup's answers (appendix I).

    dL/dw_i is the inner product of dL/dtheta and theta_i, so that no more than the soup and its gradient are in memory; the
    models are read from their files in each step.
    """
    task, names = learning.tasks[0], sorted(learning.merged)
    rows = {name: place if options.soup_weights == "tensor" else 0 for place, name in enumerate(names)}
    logits = torch.zeros(1 + max(rows.values()), len(learning.models), dtype=torch.float64, requires_grad=True)
    temperature = torch.ones((), requires_grad=True)
    adam = torch.optim.Adam([logits, temperature], lr=options.soup_learning_rate)
    score = Scorer(task, options.score_rows)
    context, steps = learning.context, options.passes * -(-len(task.rows) // options.rows_per_step)

    def state() -> dict[str, Tensor]:
        return {"step": torch.tensor(step), "logits": logits.detach(), "temperature": temperature.detach()} | under(
            optimizer_state(adam), "adam"
        )

    step = done = 0
    if before := learning.kept():
        step = done = int(before["step"])
        copy_in_place({"logits": logits, "temperature": temperature}, before)
        load_optimizer_state(adam, below(before, "adam"))
        context.log(f"Resumed: {done} of {steps} steps of learning were done before.")
    else:
        context.log(f"Equal weights: {score(_mixed(learning, rows, logits.softmax(-1)))}.")
    for step, batch in zip(range(done + 1, steps + 1), islice(task.stream(options.rows_per_step, learning.seed), done, None), strict=False):
        adam.zero_grad()
        weights = logits.softmax(-1)
        tensors = {name: tensor.requires_grad_() for name, tensor in _mixed(learning, rows, weights).items()}
        loss = cross_entropy(temperature * task.logits(tensors, batch), batch["target"])
        loss.backward()
        (weights * slopes(learning, rows, tensors, weights)).sum().backward()
        adam.step()
        learning.report(step, steps, {"loss": loss.item()}, state)
    weights = logits.detach().softmax(-1)
    context.log(f"Learnt weights: {score(_mixed(learning, rows, weights))}.")
    return Learnt({name: weights[rows[name]] for name in names}, steps, state())


def slopes(learning: Learning, rows: Mapping[str, int], tensors: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """dL/dw of the shape of ``weights``, from the gradients that the merged ``tensors`` hold."""
    found = torch.zeros_like(weights)
    for name, tensor in tensors.items():
        if tensor.grad is not None:
            for place, model in enumerate(learning.models):
                found[rows[name], place] += accumulate(lambda _, slope, theta: (slope * theta).sum(), tensor.grad, model.read(name))
    return found


def _read(learning: Learning, model: Checkpoint) -> dict[str, Tensor]:
    """In the precision of the result, as float32."""
    return {one.name: model.read(one.name).to(one.dtype).float() for one in learning.planned if one.merged}


def _divided(learning: Learning, sums: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {one.name: (sums[one.name] / count).to(one.dtype) for one in learning.planned if one.merged}


def _mixed(learning: Learning, rows: Mapping[str, int], weights: Tensor) -> dict[str, Tensor]:
    models, keys = learning.models, tuple(model.key for model in learning.models)
    return {
        name: weighted_sum(Group(name, None, tuple(model.read(name) for model in models), keys, torch.float32), weights[row].tolist())
        for name, row in rows.items()
    }


GREEDY_SOUP = MergeMethod(soup, base="ignored", learn=greedy, split="validation", one_task=True)
LEARNED_SOUP = MergeMethod(soup, base="ignored", learn=learned, split="validation", one_task=True)
