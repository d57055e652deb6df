"""Methods that write many facts at once, over several layers: MEMIT, EMMET, PMET, AlphaEdit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.editing.methods.config import AlphaEditOptions, BatchOptions
from lfm_tasks.editing.moments import KeyMoments
from lfm_tasks.editing.pipeline import Recipe, edited_sites, locate_and_edit
from lfm_tasks.editing.solvers import kept_energy, project
from lfm_tasks.errors import DataError
from lfm_tasks.facts.record import Fact

LEAST_ENERGY = 0.05
"""Of the new keys inside the null space: with less, what is written is too weak to be read."""


def whitened(moments: KeyMoments, keys: Tensor, options: BatchOptions) -> Tensor:
    return moments.whiten(keys)


def projected(moments: KeyMoments, keys: Tensor, options: AlphaEditOptions) -> Tensor:
    """Raises :class:`DataError` where the null space holds next to nothing of most keys."""
    basis = moments.null_space(options.energy)
    found = project(basis, keys)
    if kept_energy(keys, found) < LEAST_ENERGY:
        raise DataError(
            f"The null space at energy={options.energy} has {basis.shape[1]} of {len(keys)} directions and holds less than "
            f"{LEAST_ENERGY:.0%} of the energy of half of the keys: the facts could not be written there. Raise energy, or choose other "
            "layers."
        )
    return found


MEMIT_RECIPE = Recipe("residual", whitened)
PMET_RECIPE = Recipe("attention_and_mlp", whitened, divisor=math.sqrt)
ALPHAEDIT_RECIPE = Recipe("residual", projected, projects=True)


def written(recipe: Recipe, editing: Editing, facts: Sequence[Fact], options: BatchOptions) -> Edit:
    return locate_and_edit(editing, facts, edited_sites(editing.decoder, options), options, recipe)


MEMIT = EditMethod(edit=partial(written, MEMIT_RECIPE), resolvable=True)
"""Meng et al. 2023: D = R K^T (lambda C + K K^T)^-1, the residual shared out evenly over the layers that are left."""
EMMET = EditMethod(edit=partial(written, MEMIT_RECIPE), resolvable=True)
"""Gupta et al. 2024: D = R (K^T C^-1 K + mu I)^-1 K^T C^-1, which is MEMIT's with a ridge next to nothing."""
PMET = EditMethod(edit=partial(written, PMET_RECIPE), resolvable=True)
"""Li et al. 2024: attention's and the MLP's outputs are shifted together and only the latter's is written, residuals by roots."""
ALPHAEDIT = EditMethod(edit=partial(written, ALPHAEDIT_RECIPE), resolvable=True)
"""Fang et al. 2025: as MEMIT inside the null space of preserved keys."""
