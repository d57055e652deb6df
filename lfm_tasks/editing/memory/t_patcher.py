"""T-Patcher: one neuron for each target token, in the last MLP. How they answer: models/memories/neurons.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.editing.memory.config import TPatcherConfig
from lfm_tasks.editing.memory.elsewhere import tokens_elsewhere
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.optimise import minimise
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.memories.neurons import mlp, respond
from lfm_tasks.models.memories.texts import packed, unpacked
from lfm_tasks.models.partial import until_seen

PARTS = ("keys", "biases", "values", "fact")


def t_patcher(editing: Editing, facts: Sequence[Fact], options: TPatcherConfig) -> Edit:
    """A neuron starts as k = 2 h / |h|^2, b = -1: it answers 1 to its own token h, and nothing to those of a cosine below a half."""
    module, state, device = mlp(editing.model), editing.state, editing.model.device
    batch = fact_batch(editing.tokenizer, facts).to(device)
    given, output = until_seen(editing.decoder, batch.input_ids, [module], [module])
    own, usual = given[batch.asked], output[batch.asked].square().mean().sqrt()
    rest = batch.given & ~batch.asked
    rest[:, 0] = False
    others = torch.cat([tokens_elsewhere(editing, module, facts), given[rest]])
    length = own.norm(dim=-1).mean()
    keys = (2 * length * own / own.square().sum(-1, keepdim=True)).requires_grad_()
    biases = torch.full((len(own),), -1.0, device=device, requires_grad=True)
    values = torch.zeros(len(own), output.shape[-1], device=device, requires_grad=True)
    known = [state[name].to(device) for name in PARTS[:3]] if "keys" in state else [own[:0], own[:0, 0], output[0, :0]]

    def joined() -> list[Tensor]:
        return [torch.cat([before, now]) for before, now in zip(known, (keys / length, biases, values * usual), strict=True)]

    def losses() -> Tensor:
        with module.register_forward_hook(_hook(joined())):
            nll = target_nll(editing.model, batch)
        return nll + options.weight * memory_loss((own * keys).sum(-1) / length + biases, others @ keys.T / length + biases, options.margin)

    steps = minimise([keys, biases, values], losses, options, editing.context)
    neurons = [tensor.detach() for tensor in joined()]
    with module.register_forward_hook(_hook(neurons)), torch.no_grad():
        after = target_nll(editing.model, batch)
        false_hits = ((others @ keys.T / length + biases) > 0).any(-1).float().mean().item()
    ids = unpacked("ids", state)
    row = batch.row.cpu()
    fact = torch.cat([state.get("fact", row[:0]), row + len(ids)])
    made = dict(zip(PARTS, (*(one.cpu() for one in neurons), fact), strict=True)) | packed("ids", ids + [one.id for one in facts])
    return Edit((), made, tuple({"nll": value} for value in after.tolist()), {"steps": float(steps), "false_hits": false_hits})


def memory_loss(own: Tensor, others: Tensor, margin: float) -> Tensor:
    """Hinges on what neurons are given: their ``own`` tokens [neurons] at least 1, all ``others`` [tokens, neurons] at most -margin."""
    return torch.relu(1 - own).mean() + torch.relu(others + margin).max(0).values.mean()


def _hook(neurons: Sequence[Tensor]):
    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return respond(*neurons, given[0], output)

    return hook


T_PATCHER = EditMethod(edit=t_patcher, memory=True)
