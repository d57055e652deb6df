"""Run by TRL's interpreter: ``INPUTS.safetensors CASES.json LOSSES.safetensors``.

A case: ``id``, ``beta``, ``temperature``. Of each the loss ``[rows, classes]`` before it is summed, and the gradient of its sum.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from safetensors.torch import load_file, save_file
from trl.experimental.gkd import GKDTrainer


def main(inputs, cases, losses):
    tensors, found = load_file(inputs), {}
    for case in json.loads(Path(cases).read_text()):
        student = tensors["student"].clone().requires_grad_()
        loss = GKDTrainer.generalized_jsd_loss(
            student, tensors["teacher"], beta=case["beta"], temperature=case["temperature"], reduction="none"
        )
        loss.sum().backward()
        found |= {f"{case['id']}.loss": loss.detach().contiguous(), f"{case['id']}.gradient": student.grad}
    save_file(found, losses)


main(*sys.argv[1:])
