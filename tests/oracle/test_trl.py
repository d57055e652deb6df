"""Our divergences beside TRL's on the same logits. Its loss has no square of the temperature, and is forward KL at beta = 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.distillation.divergences import forward_kl, jsd, log_probabilities, reverse_kl
from lfm_tasks.settings import settings
from tests.environments import Unavailable, install, run, skip_or_fail

TRL = "trl==1.16.0"
LOSSES = Path(__file__).with_name("trl_losses.py")
CASES = [
    {"id": f"{beta:g}-{temperature:g}", "beta": beta, "temperature": temperature}
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0)
    for temperature in (0.7, 1.0, 4.0)
]


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """The logits, and what TRL makes of them."""
    work, generator = tmp_path_factory.mktemp("trl"), torch.Generator().manual_seed(0)
    tensors = {name: 3 * torch.randn(12, 50, generator=generator) for name in ("student", "teacher")}
    save_file(tensors, work / "inputs.safetensors")
    (work / "cases.json").write_text(json.dumps(CASES))
    try:
        python = install(settings().home.resolve() / "test" / "trl", TRL, borrow=True)
        run("run TRL's losses", python, LOSSES, work / "inputs.safetensors", work / "cases.json", work / "losses.safetensors")
    except Unavailable as error:
        skip_or_fail(error)
    return tensors, load_file(work / "losses.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_values_and_gradients_agree(beside, case):
    tensors, theirs = beside
    student = tensors["student"].clone().requires_grad_()
    log_q, log_p = (log_probabilities(one, case["temperature"]) for one in (student, tensors["teacher"]))
    kernels = {0.0: forward_kl, 1.0: reverse_kl}
    ours = kernels[case["beta"]](log_q, log_p) if case["beta"] in kernels else jsd(log_q, log_p, case["beta"])
    ours.sum().backward()
    torch.testing.assert_close(ours, theirs[f"{case['id']}.loss"].sum(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, theirs[f"{case['id']}.gradient"], rtol=1e-4, atol=1e-6)
