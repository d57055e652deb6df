"""Exact Pareto optimal search (Mahapatra and Rajan 2020, Multi-Task Learning with User Preferences): one small linear program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]
BALANCED = 1e-4
"""Non-uniformity below which the losses are in the wanted proportion."""


def epo_weights(gram: Array, losses: Array, preference: Array) -> Array:
    """Weights on the simplex of the tasks' gradients, whose inner products are ``gram`` [tasks, tasks].

    Far from the ray where ``preference * losses`` is uniform they lead to it; on it they lower all losses.
    """
    shares = preference * losses
    shares = shares / shares.sum()
    with np.errstate(divide="ignore"):
        logged = np.where(shares > 0, np.log(len(shares) * shares), 0.0)
    uneven = float((shares * logged).sum())
    anchor = gram @ (preference * (logged - uneven))
    if uneven > BALANCED:
        limits = np.where(anchor > 0, -np.inf, anchor)
        if (anchor > 0).any():
            limits[shares == shares.max()] = 0.0
        else:
            limits = np.zeros_like(anchor)
        found = _largest(anchor, [(gram, limits)])
    else:
        found = _largest(gram.sum(0), [(gram, np.zeros_like(anchor)), (anchor[None], np.array([min(0.0, anchor.max())]))])
    if found is None:
        found = _largest(gram.sum(0), [(gram, np.zeros_like(anchor))])
    return preference / preference.sum() if found is None else found


def _largest(objective: Array, limits: list[tuple[Array, Array]]) -> Array | None:
    """The point x of the simplex with ``matrix @ x >= bound`` for all of ``limits`` where ``objective @ x`` is largest; None if empty."""
    matrix, bound = (np.concatenate(parts) for parts in zip(*limits, strict=True))
    matter = np.isfinite(bound)
    size = max(float(np.abs(matrix).max()), float(np.abs(objective).max()))
    if size == 0 or not np.isfinite(size):
        return None
    done = linprog(
        -objective / size, -matrix[matter] / size, -bound[matter] / size, np.ones((1, len(objective))), [1.0], bounds=(0, 1), method="highs"
    )
    return done.x if done.status == 0 else None
