"""WISE: learn a change of one matrix that answers the facts' tokens and hardly any other. How it is used: models/memories/wise.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.editing.memory.config import WiseConfig
from lfm_tasks.editing.memory.elsewhere import tokens_elsewhere
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.optimise import minimise
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import site_at
from lfm_tasks.models.memories.texts import packed, unpacked
from lfm_tasks.models.memories.wise import threshold
from lfm_tasks.models.partial import until_seen
from lfm_tasks.seeds import derive_seed

DEPTH = 0.9


def wise(editing: Editing, facts: Sequence[Fact], options: WiseConfig) -> Edit:
    """Each round is a shard: a change of its own share of the entries, the other entries are zero and stay so.

    The facts' tokens are those before a target's token. What the layer is given does not depend on the change, so the losses of the
    routing are computed without running the model.
    """
    site, batch = site_at(editing.decoder, options.layer, DEPTH), fact_batch(editing.tokenizer, facts).to(editing.model.device)
    given, output = until_seen(editing.decoder, batch.input_ids, [site.module], [site.module])
    written, usual = given[batch.asked], output[batch.asked].norm(dim=-1).mean()
    rest = batch.given & ~batch.asked
    rest[:, 0] = False
    others = torch.cat([tokens_elsewhere(editing, site.module, facts), given[rest]])
    unit, known = site.matrix.square().mean().sqrt(), len(editing.state.get("deltas", ()))
    generator = torch.Generator().manual_seed(derive_seed(editing.seed, "wise", known))
    mask = (torch.rand(site.matrix.shape, generator=generator) < options.share).float().to(unit.device) * unit
    change = torch.zeros_like(mask, requires_grad=True)

    def losses() -> Tensor:
        delta = mask * change

        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return torch.where(batch.asked.unsqueeze(-1), output + args[0] @ delta.T, output)

        with site.module.register_forward_hook(hook):
            return target_nll(editing.model, batch) + routing_loss(written @ delta.T / usual, others @ delta.T / usual, options)

    def project() -> None:
        change.clamp_(-options.ball, options.ball)

    steps = minimise([change], losses, options, editing.context, project)
    delta = (mask * change).detach()
    state = _state(editing, facts, site.layer, delta.cpu(), written.cpu())
    figures = {
        "steps": float(steps),
        "inside": (threshold(delta, written, 1.0) / usual).item(),
        "outside": ((others @ delta.T).norm(dim=-1).max() / usual).item(),
        "delta_norm": (delta.norm() / site.matrix.norm()).item(),
    }
    return Edit((), state, tuple({"nll": value} for value in _after(editing, batch, site, delta)), figures)


def routing_loss(inside: Tensor, outside: Tensor, options: WiseConfig) -> Tensor:
    """Hinges on the answers' lengths, in the unit of a usual output (the paper's equation 7): outside at most a, inside at least b, and
    g between the smallest inside and the largest outside. ``inside`` and ``outside`` [tokens, out]."""
    a, b = outside.square().sum(-1).add(1e-12).sqrt(), inside.square().sum(-1).add(1e-12).sqrt()
    return torch.relu(a - options.outside).mean() + torch.relu(options.inside - b).mean() + torch.relu(options.apart - (b.min() - a.max()))


def _after(editing: Editing, batch, site, delta: Tensor) -> list[float]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.where(batch.asked.unsqueeze(-1), output + args[0] @ delta.T, output)

    with site.module.register_forward_hook(hook), torch.no_grad():
        return target_nll(editing.model, batch).tolist()


def _state(editing: Editing, facts: Sequence[Fact], layer: int, delta: Tensor, written: Tensor) -> dict[str, Tensor]:
    """``deltas`` [shards, out, in], ``keys`` [tokens, in] with the shard of each, and ``shard`` of each fact."""
    state, shard = editing.state, len(editing.state.get("deltas", ()))
    new = {
        "deltas": delta[None],
        "keys": written,
        "key_shard": torch.full((len(written),), shard),
        "shard": torch.full((len(facts),), shard),
    }
    joined = {name: torch.cat([state[name], tensor]) if name in state else tensor for name, tensor in new.items()}
    ids = packed("ids", unpacked("ids", state) + [fact.id for fact in facts])
    return {**joined, **ids, "layer": torch.tensor(layer)}


WISE = EditMethod(edit=wise, memory=True)
