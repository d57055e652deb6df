"""FusionBench, the leader in methods that look at data, and those that merges are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.environments import run

FUSION_BENCH = "fusion-bench==0.2.33"
CASES = Path(__file__).with_name("fusion_bench_cases.py")


@dataclass(frozen=True)
class Case:
    """``run`` is one of those in ``fusion_bench_cases.py``; ``tensors`` by the names that it asks for, ``model/tensor``."""

    run: str
    tensors: Mapping[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def results(python: Path, cases: Mapping[str, Case], work: Path) -> dict[str, dict[str, Tensor]]:
    """What FusionBench makes of each case: named tensors by the case's key."""
    inputs = {f"{key}/{name}": tensor.contiguous().clone() for key, case in cases.items() for name, tensor in case.tensors.items()}
    save_file(inputs, work / "inputs.safetensors")
    described = [
        {"id": key, "run": case.run, "options": case.options, "tensors": {name: f"{key}/{name}" for name in case.tensors}}
        for key, case in cases.items()
    ]
    (work / "cases.json").write_text(json.dumps(described))
    run("run FusionBench", python, CASES, work / "inputs.safetensors", work / "cases.json", work / "results.safetensors")
    found: dict[str, dict[str, Tensor]] = {key: {} for key in cases}
    for name, tensor in load_file(work / "results.safetensors").items():
        key, _, rest = name.partition("/")
        found[key][rest] = tensor
    return found
