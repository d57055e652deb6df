"""Every card of the step merge, on tensors of every shape and precision: the same laws for each."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError, InvalidInput
from lfm_tasks.reuse import blocks
from lfm_tasks.reuse.checkpoint import Checkpoint, Loaded
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.streaming import Merge
from tests.groups import merge, models_for, random_group
from tests.tuned import Context

ALL = [card.name for card in methods_of("merge")]
SOUPS = {"greedy_soup", "learned_soup"}
"""They have no kernel of their own; their laws are in ``tests/reuse``."""
NAMES = [name for name in ALL if name not in SOUPS]
SHAPES = [(24, 16), (7,), (), (5, 1), (1, 5), (0,), (0, 4), (3, 4, 5)]
EVERYTHING = {"density": 1, "drop_rate": 0, "shallow": 1, "alpha": 0, "coefficient": 1}
"""Values with which a method of task vectors changes none of them."""
NOTHING = {"scale": 0, "shallow": 0, "deep": 0, "coefficient": 0}
NOT_THE_EXPERT = {"iso_c", "iso_cts"}
"""They make the singular values equal, so one expert is not itself afterwards."""

methods = pytest.mark.parametrize("name", NAMES)


def options(name: str, values: dict) -> dict:
    return {key: value for key, value in values.items() if key in METHODS[name].config_class.model_fields}


def variants(name: str) -> list[dict]:
    """The method's defaults, and what it does only when asked."""
    extra = {
        "ties": [
            {"trim": "global"},
            {"combine": "sum"},
            {"combine": "max"},
            {"elect": "weighted"},
            {"combine": "count", "elect": "votes"},
        ],
        "emr": [{"task": 1}],
        "lawa": [{"last": 2}, {"window": "exponential"}],
        "nuslerp": [{"angle": "row"}, {"angle": "column"}],
        "model_stock": [{"average": "angle"}, {"clamp": False}],
    }
    rescaled = [{"rescale": "l1"}, {"rescale": "none"}] if "rescale" in METHODS[name].config_class.model_fields else []
    return [{}, *extra.get(name, []), *rescaled]


CASES = [pytest.param(name, values, id="-".join([name, *map(str, values.values())])) for name in NAMES for values in variants(name)]
cases = pytest.mark.parametrize(("name", "values"), CASES)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_precision_gives_its_own_finite(name, values, shape, dtype):
    merged = merge(name, random_group(shape, models_for(name), dtype), **values)
    assert (merged.shape, merged.dtype) == (torch.Size(shape), dtype)
    assert merged.isfinite().all()


@cases
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(24, 16), (7,)], ids=str)
def test_nan_and_infinity_of_any_input_show(name, values, shape, value):
    """The engine looks for the guilty input where a kernel refuses, or where its result is not finite."""
    whole = random_group(shape, models_for(name))
    for place in range(len(whole.models) + (METHODS[name].function.base == "required")):
        tensors = [tensor.clone() for tensor in (*whole.models, whole.base)]
        tensors[place].view(-1)[3] = value
        with contextlib.suppress(InvalidInput):
            assert not merge(name, replace(whole, models=tuple(tensors[:-1]), base=tensors[-1]), **values).isfinite().all()


@cases
def test_models_are_borrowed(name, values):
    group = random_group((24, 16), models_for(name))
    before = [tensor.clone() for tensor in (group.base, *group.models)]
    merge(name, group, **values)
    assert all(torch.equal(old, new) for old, new in zip(before, (group.base, *group.models), strict=True))


@cases
@pytest.mark.parametrize("shape", [(24, 16), (7,), ()], ids=str)
def test_copies_of_the_base_give_the_base(name, values, shape):
    group = random_group(shape, models_for(name))
    group = replace(group, models=tuple(group.base.clone() for _ in group.models))
    torch.testing.assert_close(merge(name, group, **values), group.base, atol=1e-6, rtol=1e-6)


