"""MALMEN (Tan et al. 2024, arXiv 2311.04661): what each token's value shall become, and the least squares that suit all of them best.

Training is cut in two (section 4.2 of the paper): the language model gives the gradient of its loss by the change, the solve hands that on
to the values, and the network then learns from it token by token, with no model and no solve in its graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.editing.gradients import Factors
from lfm_tasks.editing.hyper.editing import HyperMethod, hyper_edit
from lfm_tasks.editing.hyper.network import Editor
from lfm_tasks.editing.method import EditMethod


def rows(editor: Editor, at: int, factors: Factors) -> tuple[Tensor, Tensor]:
    """V [tokens, out] of :func:`values`, and X [tokens, in]."""
    return values(editor, at, factors), factors.keys


def values(editor: Editor, at: int, factors: Factors) -> Tensor:
    """V = -step (x . x~) d~ [tokens, out]: the shift of what the matrix answers to each key x."""
    keys, grads = editor(at, factors.keys, factors.grads)
    return -editor.step(at) * (factors.keys * keys).sum(1, keepdim=True) * grads


def solved(values: Tensor, keys: Tensor, ridge: Tensor | float) -> tuple[Tensor, Tensor]:
    """Factors [out, rank], [in, rank] of the change D with (X^T X + ridge I) D^T = X^T V, by the smaller of its two systems, in float64.

    ``keys`` X [tokens, in], ``values`` V [tokens, out].
    """
    wide, inner = keys.double(), keys.shape[1]
    if len(wide) <= inner:
        return values.T, _regular(wide @ wide.T, ridge).solve(wide).T.to(keys)
    return change_of_sums(wide.T @ wide, wide.T @ values.double(), ridge, keys.dtype)


def change_of_sums(gram: Tensor, products: Tensor, ridge: Tensor | float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same from X^T X [in, in] and X^T V [in, out], which are sums over batches of facts; the second factor is the identity."""
    found = _regular(gram, ridge).solve(products)
    return found.T.to(dtype), torch.eye(len(gram), dtype=dtype, device=gram.device)


def handed_on(keys: Tensor, values: Tensor, ridge: Tensor | float, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient G [out, in] of a loss by the change, handed on through the solve: by V [tokens, out], and by the ridge.

    By V: (X X^T + ridge I)^-1 X G^T; by the ridge: -<(X X^T + ridge I)^-1 V, that>.
    """
    wide = keys.double()
    system = _regular(wide @ wide.T, ridge)
    by_values = system.solve(wide @ gradient.double().T)
    return by_values.to(values), -(system.solve(values.double()) * by_values).sum().to(values)


def learn(editor: Editor, at: int, factors: Factors, gradient: Tensor) -> None:
    """Add to the editor's gradients those of a loss with the gradient G [out, in] by the change."""
    with torch.no_grad():
        shifts = torch.cat([values(editor, at, part) for part in factors.parts()])
        by_values, by_ridge = handed_on(factors.keys, shifts, editor.ridge(at), gradient)
    start = 0
    for part in factors.parts():
        (values(editor, at, part) * by_values[start : start + len(part.keys)]).sum().backward()
        start += len(part.keys)
    (editor.ridge(at) * by_ridge).backward()


class _regular:
    """A + ridge I, ready to be solved with."""

    def __init__(self, gram: Tensor, ridge: Tensor | float) -> None:
        self.factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    def solve(self, right: Tensor) -> Tensor:
        return torch.cholesky_solve(right, self.factor)


MALMEN_EDITOR = HyperMethod("malmen_editor", rows, solved, learn)
MALMEN = EditMethod(edit=hyper_edit(MALMEN_EDITOR), resolvable=True)
