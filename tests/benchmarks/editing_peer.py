"""MEMIT and its statistics as the leaders run them, written plainly: what ``bench_editing.py`` measures ours beside.

As in the code of ROME, MEMIT and EasyEdit: facts are searched for one by one; each step of the optimiser is a pass from the
embeddings through all layers with the logits of all tokens; keys and present values come from whole passes, one for each layer; each
layer solves a system [d_k, d_k] in float64; second moments take a pass over the corpus for each layer, which ends behind it. Formulas,
contexts, tokens, steps and limits are ours, so that both find the same values. :func:`easyedit` runs EasyEdit's own functions.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.methods.config import MemitOptions
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Site
from lfm_tasks.models.edits import LowRank
from lfm_tasks.models.partial import first

KEY_ROWS = 128
"""Of a pass for keys."""


def memit(
    editing: Editing,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    sites: Sequence[Site],
    moments: Sequence[Tensor],
    options: MemitOptions,
) -> tuple[Tensor, list[LowRank]]:
    """z [facts, d] and a change for each site; the model is as before. ``moments``: C of each site, float64."""
    last = editing.decoder.layers[sites[-1].layer]
    wanted = torch.stack([search(editing, fact, contexts, last, options) for fact in facts])
    before, changes = [site.module.weight.detach().clone() for site in sites], []
    for place, (site, moment) in enumerate(zip(sites, moments, strict=True)):
        found = at_subjects(editing, facts, contexts, site.module, "input").unflatten(0, (len(facts), -1))
        keys = ((found[:, 0] + found[:, 1:].mean(1)) / 2 if len(contexts) > 1 else found[:, 0]).double().T
        now = at_subjects(editing, facts, contexts[:1], last, "output")
        residuals = (wanted - now).double().T / (len(sites) - place)
        adjusted = torch.linalg.solve(options.ridge * moment + keys @ keys.T, keys)
        changes.append(LowRank(site.name, residuals.float(), adjusted.float(), site.transposed))
        with torch.no_grad():
            site.module.weight += (residuals @ adjusted.T).float()
    for site, weight in zip(sites, before, strict=True):
        with torch.no_grad():
            site.module.weight.copy_(weight)
    return wanted, changes


def search(editing: Editing, fact: Fact, contexts: Sequence[str], module: nn.Module, options: MemitOptions) -> Tensor:
    """z [d] of one fact."""
    encoded = [encode(editing.tokenizer, fact, fact.target_new, context) for context in contexts]
    encoded.append(encode(editing.tokenizer, replace(fact, prompt="{} is"), "a"))
    lengths = torch.tensor([len(one.input_ids) - 1 for one in encoded])
    ids = pad_sequence([torch.tensor(one.input_ids[:-1]) for one in encoded], batch_first=True)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    wanted = torch.full_like(ids[:-1], -100)
    for row, one in enumerate(encoded[:-1]):
        wanted[row, one.target_start - 1 : lengths[row]] = torch.tensor(one.target_ids)
    rows, subject = torch.arange(len(encoded)), torch.tensor([one.subject_last for one in encoded])
    delta = torch.zeros(editing.model.config.hidden_size, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=options.learning_rate)
    clean: list[Tensor] = []

    def shift(_: nn.Module, args: object, output: Tensor) -> Tensor:
        if not clean:
            clean.append(output[0, subject[0]].detach().clone())
        return output.index_put((rows, subject), delta.expand(len(rows), -1), accumulate=True)

    before = None
    with module.register_forward_hook(shift):
        for step in range(options.steps + 1):
            optimiser.zero_grad()
            log_p = editing.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            after = log_p[-1, subject[-1]]
            before = after.detach() if before is None else before
            chosen = log_p[:-1].gather(2, wanted.clamp(min=0)[..., None])[..., 0] * (wanted >= 0)
            nll = (-chosen.sum(1) / (wanted >= 0).sum(1)).mean()
            kl = (after.exp() * (after - before)).sum()
            loss = nll + options.kl * kl + options.decay * delta.norm() / clean[0].norm() ** 2
            if loss < options.enough or step == options.steps:
                break
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                delta *= (options.clamp * clean[0].norm() / delta.norm()).clamp(max=1)
    return clean[0] + delta.detach()


@torch.no_grad()
def at_subjects(editing: Editing, facts: Sequence[Fact], contexts: Sequence[str], module: nn.Module, which: str) -> Tensor:
    """What ``module`` is given or gives at the subjects' last tokens, [facts x contexts, width], by whole passes."""
    encoded = [encode(editing.tokenizer, fact, fact.target_new, context) for fact in facts for context in contexts]
    seen, found = [], []

    def see(_: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        seen[:] = [args[0] if which == "input" else first(output)]

    with module.register_forward_hook(see):
        for start in range(0, len(encoded), KEY_ROWS):
            batch = encoded[start : start + KEY_ROWS]
            ids = pad_sequence([torch.tensor(one.prompt_ids) for one in batch], batch_first=True)
            editing.model(input_ids=ids)
            found.append(seen[0][torch.arange(len(batch)), torch.tensor([one.subject_last for one in batch])])
    return torch.cat(found)


class Behind(Exception):
    """The pass has come to the layer that it was made for."""


@torch.no_grad()
def key_moments(model: nn.Module, sites: Sequence[Site], rows: Sequence[Tensor], batch: int) -> dict[str, Tensor]:
    """sum k k^T of each site, a pass over the rows for each."""
    sums = {}
    order = sorted(rows, key=len)
    for site in sites:
        total = torch.zeros(site.matrix.shape[1], site.matrix.shape[1])
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            ids = pad_sequence(some, batch_first=True)
            mask = torch.arange(ids.shape[1]) < torch.tensor([len(one) for one in some])[:, None]
            with site.module.register_forward_pre_hook(_stop_with(seen := [])), contextlib.suppress(Behind):
                model(input_ids=ids, attention_mask=mask.long())
            keys = seen[0][mask]
            total.addmm_(keys.T, keys)
        sums[site.name] = total
    return sums


def _stop_with(seen: list[Tensor]):
    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise Behind

    return stop


def easyedit(
    checkout: Path,
    editing: Editing,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    sites: Sequence[Site],
    moments: Sequence[Tensor],
    options: MemitOptions,
) -> list[LowRank]:
    """``execute_memit`` of a checkout of EasyEdit, given our moments and contexts. Its package imports services that no edit needs, so
    that only the modules of this function are imported."""
    for name in ("easyeditor", "easyeditor.models"):
        package = ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    main = importlib.import_module("easyeditor.models.memit.memit_main")
    main.CONTEXT_TEMPLATES_CACHE = [["{}"], [f"{context}{{}}" for context in contexts[1:]]]
    model_name = editing.model.config._name_or_path.replace("/", "_")
    modules = {site.layer: f"{editing.decoder.prefix}{site.layer}.mlp.down_proj" for site in sites}
    main.COV_CACHE = {(model_name, modules[site.layer]): moment.float() for site, moment in zip(sites, moments, strict=True)}
    values = SimpleNamespace(
        layers=list(modules),
        fact_token="subject_last",
        v_num_grad_steps=options.steps + 1,
        v_lr=options.learning_rate,
        v_loss_layer=len(editing.decoder.layers) - 1,
        v_weight_decay=options.decay,
        clamp_norm_factor=options.clamp,
        kl_factor=options.kl,
        mom2_update_weight=options.ridge,
        mom2_dataset="given",
        mom2_n_samples=0,
        mom2_dtype="float32",
        rewrite_module_tmp="model.layers.{}.mlp.down_proj",
        layer_module_tmp="model.layers.{}",
        ln_f_module="model.norm",
        lm_head_module="model.embed_tokens" if editing.model.config.tie_word_embeddings else "lm_head",
        device="cpu",
    )
    requests = [
        {"case_id": fact.id, "prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target_new.strip()} for fact in facts
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        made = main.execute_memit(editing.model, editing.tokenizer, requests, values)
    return [LowRank(name, residuals.float(), adjusted.float()) for name, (adjusted, residuals) in made.items()]
