"""Train a hyper-network for one model: edit some facts by it, ask for them in other words and for what shall stay, and learn from that.

The language model and the network never share a graph. The model gives the gradient G of the loss by the change of each matrix; the network
learns from <G, change>, some tokens at a time (the cached gradients of MALMEN, which serve MEND as well).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_tasks.editing.gradients import Moments
from lfm_tasks.editing.hyper.artifact import hyper_description
from lfm_tasks.editing.hyper.config import HyperTraining, MalmenTraining, TrainEditorConfig
from lfm_tasks.editing.hyper.editing import AT_ONCE, Gathered, HyperMethod, changes, gathered, matrices
from lfm_tasks.editing.hyper.episodes import LONGEST, Episode, Split, drawn, groups
from lfm_tasks.editing.hyper.loop import Trained, train
from lfm_tasks.editing.hyper.malmen import MALMEN_EDITOR
from lfm_tasks.editing.hyper.mend import MEND_EDITOR
from lfm_tasks.editing.hyper.network import Editor, Matrix
from lfm_tasks.editing.likelihood import FactBatch, asked_logits, mean_by_fact, pair_batch, row_batch
from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Site, sites_from
from lfm_tasks.models.partial import starting_at, until_seen

DEPTH = 0.87


@dataclass(frozen=True)
class Lesson:
    """What a way of training is given."""

    editing: Editing
    facts: Split
    texts: Sequence[Tensor]
    """Token ids of general text; none: plain sentences."""
    config: TrainEditorConfig


@dataclass(frozen=True)
class Made:
    tensors: Mapping[str, Tensor]
    description: Mapping[str, object]
    trained: Trained


def train_mend(lesson: Lesson, options: HyperTraining) -> Made:
    return _trained(lesson, options, MEND_EDITOR, new_editor(lesson, options))


def train_malmen(lesson: Lesson, options: MalmenTraining) -> Made:
    editor = new_editor(lesson, options)
    editor.length *= options.ridge
    return _trained(lesson, options, MALMEN_EDITOR, editor)


def new_editor(lesson: Lesson, options: HyperTraining) -> Editor:
    """One that has learnt nothing, with factors and steps measured on the training facts."""
    editing = lesson.editing
    layers = [site.layer for site in sites_from(editing.decoder, options.layer, options.span, DEPTH)]
    sites = [site for layer in layers for site in editing.decoder.matrices(layer)[-1 if options.matrices == "last" else 0 :]]
    editor = Editor([Matrix(site.name, *site.matrix.shape) for site in sites], options.rank, options.blocks, lesson.config.seed)
    measure(editor, editing, lesson.facts.train, sites, options.step)
    return editor.to(editing.model.device)


def measure(editor: Editor, editing: Editing, facts: Sequence[Fact], sites: Sequence[Site], step: float) -> None:
    moments: dict[str, Moments] = {}
    norms: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    lengths = dict.fromkeys(norms, 0.0)
    for start in range(0, len(facts), AT_ONCE):
        for name, found in gathered(editing, facts[start : start + AT_ONCE], sites).items():
            rows = torch.cat([found.factors.keys, found.factors.grads], 1).cpu()
            moments[name] = Moments.of(rows).with_(moments.get(name))
            norms[name].append(gradient_norms(found, len(facts[start : start + AT_ONCE])).cpu())
            lengths[name] += float(found.factors.keys.double().square().sum())
    for at, site in enumerate(sites):
        one = moments[site.name]
        mean_norm = float(torch.cat(norms[site.name]).mean()) or 1.0
        unit = step * float(site.matrix.norm()) / mean_norm
        deviation = (one.squares / (one.count - 1).clamp(min=1)).sqrt()
        editor.measured(at, one.mean, deviation, unit, lengths[site.name] / max(1.0, float(one.count)))


def gradient_norms(found: Gathered, facts: int) -> Tensor:
    """Of each fact's own gradient D^T X: |D^T X|^2 = sum over pairs of its tokens of (d d') (x x')."""
    keys, grads = found.factors.keys.double(), found.factors.grads.double()
    own = (found.fact[:, None] == found.fact[None]).double()
    rows = ((keys @ keys.T) * (grads @ grads.T) * own).sum(1)
    return rows.new_zeros(facts).index_add(0, found.fact, rows).clamp(min=0).sqrt()


def _trained(lesson: Lesson, options: HyperTraining, method: HyperMethod, editor: Editor) -> Made:
    config, editing = lesson.config, lesson.editing
    places = matrices(editing.decoder)
    sites = [places[one.name] for one in editor.matrices]

    def learn(step: int) -> Mapping[str, float]:
        episode = drawn(lesson.facts.train, config.edits, step, config.seed, config.targets, lesson.texts)
        found = gathered(editing, episode.facts, sites)
        edit, stay, by_change = judged(editing, sites, changes(editor, method, found), episode, config.locality)
        for at, site in enumerate(sites):
            method.learn(editor, at, found[site.name].factors, by_change[site.name])
        return {"edit_loss": edit, "locality_loss": stay}

    looked_at = groups(lesson.facts.held_out, config.edits, config.seed, lesson.texts)

    def look() -> tuple[float, Mapping[str, float]]:
        parts = {"edit_loss": 0.0, "locality_loss": 0.0}
        for episode in looked_at:
            found = gathered(editing, episode.facts, sites)
            edit, stay, _ = judged(editing, sites, changes(editor, method, found), episode, config.locality, learning=False)
            share = len(episode.facts) / len(lesson.facts.held_out)
            parts = {"edit_loss": parts["edit_loss"] + share * edit, "locality_loss": parts["locality_loss"] + share * stay}
        return parts["edit_loss"] + config.locality * parts["locality_loss"], parts

    named = dict(editor.named_parameters())
    network = {name: tensor for name, tensor in named.items() if name.startswith("networks.")}
    sizes = {name: tensor for name, tensor in named.items() if name not in network}
    trained = train(editing.context, [(config.learning_rate, network), (options.step_rate, sizes)], learn, look, config)
    return Made({name: tensor.detach().cpu() for name, tensor in editor.state_dict().items()}, hyper_description(editor), trained)


def judged(
    editing: Editing,
    sites: Sequence[Site],
    made: Mapping[str, tuple[Tensor, Tensor]],
    episode: Episode,
    locality: float,
    learning: bool = True,
) -> tuple[float, float, dict[str, Tensor]]:
    """Mean -log p of what is asked, KL(before || after) of what shall stay (both nats a token), and the gradient of their weighted sum by
    the change of each matrix, [out, in]."""
    asked, near = batches_of(editing, episode)
    weights = {}
    for site in sites:
        left, right = made[site.name]
        delta = right @ left.T if site.transposed else left @ right.T
        weights[site.name] = (site.module.weight.detach() + delta.to(site.module.weight)).requires_grad_(learning)
    with torch.set_grad_enabled(learning):
        logits = asked_logits(editing.model, asked, weights)
        edit = mean_by_fact(torch.nn.functional.cross_entropy(logits, asked.wanted, reduction="none"), asked.row, len(asked.last)).mean()
        stay = divergence(editing, near, weights, min(site.layer for site in sites))
    if not learning:
        return edit.item(), stay.item(), {}
    grads = torch.autograd.grad(edit + locality * stay, list(weights.values()))
    by_change = {site.name: grad.T if site.transposed else grad for site, grad in zip(sites, grads, strict=True)}
    return edit.item(), stay.item(), by_change


def divergence(editing: Editing, near: FactBatch, weights: Mapping[str, Tensor], layer: int) -> Tensor:
    """KL(p_W || p_W+change) over all tokens where ``near`` asks, nats a token; below ``layer`` nothing is changed, which is run once."""
    (hidden,) = until_seen(editing.decoder, near.input_ids, inputs=[editing.decoder.layers[layer]])
    with starting_at(editing.decoder, layer, hidden):
        with torch.no_grad():
            before = asked_logits(editing.model, near).log_softmax(-1)
        after = asked_logits(editing.model, near, weights).log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1).mean()


def batches_of(editing: Editing, episode: Episode) -> tuple[FactBatch, FactBatch]:
    """What is asked, and what shall stay: the answers of the latter, and all of the text."""
    tokenizer, device = editing.tokenizer, editing.model.device
    pad = tokenizer.pad_token_id or 0
    near = pair_batch(tokenizer, episode.near) if episode.near else None
    text = episode.text if isinstance(episode.text, Tensor) else torch.tensor(tokenizer(episode.text)["input_ids"])
    rows = [(text[:LONGEST].tolist(), 1)]
    if near is not None:
        ends = near.given.sum(1).tolist()
        rows += [(ids[:end].tolist(), int(last) + 1) for ids, end, last in zip(near.input_ids, ends, near.last, strict=True)]
    return pair_batch(tokenizer, episode.asked).to(device), row_batch(rows, pad).to(device)
