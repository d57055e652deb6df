"""Checkpoint averaging: its closed forms, beside torch's own moving averages, and from the training that made the checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.methods.config import LawaConfig
from lfm_tasks.reuse.methods.lawa import averaging_weights
from lfm_tasks.settings import settings
from tests.groups import merge, random_group
from tests.toys import make_bert
from tests.tuned import write_dataset

COUNT = 5


@pytest.fixture
def group():
    return random_group((24, 16), COUNT, torch.float64, seed=3)


@pytest.mark.parametrize("last", [0, 1, 3, COUNT])
def test_a_uniform_window_is_the_mean_of_the_last(group, last):
    torch.testing.assert_close(merge("lawa", group, last=last), torch.stack(group.models[-last:]).mean(0), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("last", [0, 1, 2, 4])
def test_an_exponential_window_is_the_recursion(group, last, decay):
    window = group.models[-last:]
    average = window[0]
    for theta in window[1:]:
        average = decay * average + (1 - decay) * theta
    torch.testing.assert_close(merge("lawa", group, last=last, window="exponential", decay=decay), average, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "average"), [({}, {}), ({"window": "exponential", "decay": 0.8}, {"multi_avg_fn": get_ema_multi_avg_fn(0.8)})]
)
def test_averages_are_those_that_torch_keeps_during_training(group, options, average):
    model = torch.nn.Linear(16, 24, bias=False, dtype=torch.float64)
    averaged = AveragedModel(model, **average)
    for theta in group.models:
        with torch.no_grad():
            model.weight.copy_(theta)
        averaged.update_parameters(model)
    torch.testing.assert_close(merge("lawa", group, **options), averaged.module.weight.detach(), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize(
    "options", [{}, {"last": 3}, {"window": "exponential"}, {"last": 2, "window": "exponential", "decay": 0.1}], ids=str
)
def test_weights_are_an_average_of_the_window(options):
    weights = averaging_weights(LawaConfig(**options), COUNT)
    last = options.get("last", COUNT)
    assert sum(weights) == pytest.approx(1, abs=1e-15) and weights[:-last] == [0] * (COUNT - last) and min(weights[-last:]) > 0


def test_laws(group):
    """A window of one, or no decay, is the last checkpoint; a decay near 1 is the first; what is before the window is left out."""
    last = group.models[-1]
    assert torch.equal(merge("lawa", group, last=1), last)
    torch.testing.assert_close(merge("lawa", group, window="exponential", decay=0.0), last, atol=1e-15, rtol=1e-15)
    first = merge("lawa", group, window="exponential", decay=1 - 1e-12)
    torch.testing.assert_close(first, group.models[0], atol=1e-11, rtol=1e-11)
    moved = replace(group, models=(group.models[0] + 1, *group.models[1:]))
    assert torch.equal(merge("lawa", moved, last=COUNT - 1), merge("lawa", group, last=COUNT - 1))
    turned = replace(group, models=group.models[::-1], keys=group.keys[::-1])
    assert not torch.allclose(merge("lawa", turned, window="exponential"), merge("lawa", group, window="exponential"))


def test_a_window_longer_than_what_was_given_is_refused(group):
    with pytest.raises(ConfigError, match="last=6: only 5 checkpoints were given. Give more, or set last to at most 5"):
        merge("lawa", group, last=6)


def test_from_the_training_to_the_average_on_the_command_line(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{tmp_path}")
    settings.cache_clear()
    make_bert(tmp_path / "bert")
    store = Store.open(settings().store)
    data = f"sha256:{store.commit(write_dataset(tmp_path / 'data', tmp_path / 'bert', 'classification').path, 'dataset').sha256}"

    def run(step: str, *words: str) -> dict:
        assert main(["run", step, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    tuned = run("tune", "--model", f"file://{tmp_path}/bert", "--dataset", data, "--method", "full", "--max-steps", "6", "--keep-last", "3")
    kept = [tuned["outputs"][f"checkpoints.{place}"] for place in range(3)]
    assert len(set(kept)) == 3 and kept[-1] == tuned["outputs"]["model"]
    made = run("merge", "--models", *kept, "--method", "lawa", "--last", "2")["outputs"]["model"]
    weights = [
        load_file(store.materialise(store.find(one.removeprefix("sha256:")), tmp_path) / "model.safetensors") for one in (*kept, made)
    ]
    for name, tensor in weights[-1].items():
        torch.testing.assert_close(tensor, (weights[1][name] + weights[2][name]) / 2, atol=1e-7, rtol=1e-6)
