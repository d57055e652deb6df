"""Options of tensors by name and depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.form import form_fields
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.step import Input
from lfm_tasks.steps import STEPS
from tests.toys import make_llama
from tests.tuned import Context


@pytest.fixture(scope="module")
def llamas(tmp_path_factory) -> list[Path]:
    """A base and two others, of five layers."""
    root = tmp_path_factory.mktemp("llamas")
    for seed, name in enumerate(("base", "one", "two")):
        make_llama(root / name, layers=5, seed=seed)
    return [root / name for name in ("base", "one", "two")]


def merged(directories: list[Path], work: Path, **values) -> dict[str, torch.Tensor]:
    names = ("base", "models.0", "models.1")
    inputs = {name: Input(path.name, "model", path.name, path) for name, path in zip(names, directories, strict=True)}
    return load_file(step.run(MergeConfig(**values), inputs, Context(work)).outputs["model"].path / "model.safetensors")


def layer(name: str) -> int | None:
    return int(name.split(".")[2]) if ".layers." in name else None


def test_the_first_filter_that_fits_counts_and_lists_go_over_the_depth(llamas, tmp_path):
    filters = [
        {"tensors": "*mlp.down*", "options": {"scale": 0.9}},
        {"tensors": "*.layers.*", "options": {"scale": [0, 1, 0.5], "weights": [[1, 0], [0, 2]]}},
        {"tensors": "*.layers.0.*", "options": {"scale": 77}},
    ]
    found = merged(llamas, tmp_path / "work", method="task_arithmetic", options={"scale": 0.25}, filters=filters)
    base, one, two = (load_file(path / "model.safetensors") for path in llamas)
    for name, tensor in found.items():
        if "mlp.down" in name:
            scale, first, second = 0.9, 1, 1
        elif (place := layer(name)) is not None:
            scale, first, second = [0, 0.5, 1, 0.75, 0.5][place], 1 - place / 4, 2 * place / 4
        else:
            scale, first, second = 0.25, 1, 1
        delta = first * (one[name] - base[name]) + second * (two[name] - base[name])
        torch.testing.assert_close(tensor, base[name] + scale * delta, atol=1e-6, rtol=1e-5)


def test_a_filter_for_all_with_one_point_is_the_option_itself(llamas, tmp_path):
    plain = merged(llamas, tmp_path / "plain", method="slerp", options={"t": 0.3})
    filtered = merged(llamas, tmp_path / "filtered", method="slerp", filters=[{"tensors": "*", "options": {"t": [0.3]}}])
    assert all(torch.equal(plain[name], filtered[name]) for name in plain)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "slerp", "options": {"t": [0, 2]}}, r"'\*a\*': options of slerp: t: .*less than or equal to 1. Got 2"),
        ({"method": "slerp", "options": {"s": [0, 1]}}, "Unknown option 's'"),
        ({"method": "slerp", "options": {"t": [[0], [1]]}}, "the points over the depth must be numbers"),
        ({"method": "linear", "options": {"weights": [[1, 2], [1]]}}, "the points over the depth must be lists of one length"),
        ({"method": "karcher", "options": {"iterations": [1, 10]}}, "only numbers that are no counts, and weights, are spread"),
    ],
)
def test_what_cannot_be_spread_is_refused_at_once(values, says):
    with pytest.raises(ConfigError, match=f"filters: .*{says}"):
        parse_config(MergeConfig, {"method": values["method"], "filters": [{"tensors": "*a*", "options": values["options"]}]})


def test_a_filter_that_fits_no_tensor_or_all_of_a_model_is_refused(llamas, tmp_path):
    nothing = [{"tensors": "*conv*", "options": {"scale": 0.5}}]
    with pytest.raises(IncompatibleModels, match=r"filters: no tensor of base is named '\*conv\*'"):
        merged(llamas, tmp_path / "work", method="ties", filters=nothing)
    with pytest.raises(ConfigError, match="filters: ties with these options looks at all tensors together"):
        merged(llamas, tmp_path / "work", method="ties", options={"trim": "global"}, filters=nothing)


def test_the_form_shows_what_a_filter_holds():
    """Airflow resolves no reference inside a Param's schema."""
    schema = form_fields(STEPS["merge"], "merge")["merge_filters"]
    assert set(schema["items"]["properties"]) == {"tensors", "options"}
