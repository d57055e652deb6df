"""Defects seen in mergekit 0.1.5 and fusion-bench 0.2.33: ours has none of them.

Held elsewhere, for they are laws of every method: shapes such as [n, 1], inputs that are not written to (``conformance``); no config
that depends on the order of a set, zero-sum weights, NaN and infinity, integers, all problems before the first read, a stop that
loses nothing (``test_merge_step``); random numbers that do not depend on the order of tensors and models, the share that TIES keeps
(``test_merge_formulas``). mergekit's balance of GPUs by count has no counterpart: a free thread takes the next tensor.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.group import MergeMethod
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.streaming import THREADS, Merge
from lfm_tasks.step import Input
from tests.groups import merge, models_for, random_group
from tests.toys import make_llama
from tests.tuned import Context


@pytest.fixture(scope="module")
def llamas(tmp_path_factory) -> list[Path]:
    """A base and two fine-tunings of it, in bfloat16; their paths look like names on a hub."""
    root = tmp_path_factory.mktemp("hub") / "org"
    for seed, name in enumerate(("base", "one", "two")):
        make_llama(root / name, seed=seed)
        tensors = load_file(root / name / "model.safetensors")
        save_file({key: tensor.bfloat16() for key, tensor in tensors.items()}, root / name / "model.safetensors", {"format": "pt"})
    return [root / name for name in ("base", "one", "two")]


def inputs_of(directories: list[Path]) -> dict[str, Input]:
    names = ("base", *(f"models.{place}" for place in range(len(directories) - 1)))
    return {name: Input(f"org/{path.name}", "model", path.name * 16, path) for name, path in zip(names, directories, strict=True)}


def merged(directories: list[Path], work: Path, **values) -> Path:
    return step.run(MergeConfig(**values), inputs_of(directories), Context(work)).outputs["model"].path


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.rglob("*") if path.is_file()}


def test_a_merge_needs_no_network(llamas, tmp_path, monkeypatch):
    """mergekit asks the hub about every local path of the form a/b, and fails offline after the merge: no tokenizer is written."""

    def refuse(*_):
        raise AssertionError("A merge opened a connection.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(llamas[0].parents[1])
    result = merged([path.relative_to(llamas[0].parents[1]) for path in llamas], tmp_path / "work", method="ties")
    assert AutoTokenizer.from_pretrained(result, local_files_only=True)("a new phone").input_ids


def test_the_files_of_the_inputs_stay_as_they_were(llamas, tmp_path):
    """fusion-bench writes into the models that it is given (SMILE, DARE, task arithmetic)."""
    before = [digests(path) for path in llamas]
    for method in ("task_arithmetic", "dare_ties", "nuslerp"):
        merged(llamas, tmp_path / method, method=method)
    assert [digests(path) for path in llamas] == before


def test_bfloat16_models_are_summed_in_float32_and_stay_bfloat16(llamas, tmp_path):
    """mergekit takes the differences in bfloat16 where all models are; some of its methods write float32 whatever they were given."""
    result = load_file(merged(llamas, tmp_path / "work", method="task_arithmetic", options={"scale": 0.3137}) / "model.safetensors")
    base, *models = (load_file(path / "model.safetensors") for path in llamas)
    for name, tensor in result.items():
        exact = base[name].double() + 0.3137 * sum(model[name].double() - base[name].double() for model in models)
        assert tensor.dtype == torch.bfloat16
        assert (tensor != exact.bfloat16()).float().mean() < 1e-3  # rounded once, but for sums within float32's error of a tie


@pytest.mark.parametrize("number", [2, THREADS])
def test_tensors_are_merged_on_as_many_threads_as_it_says(llamas, tmp_path, number):
    """mergekit ignores --write-threads. Here two kernels wait for each other, which one thread alone could not."""
    together = threading.Barrier(number)

    def kernel(group, options):
        together.wait(timeout=30)
        return group.models[0]

    models = [Checkpoint(path.name, path.name, path) for path in llamas[1:]]
    planned = plan(None, models, method := MergeMethod(kernel, base="ignored"))
    assert len(planned) % number == 0
    Merge(None, models, planned, method, None, 0, Context(tmp_path / "work")).run(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == models[0].tensors.keys()


def test_merges_side_by_side_share_nothing(llamas, tmp_path):
    """mergekit's cache of open files is one for all threads."""
    configs = {name: {"method": name, "seed": 3} for name in ("ties", "dare_linear", "slerp")}
    alone = {name: digests(merged(llamas, tmp_path / "alone" / name, **config)) for name, config in configs.items()}
    found: dict[str, dict[str, str]] = {}

    def run(name: str, config: dict) -> None:
        found[name] = digests(merged(llamas, tmp_path / "beside" / name, **config))

    threads = [threading.Thread(target=run, args=item) for item in configs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


OTHER = {
    "weights": [0.2, 0.9, 0.5],
    "normalize": False,
    "alpha": 0.7,
    "scale": 0.4,
    "shallow": 0.9,
    "deep": 0.2,
    "density": 0.7,
    "elect": "weighted",
    "combine": "max",
    "drop_rate": 0.8,
    "rescale": "l1",
    "epsilon": 0.05,
    "gamma": 0.2,
    "t": 0.1,
    "angle": "row",
    "iterations": 1,
    "tolerance": 0.5,
    "average": "angle",
    "clamp": False,
    "selectivity": 3.0,
    "agreement": 3,
    "task": 1,
    "common": 0.3,
    "adam_steps": 2,
    "learning_rate": 1e-2,
    "floor": 0.1,
    "equalize": False,
    "reduction": 0.2,
    "ridge": 0.5,
    "last": 2,
    "window": "exponential",
    "decay": 0.3,
}
BESIDE = {
    "normalize": {"weights": [0.2, 0.9, 0.5]},
    "elect": {"weights": [0.2, 0.9, 0.5]},
    "iterations": {"tolerance": 1e-9},
    "decay": {"window": "exponential"},
}
"""Options that only matter beside others."""
WHOLE_MODEL = {"trim"}
"""Of no effect on a model of one tensor; ``test_merge_formulas`` has one of two."""
KERNELS = [card for card in methods_of("merge") if card.function.learn is None]
"""What a method learns from data has tests of its own."""
OPTIONS = [(card.name, option) for card in KERNELS for option in card.config_class.model_fields if option not in WHOLE_MODEL]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_no_option_is_ignored(name, option):
    count = models_for(name)
    group = replace(random_group((24, 16), count, size=0.6), depth=0.5)
    if option == "clamp":
        group = replace(group, models=tuple(group.base + (-1) ** place * (group.models[0] - group.base) for place in range(count)))
    beside = {key: value[:count] if isinstance(value, list) else value for key, value in BESIDE.get(option, {}).items()}
    other = OTHER[option][:count] if isinstance(OTHER[option], list) else OTHER[option]
    assert not torch.equal(merge(name, group, **beside), merge(name, group, **beside | {option: other}))


def test_weights_do_not_elect_signs_unless_asked():
    """mergekit-issue 474: a weight changes which sign wins, so a small one silences its model twice."""
    group = random_group((50,), 2, size=1.0)
    taus = torch.stack([model - group.base for model in group.models])
    majority = torch.where(taus.sum(0) >= 0, 1.0, -1.0)
    moved = merge("ties", group, density=1, weights=[0.01, 1.0]) - group.base
    assert (moved * majority >= -1e-6).all()
    assert not (merge("ties", group, density=1, weights=[0.01, 1.0], elect="weighted") - group.base).mul(majority).ge(-1e-6).all()


@pytest.mark.parametrize(("method", "options"), [("ties", {"density": 20}), ("ties", {"density": 0}), ("dare_linear", {"drop_rate": 1})])
def test_shares_are_not_percents_and_not_all_or_nothing(method, options):
    """fusion-bench reads a density above 1 as percents, fails at 100, and divides by zero where all is dropped."""
    with pytest.raises(ConfigError, match=f"options of {method}: .*should be (less|greater) than"):
        MergeConfig(method=method, options=options)


def test_breadcrumbs_without_outliers_keeps_the_largest():
    """mergekit 0.1.4 dropped everything there."""
    group = random_group((100,), 1)
    tau = group.models[0] - group.base
    moved = merge("breadcrumbs", group, density=0.3, gamma=0) != group.base
    assert torch.equal(moved, tau.abs() >= tau.abs().sort().values[70])


@pytest.mark.parametrize("name", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_directions_that_cancel_out_or_are_absent_have_a_finite_mean(name):
    group = random_group((6, 4), 2)
    opposed = replace(group, base=torch.zeros(6, 4), models=(group.models[0], -group.models[0]))
    absent = replace(opposed, models=(torch.zeros(6, 4), group.models[0]))
    assert merge(name, opposed).isfinite().all()
    assert merge(name, absent).isfinite().all()


def test_every_card_names_code_that_is_there():
    """22 of fusion-bench's 104 algorithms cannot be imported."""
    assert all(card.function and card.config_class for card in METHODS)
