"""CPU time of a layer-wise AdaMerging step beside the formulation that sends autograd through the merge, on one BERT-like encoder.

The peer is the formula of fusion-bench's LayerWiseMergedModel: every merged tensor is a graph of all task vectors, which each task's
loss goes back through. Forward and backward passes of the model are the same on both sides, so the ratio falls as ``--tokens`` and
``--rows`` grow, and rises with ``--tasks``; what is left beside them, the merge and the gradient of its coefficients, is told apart.
Goal: 3x. Both sides' gradients are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from report import measure_in_turn, write_result
from safetensors.torch import save_file
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

from lfm_tasks.models.forward import Batch
from lfm_tasks.reuse.adapting import descend
from lfm_tasks.reuse.checkpoint import SINGLE, Checkpoint
from lfm_tasks.reuse.entropy import entropy
from lfm_tasks.reuse.learning import Learning
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.tasks import Task
from tests.tuned import Context


def make_learning(root: Path, options: argparse.Namespace) -> Learning:
    """Experts are the base with noise; so are the task vectors of real ones to a clock."""
    config = BertConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        intermediate_size=4 * options.width,
        num_attention_heads=8,
        vocab_size=options.vocabulary,
        num_labels=10,
    )
    model = BertForSequenceClassification(config).eval().requires_grad_(False)
    opened = []
    for expert in range(options.tasks + 1):
        (root / str(expert)).mkdir()
        moved = {name: (t + 0.01 * torch.randn_like(t) if expert else t).clone() for name, t in model.state_dict().items()}
        save_file(moved, root / str(expert) / SINGLE, {"format": "pt"})
        opened.append(Checkpoint(str(expert), str(expert), root / str(expert)))
    base, *models = opened
    planned = [Planned(name, SINGLE, t.dtype, tuple(t.shape), 0.0, True) for name, t in model.state_dict().items()]
    tasks = [Task(one.name, model, "", None, 0) for one in models]
    return Learning(base, models, planned, tasks, 0, Context(root / "work"))


def through_the_merge(base: dict, deltas: list[dict], values: torch.Tensor, tasks: list[Task], batches: list[Batch]) -> torch.Tensor:
    """One merge, then a backward pass of each task through it."""
    merged = dict(base)
    for delta, row in zip(deltas, values.T, strict=True):
        merged = {name: merged[name] + delta[name] * weight for name, weight in zip(base, row, strict=True)}
    for task, batch in zip(tasks, batches, strict=True):
        logits = functional_call(task.module, merged, kwargs=batch).logits
        entropy(logits).mean().backward(retain_graph=True)
    gradient, values.grad = values.grad, None
    return gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"width": 384, "layers": 6, "vocabulary": 30522, "tasks": 8, "rows": 16, "tokens": 16, "runs": 5}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        learning = make_learning(Path(directory), options)
        ids = torch.randint(options.vocabulary, (options.tasks, options.rows, options.tokens))
        batches = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]
        base = {name: learning.base.read(name) for name in learning.merged}
        deltas = [{name: model.read(name) - base[name] for name in base} for model in learning.models]
        values, ours = torch.full((len(base), options.tasks), 0.3, requires_grad=True), Merged(learning)
        gradients: dict[str, torch.Tensor] = {}
        passes: list[float] = []

        def mine() -> float:
            began = time.process_time()
            ours.remake(values.detach())
            remade = time.process_time()
            descend(ours, learning.tasks, batches)
            passes.append(time.process_time() - remade)
            gradients["ours"] = ours.by_coefficients()
            return time.process_time() - began

        def theirs() -> float:
            began = time.process_time()
            gradients["peer"] = through_the_merge(base, deltas, values, learning.tasks, batches)
            return time.process_time() - began

        measured = measure_in_turn(mine, theirs, options.runs, warm_up=1)
        difference = (gradients["ours"] - gradients["peer"]).abs().max() / gradients["peer"].abs().max()
        details = {"largest difference of a gradient, relative": float(difference), **vars(options)}
        shared = statistics.median(passes)
        details["passes of the model, on both sides"] = shared
        mine_alone, theirs_alone = (statistics.median(side) - shared for side in (measured.ours, measured.peer))
        details["ratio of all else"] = theirs_alone / mine_alone
        details["parameters"] = sum(tensor.numel() for tensor in base.values())
    write_result("adamerging-step", "CPU-s", measured, "autograd through the merge", 3, details)


if __name__ == "__main__":
    main()
