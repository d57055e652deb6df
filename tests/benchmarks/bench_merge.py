"""CPU time of a merge, whole processes, beside mergekit-yaml: the same synthetic Llama in bfloat16, 4 shards, base and 3 experts.

``--width 1344 --layers 16 --vocabulary 32000`` is 548 M parameters, for which the goals are set: at a small
size both sides mostly import their libraries. Goals: TIES 5x, DARE-TIES 4x, the others 3x fewer CPU-seconds.
Peak memory is the anonymous part (VmRSS less file pages), which mapped inputs do not count in. The floor of the wall time is that
of reading the same inputs and writing as many bytes as the result has, in blocks of 8 MiB, with files in the cache on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from report import measure_in_turn, write_result
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lfm_tasks.settings import settings
from tests.environments import install
from tests.oracle.mergekit_runs import MERGEKIT

ROOT = Path(__file__).parents[2]
OURS = """
import json
import sys
from pathlib import Path
from unittest.mock import Mock
from lfm_tasks.reuse import merge
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.step import Input
config, inputs, work = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
work.mkdir()
context = Mock(workdir=work)
context.checkpoints.latest.return_value = None
context.stop_requested.return_value = False
merge.run(MergeConfig(**config), {name: Input(name, "model", name, Path(path)) for name, path in inputs.items()}, context)
"""
# method: our options, mergekit's method and parameters, goal
CASES = {
    "linear": ({}, "linear", {"weight": 1.0}, 3),
    "task_arithmetic": ({"scale": 0.5}, "task_arithmetic", {"weight": 1.0, "lambda": 0.5}, 3),
    "slerp": ({"t": 0.3}, "slerp", {"t": 0.3}, 3),
    "dare_ties": (
        {"drop_rate": 0.8, "rescale": "l1", "elect": "weighted"},
        "dare_ties",
        {"weight": 1.0, "density": 0.2, "normalize": True},
        4,
    ),
    "ties": ({"elect": "weighted"}, "ties", {"weight": 1.0, "density": 0.2, "normalize": True}, 5),
}


def make_models(root: Path, width: int, layers: int, vocabulary: int) -> list[Path]:
    """A base and three experts, in shards of a quarter of the model."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=8
    )
    names = {name: tuple(p.shape) for name, p in _empty(config).state_dict().items()}
    size = 2 * sum(torch.Size(shape).numel() for shape in names.values())
    shards, room = [[]], size / 4
    for name in names:
        if len(shards) < 4 and sum(2 * torch.Size(names[one]).numel() for one in shards[-1]) >= room:
            shards.append([])
        shards[-1].append(name)
    for expert, directory in enumerate(root / name for name in ("base", "one", "two", "three")):
        directory.mkdir(parents=True)
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(directory)
        where = {name: f"model-{place:05}-of-{len(shards):05}.safetensors" for place, shard in enumerate(shards, 1) for name in shard}
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        for place, shard in enumerate(shards):
            tensors = {name: _random(place, name, names[name], expert) for name in shard}
            save_file(tensors, directory / where[shard[0]], {"format": "pt"})
    return [root / name for name in ("base", "one", "two", "three")]


def _empty(config: LlamaConfig) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def _random(place: int, name: str, shape: tuple[int, ...], expert: int) -> torch.Tensor:
    base = torch.randn(shape, generator=torch.Generator().manual_seed(len(name) + place)) * 0.02
    moved = 0.002 * torch.randn(shape, generator=torch.Generator().manual_seed(expert * 1000 + len(name))) if expert else 0
    return (base + moved).bfloat16()


def floor(inputs: list[Path], output: Path) -> float:
    """Wall seconds to read the weights below ``inputs`` and to write as much as the first of them has."""
    block, began = bytearray(8 << 20), time.perf_counter()
    with output.open("wb", buffering=0) as written:
        for place, directory in enumerate(inputs):
            for path in directory.glob("*.safetensors"):
                with path.open("rb", buffering=0) as source:
                    while count := source.readinto(block):
                        if place == 0:
                            written.write(memoryview(block)[:count])
    seconds = time.perf_counter() - began
    output.unlink()
    return seconds


def run(command: list[object], environment: dict[str, str]) -> tuple[float, float, int]:
    """(CPU-seconds, wall seconds, peak anonymous bytes) of a process."""
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(errors.decode()[-2000:])
    after, wall = os.times(), time.perf_counter() - began
    return after.children_user - before.children_user + after.children_system - before.children_system, wall, peak[0]


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                peak[0] = max(peak[0], int(line.split()[1]) * 1024)
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 512), ("layers", 8), ("vocabulary", 8000), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    python = install(settings().home.resolve() / "test" / "mergekit", MERGEKIT, borrow=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        base, *experts = make_models(root / "models", options.width, options.layers, options.vocabulary)
        for name in options.methods:
            compare(name, *CASES[name], base, experts[:2] if name == "slerp" else experts, python, environment, root, options.runs)


def compare(name, ours, method, parameters, goal, base, experts, python, environment, root: Path, runs: int) -> None:
    peaks: dict[str, int] = {}
    walls: dict[str, float] = {}
    inputs = {f"models.{place}": str(path) for place, path in enumerate(experts)}
    inputs |= {"base": str(base)} if method not in ("linear", "slerp") else {}
    shared = {key: value for key, value in parameters.items() if key in ("t", "normalize")}
    each = {key: value for key, value in parameters.items() if key not in shared}
    recipe = {"merge_method": method, "models": [{"model": str(path), "parameters": each} for path in experts], "parameters": shared}
    if method != "linear":
        recipe["base_model"] = str(experts[0] if method == "slerp" else base)
    (root / "recipe.yaml").write_text(json.dumps(recipe | {"dtype": "bfloat16"}))

    def side(which: str, command: list[object], output: Path) -> float:
        shutil.rmtree(output, ignore_errors=True)
        seconds, walls[which], peaks[which] = run(command, environment)
        return seconds

    config = json.dumps({"method": name, "options": ours})
    mine = [sys.executable, "-c", OURS, config, json.dumps(inputs), root / "ours"]
    theirs = [python.with_name("mergekit-yaml"), root / "recipe.yaml", root / "theirs", "--quiet", "--out-shard-size", "300M"]
    measured = measure_in_turn(lambda: side("ours", mine, root / "ours"), lambda: side("peer", theirs, root / "theirs"), runs=runs)
    read = experts if "base" not in inputs else [base, *experts]
    details = {f"wall s, {which}": seconds for which, seconds in walls.items()} | {"wall s, floor": floor(read, root / "floor")}
    details |= {"peak anonymous MB, ours": peaks["ours"] / 1e6, "peak anonymous MB, peer": peaks["peer"] / 1e6}
    details["parameters"] = sum(path.stat().st_size for path in base.glob("*.safetensors")) // 2
    write_result(f"merge-{name}", "CPU-s", measured, MERGEKIT.replace("==", " "), goal, details)


if __name__ == "__main__":
    main()
