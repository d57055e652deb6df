"""GRACE: give each fact's key a value at one layer, and learn the values. How they are looked up: models/memories/grace.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_tasks.editing.likelihood import FactBatch, fact_batch, target_nll
from lfm_tasks.editing.memory.config import GraceConfig
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.optimise import minimise
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Site, site_at
from lfm_tasks.models.memories.grace import Codebook, replay, respond
from lfm_tasks.models.memories.texts import packed, unpacked
from lfm_tasks.models.partial import until_seen
from lfm_tasks.seeds import derive_seed

DEPTH = 0.9


def grace(editing: Editing, facts: Sequence[Fact], options: GraceConfig) -> Edit:
    """The key is what the layer is given at the prompt's last token. Facts are entered one after another; then all of the round's values
    are learnt at once, for none acts on another's row."""
    site, batch = site_at(editing.decoder, options.layer, DEPTH), fact_batch(editing.tokenizer, facts).to(editing.model.device)
    given, output = until_seen(editing.decoder, batch.input_ids, [site.module], [site.module])
    rows = torch.arange(len(facts), device=given.device)
    queries, outputs = given[rows, batch.last].cpu(), output[rows, batch.last].cpu()
    first = options.radius * (queries.norm(dim=-1) if options.unit == "key" else torch.ones(len(facts)))
    logged = _logged(editing, facts, queries, first)
    codebook = replay(logged["queries"], unpacked("labels", logged), logged["first"])
    values, steps = _learnt(editing, batch, site, codebook, outputs, options)
    with site.module.register_forward_hook(_hook(codebook, values)), torch.no_grad():
        after = target_nll(editing.model, batch)
    mine = torch.tensor(codebook.entry[-len(facts) :])
    before = editing.state["values"] if "values" in editing.state else values[:0]
    state = {**logged, "values": torch.cat([before, values[mine]]), "layer": torch.tensor(site.layer)}
    figures = {"steps": float(steps), "entries": float(len(codebook.keys)), "smallest_radius": codebook.radii.min().item()}
    return Edit((), state, tuple({"nll": value} for value in after.tolist()), figures)


def _logged(editing: Editing, facts: Sequence[Fact], queries: Tensor, first: Tensor) -> dict[str, Tensor]:
    """The log of the edits with those of this round."""
    state = editing.state
    texts = {"ids": [fact.id for fact in facts], "labels": [fact.target_new for fact in facts]}
    logged: dict[str, Tensor] = {}
    for name, new in texts.items():
        logged |= packed(name, unpacked(name, state) + new)
    for name, new in {"queries": queries, "first": first}.items():
        logged[name] = torch.cat([state[name], new]) if name in state else new
    return logged


def _learnt(
    editing: Editing, batch: FactBatch, site: Site, codebook: Codebook, outputs: Tensor, options: GraceConfig
) -> tuple[Tensor, int]:
    """Values [entries, out] of the whole codebook, those of this round's entries learnt; and the steps that it took."""
    facts, known = len(outputs), len(editing.state.get("values", ()))
    scale = outputs.square().mean().sqrt()
    generator = torch.Generator().manual_seed(derive_seed(editing.seed, "grace", known))
    values = torch.zeros(len(codebook.keys), outputs.shape[1])
    for edit, entry in enumerate(codebook.entry):
        if edit < known:
            values[entry] = editing.state["values"][edit]
        elif entry not in codebook.entry[:edit]:
            cold = torch.rand(outputs.shape[1], generator=generator) * scale
            values[entry] = outputs[edit - known] if options.start == "warm" else cold
    touched = torch.tensor(sorted(set(codebook.entry[-facts:])))
    learnt = (values[touched] / scale).requires_grad_()

    def losses() -> Tensor:
        with site.module.register_forward_hook(_hook(codebook, values.index_copy(0, touched, learnt * scale))):
            return target_nll(editing.model, batch)

    steps = minimise([learnt], losses, options, editing.context)
    return values.index_copy(0, touched, learnt.detach() * scale), steps


def _hook(codebook: Codebook, values: Tensor):
    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return respond(codebook.to(output.device), values.to(output.device), given[0], output)

    return hook


GRACE = EditMethod(edit=grace, memory=True)
