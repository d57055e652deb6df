"""Our merges beside mergekit's on the same tensors: its conventions chosen, its random numbers ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse import restack
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.restack_config import RestackConfig
from lfm_tasks.step import Input
from tests.groups import merge, random_group, uniform_draws
from tests.oracle.mergekit_runs import merge_directories, merged_tensors
from tests.toys import make_llama
from tests.tuned import Context

WEIGHTS = [0.7, 0.3, 0.5]
TIES_CONVENTION = {"elect": "weighted", "combine": "mean"}
SHAPES = {"matrix": (40, 24), "vector": (33,), "scalar": (), "column": (9, 1), "row": (1, 9), "volume": (3, 4, 5), "empty": (0, 4)}
BASELESS = {"linear", "uniform_soup", "slerp", "karcher"}
# ours, our options, mergekit's name, its parameters, models
PAIRS = [
    ("linear", {"weights": WEIGHTS}, "linear", {"weight": WEIGHTS}, 3),
    ("linear", {"weights": WEIGHTS, "normalize": False}, "linear", {"weight": WEIGHTS, "normalize": False}, 3),
    ("uniform_soup", {}, "linear", {"weight": 1.0}, 3),
    ("task_arithmetic", {"weights": WEIGHTS, "scale": 0.4}, "task_arithmetic", {"weight": WEIGHTS, "lambda": 0.4}, 3),
    ("task_arithmetic", {"scale": -0.5}, "task_arithmetic", {"weight": 1.0, "lambda": -0.5}, 3),
    ("expo", {"alpha": 0.3}, "task_arithmetic", {"weight": 1.3}, 1),
    ("ties", {"weights": WEIGHTS} | TIES_CONVENTION, "ties", {"weight": WEIGHTS, "density": 0.2, "normalize": True}, 3),
    (
        "ties",
        {"density": 0.5, "elect": "weighted", "combine": "sum", "scale": 0.3},
        "ties",
        {"weight": 1.0, "density": 0.5, "normalize": False, "lambda": 0.3},
        3,
    ),
    (
        "dare_linear",
        {"weights": WEIGHTS, "drop_rate": 0.75, "rescale": "l1"},
        "dare_linear",
        {"weight": WEIGHTS, "density": 0.25, "normalize": False},
        3,
    ),
    ("dare_linear", {"rescale": "none"}, "dare_linear", {"weight": 1.0, "density": 0.5, "normalize": False, "rescale": False}, 3),
    (
        "dare_ties",
        {"weights": WEIGHTS, "rescale": "l1"} | TIES_CONVENTION,
        "dare_ties",
        {"weight": WEIGHTS, "density": 0.5, "normalize": True},
        3,
    ),
    (
        "della_linear",
        {"density": 0.4, "rescale": "l1"},
        "della_linear",
        {"weight": 1.0, "density": 0.4, "epsilon": 0.15, "normalize": False},
        3,
    ),
    (
        "della",
        {"weights": WEIGHTS, "density": 0.4, "rescale": "none"} | TIES_CONVENTION,
        "della",
        {"weight": WEIGHTS, "density": 0.4, "epsilon": 0.15, "normalize": True, "rescale": False},
        3,
    ),
    ("breadcrumbs", {"density": 0.4, "gamma": 0.1}, "breadcrumbs", {"weight": 1.0, "density": 0.4, "gamma": 0.1}, 3),
    (
        "breadcrumbs_ties",
        {"density": 0.4, "gamma": 0.1, "elect": "weighted", "combine": "sum"},
        "breadcrumbs_ties",
        {"weight": 1.0, "density": 0.4, "gamma": 0.1, "normalize": False},
        3,
    ),
    ("slerp", {"t": 0.3}, "slerp", {"t": 0.3}, 2),
    ("nuslerp", {"weights": [0.3, 0.5]}, "nuslerp", {"weight": [0.3, 0.5]}, 2),
    ("nuslerp", {"angle": "row"}, "nuslerp", {"weight": 1.0, "nuslerp_flatten": False}, 2),
    ("nuslerp", {"angle": "column"}, "nuslerp", {"weight": 1.0, "nuslerp_flatten": False, "nuslerp_row_wise": True}, 2),
    ("multislerp", {"weights": WEIGHTS}, "multislerp", {"weight": WEIGHTS}, 3),
    ("karcher", {}, "karcher", {}, 3),
    ("model_stock", {"clamp": False}, "model_stock", {}, 3),
    ("sce", {"density": 0.2}, "sce", {"select_topk": 0.2}, 3),
    ("sce", {"density": 1}, "sce", {"select_topk": 1.0}, 3),
]
REFUSED_BY_MERGEKIT = {("multislerp", "empty"), *((name, shape) for name in ("della", "della_linear") for shape in ("column", "scalar"))}
"""Where its kernel divides zero by zero or finds no axis; ours has a result."""
OWN_CONVENTION = {("della", "volume"), ("della_linear", "volume")}
"""mergekit ranks along the second axis; ours along all but the first, which are the inputs of one output."""
RANKED = {"ties", "breadcrumbs", "breadcrumbs_ties", "sce", "della", "della_linear"}
"""Methods that choose by magnitude: in bfloat16 equal magnitudes are common, and which of them are kept is then a matter of taste."""


def precisions(name: str) -> list[torch.dtype]:
    return [torch.float32] if name in RANKED else [torch.float32, torch.bfloat16]


CASES = {
    f"{pair[0]}-{place}-{shape}-{str(dtype)[6:]}": (pair, shape, dtype)
    for place, pair in enumerate(PAIRS)
    for shape in SHAPES
    if (pair[0], shape) not in OWN_CONVENTION
    for dtype in precisions(pair[0])
}


def group_of(pair, shape, dtype):
    return random_group(SHAPES[shape], pair[4], dtype, seed=7)


@pytest.fixture(scope="module")
def theirs(mergekit, tmp_path_factory) -> dict[str, torch.Tensor]:
    described, tensors = [], {}
    for key, (pair, shape, dtype) in CASES.items():
        group = group_of(pair, shape, dtype)
        inputs = [*([] if pair[0] in BASELESS else [group.base]), *group.models]
        names = [f"{key}/{place}" for place in range(len(inputs))]
        tensors |= dict(zip(names, inputs, strict=True))
        draws = []
        if pair[0].startswith(("dare", "della")):
            for model in range(len(group.models)):
                draws.append(f"{key}/draws{model}")
                floats = torch.from_numpy(group.stream(model, "drop").random(group.base.numel(), dtype=np.float32))
                tensors[draws[-1]] = uniform_draws(group, model) if pair[0].startswith("dare") else floats
        base = None if pair[0] in BASELESS - {"slerp"} else 0
        described.append({"id": key, "method": pair[2], "parameters": pair[3], "base": base, "inputs": names, "draws": draws})
    return merged_tensors(mergekit, described, tensors, tmp_path_factory.mktemp("mergekit"))


def test_what_mergekit_refuses(theirs):
    """Ours has a result there: ``tests/conformance`` runs every method on every shape."""
    assert {(CASES[key][0][0], CASES[key][1]) for key in CASES.keys() - theirs.keys()} == REFUSED_BY_MERGEKIT


@pytest.mark.parametrize("key", [key for key, (pair, shape, _) in CASES.items() if (pair[0], shape) not in REFUSED_BY_MERGEKIT])
def test_a_kernel_gives_what_mergekit_gives(theirs, key):
    (name, options, *_), _, dtype = CASES[key]
    ours = merge(name, group_of(*CASES[key]), **options)
    tolerance = 1e-5 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours, theirs[key], atol=1e-5, rtol=tolerance)


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> list[Path]:
    """A base and two fine-tunings of it, in bfloat16 and in shards."""
    root = tmp_path_factory.mktemp("sharded")
    for number, name in enumerate(("base", "one", "two")):
        make_llama(root / "whole" / name)
        path = root / "whole" / name / "model.safetensors"
        generator = torch.Generator().manual_seed(number)
        moved = {key: t + (0.05 * torch.randn(t.shape, generator=generator) if number else 0) for key, t in load_file(path).items()}
        save_file(moved, path, {"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(root / "whole" / name, dtype=torch.float32)
        shutil.copytree(root / "whole" / name, root / name, ignore=shutil.ignore_patterns("*.safetensors"))
        model.save_pretrained(root / name, max_shard_size="40KB")
    return [root / name for name in ("base", "one", "two")]


@pytest.mark.parametrize(
    ("name", "options", "method", "shared", "each"),
    [
        ("linear", {"weights": [0.6, 0.4]}, "linear", {}, [{"weight": 0.6}, {"weight": 0.4}]),
        ("task_arithmetic", {"scale": 0.5}, "task_arithmetic", {"lambda": 0.5}, [{"weight": 1.0}, {"weight": 1.0}]),
        ("ties", TIES_CONVENTION, "ties", {"normalize": True}, [{"weight": 1.0, "density": 0.2}] * 2),
        ("slerp", {"t": 0.3}, "slerp", {"t": 0.3}, [{}, {}]),
    ],
)
def test_the_same_sharded_llama_through_us_and_mergekit_yaml(mergekit, directories, tmp_path, name, options, method, shared, each):
    base, *tuned = directories
    config = {
        "merge_method": method,
        "models": [{"model": str(path), "parameters": one} for path, one in zip(tuned, each, strict=True)],
        "parameters": shared,
        "dtype": "float32",
    }
    if method != "linear":
        config["base_model"] = str(tuned[0] if method == "slerp" else base)
    merge_directories(mergekit, config, tmp_path / "theirs")
    inputs = {f"models.{place}": Input(path.name, "model", path.name, path) for place, path in enumerate(tuned)}
    inputs["base"] = Input("base", "model", "base", base)
    ours = step.run(MergeConfig(method=name, options=options), inputs, Context(tmp_path / "work")).outputs["model"].path
    assert len(json.loads((ours / "model.safetensors.index.json").read_text())["weight_map"]) == 20
    found, expected = _tensors(ours), _tensors(tmp_path / "theirs")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
def test_filters_and_gradients_over_the_depth(mergekit, directories, tmp_path, name):
    """mergekit's lists over the depth are of one model each, ours of all."""
    base, *tuned = directories
    config = {
        "merge_method": name,
        "models": [
            {"model": str(tuned[0]), "parameters": {"weight": [{"filter": "self_attn", "value": [1.0, 0.1, 0.4]}, {"value": 0.7}]}},
            {"model": str(tuned[1]), "parameters": {"weight": 0.5}},
        ],
        "dtype": "float32",
    } | ({"base_model": str(base)} if name == "task_arithmetic" else {})
    merge_directories(mergekit, config, tmp_path / "theirs")
    inputs = {f"models.{place}": Input(path.name, "model", path.name, path) for place, path in enumerate(tuned)}
    inputs["base"] = Input("base", "model", "base", base)
    filters = [{"tensors": "*self_attn*", "options": {"weights": [[1.0, 0.5], [0.1, 0.5], [0.4, 0.5]]}}]
    values = MergeConfig(method=name, options={"weights": [0.7, 0.5]}, filters=filters)
    ours = _tensors(step.run(values, inputs, Context(tmp_path / "work")).outputs["model"].path)
    for key, tensor in _tensors(tmp_path / "theirs").items():
        torch.testing.assert_close(ours[key], tensor, atol=1e-5, rtol=1e-5)


def test_slices_of_two_models_are_mergekits_passthrough(mergekit, directories, tmp_path):
    base, tuned, _ = directories
    ranges = [(base, [0, 2]), (tuned, [0, 1]), (base, [1, 2])]
    factor = {"parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]}}
    slices = [{"sources": [{"model": str(path), "layer_range": layers} | (factor if path is tuned else {})]} for path, layers in ranges]
    merge_directories(mergekit, {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}, tmp_path / "theirs")
    inputs = {f"models.{place}": Input(path.name, "model", path.name, path) for place, path in enumerate((base, tuned))}
    silent = {"*o_proj*": 0.0}
    ours = [{"model": int(path is tuned), "layers": layers, "scale": silent if path is tuned else {}} for path, layers in ranges]
    result = restack.run(RestackConfig(slices=ours), inputs, Context(tmp_path / "work")).outputs["model"].path
    found, expected = _tensors(result), _tensors(tmp_path / "theirs")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert json.loads((result / "config.json").read_text())["num_hidden_layers"] == 4


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}
