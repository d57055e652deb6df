"""MEND (Mitchell et al. 2022, arXiv 2110.11309): a matrix's change is a sum over tokens of the network's two answers to each."""

from __future__ import annotations

from torch import Tensor

from lfm_tasks.editing.gradients import Factors
from lfm_tasks.editing.hyper.editing import HyperMethod, hyper_edit
from lfm_tasks.editing.hyper.network import Editor
from lfm_tasks.editing.method import EditMethod


def rows(editor: Editor, at: int, factors: Factors) -> tuple[Tensor, Tensor]:
    """Of each token -step d~ [tokens, out] and x~ [tokens, in]; the change of W is the sum of their products."""
    keys, grads = editor(at, factors.keys, factors.grads)
    return -editor.step(at) * grads, keys


def solve(left: Tensor, right: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    return left.T, right.T


def learn(editor: Editor, at: int, factors: Factors, gradient: Tensor) -> None:
    """Add to the editor's gradients those of a loss with the gradient G [out, in] by the change: those of <G, change>, which is a sum
    over tokens, so that some of them at a time are enough, with no language model in the graph."""
    for part in factors.parts():
        left, right = rows(editor, at, part)
        (left * (right @ gradient.T)).sum().backward()


MEND_EDITOR = HyperMethod("mend_editor", rows, solve, learn)
MEND = EditMethod(edit=hyper_edit(MEND_EDITOR), resolvable=True)