@cases
def test_the_size_of_blocks_changes_no_bit(name, values, monkeypatch):
    group = random_group((60, 16), models_for(name))
    whole = merge(name, group, **values)
    monkeypatch.setattr(blocks, "BLOCK", 37)
    assert torch.equal(merge(name, group, **values), whole)


@cases
def test_memory_layout_changes_no_bit(name, values):
    group = random_group((24, 16), models_for(name))
    scattered = replace(group, base=_strided(group.base), models=tuple(_strided(model) for model in group.models))
    assert not scattered.base.is_contiguous()
    assert torch.equal(merge(name, scattered, **values), merge(name, group, **values))


def _strided(tensor):
    return tensor.T.contiguous().T


@pytest.mark.parametrize(("name", "values"), [case for case in CASES if not (case.values[0] == "lawa" and case.values[1])])
def test_the_order_of_the_models_does_not_matter(name, values):
    group = random_group((24, 16), models_for(name))
    turned = replace(group, models=group.models[::-1], keys=group.keys[::-1])
    other = {"task": len(group.models)} if values.get("task") else {}
    torch.testing.assert_close(merge(name, turned, **values | other), merge(name, group, **values), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if options(name, NOTHING)])
def test_a_scale_of_zero_is_the_base(name):
    group = random_group((24, 16), models_for(name))
    assert torch.equal(merge(name, group, **options(name, NOTHING)), group.base)


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].function.least == 1 and name not in NOT_THE_EXPERT])
def test_one_expert_is_itself(name):
    group = random_group((24, 16), 1)
    torch.testing.assert_close(merge(name, group, **options(name, EVERYTHING)), group.models[0], atol=2e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A base and three fine-tunings of it in files."""
    root = tmp_path_factory.mktemp("checkpoints")
    generator = torch.Generator().manual_seed(0)
    base = {f"layer.{place}.weight": torch.randn(size, generator=generator) for place, size in enumerate([(9, 5), (4, 6), (7,)])}
    found = []
    for number in range(4):
        noise = {name: 0.1 * number * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
        (root / str(number)).mkdir()
        save_file({name: base[name] + noise[name] for name in base}, root / str(number) / "model.safetensors")
        found.append(Checkpoint(str(number), str(number), root / str(number)))
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [case for case in CASES if not (METHODS[case.values[0]].function.learn or METHODS[case.values[0]].function.statistics)],
)
def test_what_a_search_makes_in_memory_is_what_a_merge_writes(name, values, checkpoints, tmp_path):
    method, config = METHODS[name].function, METHODS[name].config_class(**values)
    base, *models = checkpoints
    models = models[: models_for(name)]
    planned = plan(base, models, method)
    written, held = tmp_path / "written", [Loaded(one) for one in (base, *models)]
    Merge(base, models, planned, method, config, 7, Context(tmp_path / "work")).run(written)
    made = Merge(held[0], held[1:], planned, method, config, 7, Context(tmp_path / "work")).in_memory()
    expected = load_file(written / "model.safetensors")
    assert made.keys() == expected.keys() and all(torch.equal(made[one], tensor) for one, tensor in expected.items())


@pytest.mark.parametrize("name", ALL)
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    method = card.function
    assert card.area == "reuse" and card.access[0] == "weights" and (method.learn is not None) == (len(card.access) > 1)
    assert card.needs == (method.statistics or ("" if method.learn is None else "dataset" if method.one_task else "datasets"))
    assert card.title and card.preconditions and card.cost and any(character.isdigit() for character in card.paper)
    assert type(MergeConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        MergeConfig(method=name, options={"nonsense": 1})


def test_an_option_of_one_name_is_one_option():
    """The form shows it once, with one description and one default for all methods that take it."""
    seen: dict[str, tuple] = {}
    for name in ALL:
        for option, field in METHODS[name].config_class.model_fields.items():
            assert seen.setdefault(option, (field.description, field.default)) == (field.description, field.default), (name, option)
