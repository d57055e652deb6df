"""Train SERAC's two parts for one model: what is in a fact's scope, and what the model says there once it has been told the fact."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lfm_tasks.editing.hyper.config import SeracTraining
from lfm_tasks.editing.hyper.episodes import retargeted, subject_of
from lfm_tasks.editing.hyper.loop import train
from lfm_tasks.editing.hyper.training import Lesson, Made
from lfm_tasks.editing.likelihood import pair_batch, prompt_batch, target_nll
from lfm_tasks.editing.memory.config import SeracConfig
from lfm_tasks.editing.memory.elsewhere import PLAIN
from lfm_tasks.editing.memory.prompts import told
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Site, site_at, sites_from
from lfm_tasks.models.edits import LowRank
from lfm_tasks.models.memories.serac import scope_logits
from lfm_tasks.models.partial import until_seen
from lfm_tasks.seeds import derive_seed

DEPTH = 0.5
"""Of the layer whose states the scope is told by."""
COUNTERFACTUAL_DEPTH = 0.7
ROWS = 64
"""Prompts of a pass, and facts of a step of the scope."""


class States:
    """Mean hidden states of prompts, less a centre and of length 1, each computed once."""

    def __init__(self, lesson: Lesson, layer: int, facts: Sequence[Fact]) -> None:
        editing = lesson.editing
        texts = list(dict.fromkeys([*PLAIN, *(text for fact in facts for text in (*prompts_of(fact), *elsewhere_of(fact)))]))
        found = []
        for start in range(0, len(texts), ROWS):
            ids, given = prompt_batch(editing.tokenizer, texts[start : start + ROWS])
            (states,) = until_seen(editing.decoder, ids, outputs=[editing.decoder.layers[layer]])
            given[:, 0] &= given.sum(1) == 1
            kept = given.to(states.device)[..., None].float()
            found.append((states.float() * kept).sum(1) / kept.sum(1))
        means = torch.cat(found)
        self.centre = means[: len(PLAIN)].mean(0)
        self.rows = torch.nn.functional.normalize(means - self.centre, dim=-1)
        self.place = {text: place for place, text in enumerate(texts)}

    def of(self, texts: Sequence[str]) -> Tensor:
        return self.rows[[self.place[text] for text in texts]]


def prompts_of(fact: Fact) -> tuple[str, ...]:
    return (fact.text, *fact.paraphrases)


def elsewhere_of(fact: Fact) -> tuple[str, ...]:
    return tuple(probe.prompt for probe in (*fact.neighbours, *fact.locality))


def train_serac(lesson: Lesson, options: SeracTraining) -> Made:
    """Both in one loop: their losses have nothing in common but the facts."""
    editing, config, facts = lesson.editing, lesson.config, lesson.facts
    layer = site_at(editing.decoder, options.layer, DEPTH).layer
    states = States(lesson, layer, (*facts.train, *facts.held_out))
    sites = sites_from(editing.decoder, options.counterfactual_layer, options.span, COUNTERFACTUAL_DEPTH)
    scope, lora = new_scope(states.rows.shape[1], options, config.seed), new_lora(sites, options, config.seed)
    scope, lora = ({name: one.to(editing.model.device).requires_grad_() for name, one in part.items()} for part in (scope, lora))

    def learn(step: int) -> Mapping[str, float]:
        dice = random.Random(derive_seed(config.seed, "serac", step))
        chosen = dice.sample(facts.train, min(ROWS, len(facts.train)))
        scope_loss = scope_losses(scope, states, chosen, dice)[0]
        told_facts = [retargeted(one, facts.train, dice) if config.targets == "drawn" else one for one in chosen[: config.edits]]
        edit_loss = told_nll(lesson, sites, lora, told_facts, dice)
        (scope_loss + edit_loss).backward()
        return {"scope_loss": scope_loss.item(), "edit_loss": edit_loss.item()}

    @torch.no_grad()
    def look() -> tuple[float, Mapping[str, float]]:
        dice = random.Random(derive_seed(config.seed, "serac look"))
        scope_loss, missed = scope_losses(scope, states, facts.held_out, dice)
        starts = range(0, len(facts.held_out), config.edits)
        groups = [facts.held_out[start : start + config.edits] for start in starts]
        nll = sum(len(one) * told_nll(lesson, sites, lora, one, dice).item() for one in groups) / len(facts.held_out)
        return scope_loss.item() + nll, {"scope_loss": scope_loss.item(), "scope_error": missed, "edit_loss": nll}

    trained = train(editing.context, [(config.learning_rate, lora), (options.scope_rate, scope)], learn, look, config)
    layers = torch.tensor([site.layer for site in sites])
    fixed = {"centre": states.centre, "layer": torch.tensor(layer), "counterfactual.layers": layers}
    return Made({name: tensor.detach().cpu() for name, tensor in {**scope, **lora, **fixed}.items()}, {}, trained)


def new_scope(width: int, options: SeracTraining, seed: int) -> dict[str, Tensor]:
    """The projection keeps lengths on average; at first a prompt is in scope at a distance below about a half of the farthest."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "scope"))
    project = torch.randn(options.scope_rank, width, generator=generator) / options.scope_rank**0.5
    return {"scope.project": project, "scope.scale": torch.tensor(4.0), "scope.bias": torch.tensor(2.0)}


