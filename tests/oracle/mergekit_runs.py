"""mergekit, the leader that merges are compared with."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.environments import run

MERGEKIT = "mergekit==0.1.5"
KERNELS = Path(__file__).with_name("mergekit_kernels.py")


def merged_tensors(python: Path, cases: list[dict], tensors: dict[str, Tensor], work: Path) -> dict[str, Tensor]:
    """What mergekit's kernels make of each case, by its ``id`` (see ``mergekit_kernels.py``)."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, work / "inputs.safetensors")
    (work / "cases.json").write_text(json.dumps(cases))
    run("run mergekit's kernels", python, KERNELS, work / "inputs.safetensors", work / "cases.json", work / "merged.safetensors")
    return load_file(work / "merged.safetensors")


def merge_directories(python: Path, config: dict, output: Path, *options: str) -> None:
    """``mergekit-yaml`` on whole models."""
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    run("run mergekit-yaml", python.with_name("mergekit-yaml"), path, output, "--quiet", *options)
