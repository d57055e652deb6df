"""Every card of the step merge_adapters: the same laws for each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.adapters.config import MergeAdaptersConfig
from lfm_tasks.reuse.adapters.kernels import Layer
from lfm_tasks.reuse.adapters.lora import Factors

NAMES = [card.name for card in methods_of("merge_adapters")]
DIRECT = [name for name in NAMES if not METHODS[name].function.searched]
WEIGHTED = [name for name in DIRECT if "weights" in METHODS[name].config_class.model_fields and name != "knots"]
EVERYTHING = {"density": 1, "drop_rate": 0}
RANK = 64
SHAPES = {"square": (16, 16), "wide": (8, 20), "tall": (20, 8), "thin": (3, 40)}

CASES = [(name, "product") for name in DIRECT] + [(name, "factors") for name in WEIGHTED]
cases = pytest.mark.parametrize(("name", "space"), CASES)


def layer(shape=(16, 16), ranks=(4, 4, 4), dtype=torch.float32) -> Layer:
    generator = torch.Generator().manual_seed(3)
    draw = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    factors = tuple(Factors(draw(rank, shape[1]), draw(shape[0], rank)) for rank in ranks)
    return Layer("layer", factors, tuple("abc")[: len(ranks)], tuple(range(len(ranks))), len(ranks))


def merge(name: str, space: str, one: Layer, rank: int = RANK, **values) -> Factors:
    card = METHODS[name]
    known = {key: value for key, value in values.items() if key in card.config_class.model_fields}
    return card.function.kernel(one, card.config_class(**known), MergeAdaptersConfig(method=name, space=space, rank=rank))


def same(found: Factors, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.product(), expected, atol=1e-4, rtol=1e-4)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_finite_factors_of_it(name, space, shape, dtype):
    merged = merge(name, space, layer(SHAPES[shape], dtype=dtype), rank=0)
    assert merged.shape == SHAPES[shape] and merged.down.dtype == merged.up.dtype == dtype
    assert merged.down.isfinite().all() and merged.up.isfinite().all() and 0 < merged.kept <= 1 + 1e-6
    assert merged.rank <= (12 if name == "lora_cat" else 4)


@cases
def test_one_adapter_is_itself(name, space):
    alone = layer(ranks=(5,))
    same(merge(name, space, alone, **EVERYTHING), alone.factors[0].product())


@cases
def test_the_order_of_the_adapters_does_not_matter(name, space):
    one = layer()
    turned = replace(one, factors=one.factors[::-1], keys=one.keys[::-1])
    same(merge(name, space, turned, weights=[3, 2, 1]), merge(name, space, one, weights=[1, 2, 3]).product())


@cases
def test_an_adapter_that_leaves_a_layer_alone_takes_no_part(name, space):
    one = layer(ranks=(4, 4))
    same(merge(name, space, replace(one, places=(0, 2), adapters=3), weights=[1, 9, 2]), merge(name, space, one, weights=[1, 2]).product())


@cases
def test_adapters_are_borrowed(name, space):
    one = layer()
    before = [(factor.down.clone(), factor.up.clone()) for factor in one.factors]
    merge(name, space, one)
    assert all(torch.equal(a, f.down) and torch.equal(b, f.up) for (a, b), f in zip(before, one.factors, strict=True))


@pytest.mark.parametrize(("name", "space"), [case for case in CASES if "scale" in METHODS[case[0]].config_class.model_fields])
def test_a_scale_is_a_factor(name, space):
    same(merge(name, space, layer(), scale=-0.5), -0.5 * merge(name, space, layer()).product())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    assert card.area == "reuse" and "weights" in card.access
    assert card.title and card.preconditions and card.cost and any(character.isdigit() for character in card.paper)
    assert type(MergeAdaptersConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        MergeAdaptersConfig(method=name, options={"nonsense": 1})


def test_an_option_of_one_name_is_one_option():
    """The form shows it once, with one description and one default for all methods that take it."""
    seen: dict[str, tuple] = {}
    for name in NAMES:
        for option, field in METHODS[name].config_class.model_fields.items():
            assert seen.setdefault(option, (field.description, field.default)) == (field.description, field.default), (name, option)