def new_lora(sites: Sequence[Site], options: SeracTraining, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "counterfactual"))
    found = {}
    for at, site in enumerate(sites):
        out, inner = site.matrix.shape
        found[f"counterfactual.{at}.left"] = torch.zeros(out, options.rank)
        found[f"counterfactual.{at}.right"] = torch.randn(inner, options.rank, generator=generator) / inner**0.5
    return found


def scope_losses(scope: Mapping[str, Tensor], states: States, facts: Sequence[Fact], dice: random.Random) -> tuple[Tensor, float]:
    """Mean of the cross entropies over prompts in scope and over those out of it, which are many; and the mean share of either missed.

    In scope of a fact: its prompt and paraphrases. Out of it: those of other subjects, its neighbours, what else shall stay, plain text.
    """
    places = range(len(facts))
    asked = [(dice.choice(prompts_of(facts[at])), at) for at in places] + [(facts[at].text, at) for at in places]
    other = [(dice.choice(elsewhere_of(fact) or PLAIN), place) for place, fact in enumerate(facts)] + [(text, -1) for text in PLAIN]
    odds = scope_logits(*scope.values(), states.of([text for text, _ in (*asked, *other)]), states.of([fact.text for fact in facts]))
    subjects = [subject_of(fact) for fact in facts]
    inside = torch.zeros_like(odds, dtype=torch.bool)
    known = torch.ones_like(inside)
    for row, (_, place) in enumerate(asked):
        inside[row, place] = True
        known[row] = torch.tensor([subject != subjects[place] or at == place for at, subject in enumerate(subjects)])
    for row, (_, place) in enumerate(other, start=len(asked)):
        if place >= 0:
            known[row] = torch.arange(len(facts)) == place
    wanted = inside.float()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(odds, wanted, reduction="none")
    out = known & ~inside
    missed = ((odds[inside] <= 0).float().mean() + (odds[out] > 0).float().mean()).item() / 2
    return (losses[inside].mean() + losses[out].mean()) / 2, missed


def told_nll(lesson: Lesson, sites: Sequence[Site], lora: Mapping[str, Tensor], facts: Sequence[Fact], dice: random.Random) -> Tensor:
    """Mean -log p of the targets (nats a token) where the counterfactual model is told the fact and asked for it."""
    pairs = [(told(SeracConfig.fact, fact) + dice.choice(prompts_of(fact)), fact.target_new) for fact in facts]
    batch = pair_batch(lesson.editing.tokenizer, pairs).to(lesson.editing.model.device)
    changes = [
        LowRank(site.name, lora[f"counterfactual.{at}.left"], lora[f"counterfactual.{at}.right"], site.transposed)
        for at, site in enumerate(sites)
    ]
    weights = {site.name: site.module.weight.detach() + change.stored for site, change in zip(sites, changes, strict=True)}
    return target_nll(lesson.editing.model, batch, weights).mean()
