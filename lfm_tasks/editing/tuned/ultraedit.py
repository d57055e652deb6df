"""UltraEdit (Gu et al. 2025, arXiv 2505.14679): one forward and one backward pass, normalised by running moments, and a linear solve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm_tasks.editing.gradients import Factors, Moments, gradient_factors
from lfm_tasks.editing.likelihood import FactBatch, fact_batch
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.tuned.config import UltraEditConfig
from lfm_tasks.editing.tuned.finetune import edited
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import sites_from
from lfm_tasks.models.edits import LowRank

DEPTH = 0.87


def ultraedit(editing: Editing, facts: Sequence[Fact], options: UltraEditConfig) -> Edit:
    """The state that a round hands on is the running moments of keys and gradients of each matrix."""
    sites = sites_from(editing.decoder, options.layer, options.span, DEPTH)
    batch = fact_batch(editing.tokenizer, facts).to(editing.model.device)
    seen = gradient_factors(editing.model, batch, sites)
    changes, state = [], {}
    for site in sites:
        factors = written(seen[site.name], batch, options)
        keys, grads = (
            Moments.of(rows).with_(Moments.read(editing.state, f"{site.name}.{part}"))
            for part, rows in (("keys", factors.keys), ("grads", factors.grads))
        )
        state |= keys.state(f"{site.name}.keys") | grads.state(f"{site.name}.grads")
        shifts = value_shifts(keys.z_score(factors.keys), grads.z_score(factors.grads), step_size(factors, options))
        left, right = solved(factors.keys, shifts, options.ridge)
        changes.append(LowRank(site.name, left, right, site.transposed))
    done = edited(editing, batch, changes, {"tokens": float(len(factors.keys))})
    return Edit(done.changes, state, done.facts, done.figures)


def written(factors: Factors, batch: FactBatch, options: UltraEditConfig) -> Factors:
    """The tokens that are written, on the CPU: without padding and without those of which the loss asks nothing."""
    kept = (batch.asked if options.tokens == "answer" else batch.given).flatten()
    return factors.of(kept & factors.grads.any(1)).to("cpu")


def step_size(factors: Factors, options: UltraEditConfig) -> float:
    """The paper's eta: with it a typical value is shifted by ``shift`` root mean squares of the layer's outputs, whatever its width."""
    scale = factors.outputs.square().mean().sqrt().item() if len(factors.outputs) else 0.0
    return options.shift * scale / factors.keys.shape[1]


def value_shifts(keys: Tensor, grads: Tensor, eta: float) -> Tensor:
    """V = -eta |x|^2 d for normalised keys x [tokens, in] and gradients d [tokens, out]: [tokens, out]."""
    return -eta * keys.square().sum(1, keepdim=True) * grads


def solved(keys: Tensor, shifts: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Factors of the change D [out, in] with (X^T X + ridge I) D^T = X^T V, by the smaller system (X X^T + ridge I) of the tokens.

    ``keys`` X [tokens, in], ``shifts`` V [tokens, out]; left [out, tokens], right [in, tokens], float32, solved in float64.
    """
    wide = keys.double()
    gram = wide @ wide.T + ridge * torch.eye(len(wide), dtype=torch.float64)
    return shifts.T.float().contiguous(), torch.linalg.solve(gram, wide).T.float().contiguous()


ULTRAEDIT = EditMethod(edit=ultraedit)
