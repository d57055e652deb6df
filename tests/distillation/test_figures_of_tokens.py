from __future__ import annotations

import pytest
import torch

from lfm_tasks.distillation.divergences import log_probabilities
from lfm_tasks.distillation.figures_of_tokens import loss_of_figures


@pytest.mark.parametrize("size", [0, 1, 3, 20])
def test_slices_give_the_loss_and_gradients_of_all_logits_at_once(size):
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(4, 9, bias=False).double()
    hidden = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (7,), generator=generator)

    def figures(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        log_q = log_probabilities(logits)
        return torch.stack([log_q.gather(-1, targets[rows, None])[:, 0], log_q.exp().square().sum(-1)], -1)

    def loss(found: torch.Tensor) -> torch.Tensor:
        return (found[:, 0].sum().exp() + found[:, 1].prod()) + found[0, 0] * found[6, 1]

    whole = loss(figures(head(hidden), slice(None)))
    wanted = torch.autograd.grad(whole, [hidden, head.weight])
    found = loss_of_figures(figures, loss, hidden, head, size)
    assert torch.allclose(found, whole)
    for ours, right in zip(torch.autograd.grad(found, [hidden, head.weight]), wanted, strict=True):
        assert torch.allclose(ours, right, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert torch.allclose(loss_of_figures(figures, loss, hidden, head, size), whole)
