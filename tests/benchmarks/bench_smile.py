"""CPU time of making SMILE's experts, beside fusion-bench's SmileMoELinear, of the linear layers of one block: square, and feed-forward.

``--decay`` d: the i-th singular value of what an expert changed falls as i^-d; 0 is noise. Both sides are in this process, with
tensors in memory; OMP_NUM_THREADS=1 makes both use one thread. fusion-bench's own default is full_matrices=True; its time without is
among the details. Goal: 3x. Both sides' distances from what they approximate are compared.
"""

from __future__ import annotations

import argparse
import site
import statistics
import time

import torch
from report import measure_in_turn, write_result
from torch import Tensor, nn

from lfm_tasks.reuse.mixtures.smile import layer_tensors
from lfm_tasks.settings import settings
from tests.environments import install
from tests.oracle.fusion_bench_runs import FUSION_BENCH


def changed(shape: tuple[int, int], decay: float) -> Tensor:
    noise = torch.randn(shape) * 0.01
    if not decay:
        return noise
    left, values, right = torch.linalg.svd(noise, full_matrices=False)
    return left * (values[0] * torch.arange(1, len(values) + 1) ** -decay) @ right


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(*weight.shape[::-1], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.clone(), False), nn.Parameter(bias.clone(), False)
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"width": 768, "experts": 2, "rank": 64, "gate_rank": 16, "runs": 5}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--decay", type=float, default=0.0)
    given = parser.parse_args()
    python = install(settings().home.resolve() / "test" / "fusion-bench", FUSION_BENCH, borrow=True)
    site.addsitedir(str(next(python.parents[1].glob("lib/*/site-packages"))))
    torch.manual_seed(0)
    wide = 4 * given.width
    compare("square", [(given.width, given.width)] * 4, given)
    compare("feed-forward", [(wide, given.width), (given.width, wide)], given)


def compare(name: str, shapes: list[tuple[int, int]], given: argparse.Namespace) -> None:
    from fusion_bench.models.smile_moe.linear_from_module import SmileMoELinear

    bases = [(torch.randn(shape) * 0.02, torch.randn(shape[0])) for shape in shapes]
    experts = [[(w + changed(tuple(w.shape), given.decay), b + 0.01) for _ in range(given.experts)] for w, b in bases]
    made: dict[str, list] = {}

    def ours() -> float:
        began, made["ours"] = time.process_time(), []
        for (weight, bias), those in zip(bases, experts, strict=True):
            differences = torch.stack([w for w, _ in those]) - weight
            made["ours"].append(layer_tensors(differences, torch.stack([b for _, b in those]) - bias, given.rank, given.gate_rank))
        return time.process_time() - began

    def peer(full: bool = True) -> float:
        layers = [(linear(*base), [linear(*one) for one in those]) for base, those in zip(bases, experts, strict=True)]
        began = time.process_time()
        made["peer"] = [SmileMoELinear(base, those, given.gate_rank, given.rank, full_matrices=full) for base, those in layers]
        return time.process_time() - began

    thin: list[float] = []

    def both() -> float:
        thin.append(peer(full=False))
        return peer()

    measured = measure_in_turn(ours, both, given.runs, warm_up=1)
    details = {"peer with full_matrices=False": statistics.median(thin[1:]), **vars(given)}
    details |= {f"largest distance, {side}": found for side, found in distances(made, bases, experts).items()}
    write_result(f"smile-{name}", "CPU-s", measured, FUSION_BENCH.replace("==", " "), 3, details)


@torch.no_grad()
def distances(made: dict[str, list], bases: list, experts: list) -> dict[str, float]:
    """Of the experts from the differences, as a share of these."""
    found = {"ours": 0.0, "peer": 0.0}
    for layer, (base, _) in enumerate(bases):
        for place, (weight, _) in enumerate(experts[layer]):
            exact, ours, theirs = (weight - base).double(), made["ours"][layer], made["peer"][layer].experts[place]
            near = {"ours": ours["up"][place].double() @ ours["down"][place].double(), "peer": theirs.u.double() @ theirs.svh.double()}
            for side, one in near.items():
                found[side] = max(found[side], float((exact - one).norm() / exact.norm()))
    return found


if __name__ == "__main__":
    main()
