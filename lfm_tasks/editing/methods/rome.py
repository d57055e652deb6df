"""ROME with consistent keys (Meng et al. 2022; Gupta et al. 2024, R-ROME, arXiv 2403.07175): one fact, one layer, one key, or two.

D = delta (C^-1 k)^T / (k^T C^-1 k), one k in all three places. Where the bare prompt's key is unlike that in context, both are
constraints.
"""

from __future__ import annotations

from collections.abc import Sequence

from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.methods.config import BatchOptions, LocatedOptions, RomeOptions
from lfm_tasks.editing.pipeline import Recipe, edited_sites, locate_and_edit
from lfm_tasks.facts.record import Fact


def rome(editing: Editing, facts: Sequence[Fact], options: RomeOptions) -> Edit:
    measured = "mean" if options.output == "bare" else "bare"
    recipe = Recipe("mlp", lambda moments, keys, _: moments.whiten(keys), keys=options.keys, measured=measured)
    common = {name: getattr(options, name) for name in LocatedOptions.model_fields}
    sites = edited_sites(editing.decoder, options)
    return locate_and_edit(editing, facts, sites, BatchOptions(**common, ridge_share=0, remember=False), recipe)


ROME = EditMethod(edit=rome, most=1, resolvable=True)
