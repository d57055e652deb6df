"""PRUNE over all rounds: a last one that takes back what made a weight's changes larger than the weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lfm_tasks.editing.filters import prune
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import LowRank, Round


def pruned(decoder: Decoder, rounds: Sequence[Round]) -> Round:
    """``decoder`` has the rounds in its weights. The round may have no change: most edits are far below the limit."""
    by_name: dict[str, list[LowRank]] = {}
    for change in [change for one in rounds for change in one.changes]:
        by_name.setdefault(change.name, []).append(change)
    weights = dict(decoder.model.named_parameters())
    found = []
    for name, several in by_name.items():
        left, right = (torch.cat([getattr(one, side) for one in several], 1).double() for side in ("left", "right"))
        weight = weights[name].detach().cpu().double()
        base = (weight.T if several[0].transposed else weight) - left @ right.T
        u, v = prune(left, right, float(torch.linalg.svdvals(base)[0]))
        if u.shape[1]:
            found.append(LowRank(name, u.float(), v.float(), several[0].transposed))
    return Round((), tuple(found), {"method": "prune", "figures": {}, "facts": []})
