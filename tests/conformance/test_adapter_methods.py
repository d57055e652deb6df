"""Every card of the step merge_adapters: the same laws for each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.adapters.config import MergeAdaptersConfig
from lfm_tasks.reuse.adapters.factors import Factors
from lfm_tasks.reuse.adapters.kernels import Layer

NAMES = [card.name for card in methods_of("merge_adapters")]
DIRECT = [name for name in NAMES if not METHODS[name].function.searched]
EVERYTHING = {"density": 1, "drop_rate": 0}
"""Values with which a method changes nothing of an adapter."""
SHAPES = [(16, 16), (8, 20), (20, 8), (3, 40)]


def has(name: str, option: str) -> bool:
    return option in METHODS[name].config_class.model_fields


CASES = [(name, space) for name in DIRECT for space in (("product", "factors") if has(name, "space") else (None,))]
cases = pytest.mark.parametrize(("name", "space"), CASES)


def layer(shape=(16, 16), ranks=(4, 4, 4), dtype=torch.float32) -> Layer:
    generator = torch.Generator().manual_seed(3)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    return Layer("layer", tuple(Factors(draw(rank, shape[1]), draw(shape[0], rank)) for rank in ranks), tuple("abc")[: len(ranks)])


def merge(name: str, space: str | None, one: Layer, rank: int = 16, **values) -> Factors:
    """Of a rank that leaves everything in."""
    values = {"weights": [1.0] * len(one.factors), "rank": rank, "space": space} | values
    config = METHODS[name].config_class(**{option: value for option, value in values.items() if has(name, option)})
    return METHODS[name].function.kernel(one, config)


def same(found: Factors, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.product(), expected, atol=1e-4, rtol=1e-4)


@cases
def test_every_shape_and_precision_gives_finite_factors_of_the_rank(name, space):
    for shape in SHAPES:
        for dtype in (torch.float32, torch.float64):
            for rank, most in ((0, 4), (2, 2)):
                merged = merge(name, space, layer(shape, dtype=dtype), rank=rank)
                assert merged.shape == shape and merged.down.dtype == merged.up.dtype == dtype
                assert merged.down.isfinite().all() and merged.up.isfinite().all() and 0 < merged.kept <= 1 + 1e-6
                assert merged.rank <= (12 if name == "lora_cat" else most)


@cases
def test_one_adapter_is_itself(name, space):
    alone = layer(ranks=(5,))
    same(merge(name, space, alone, **EVERYTHING), alone.factors[0].product())


@cases
def test_adapters_that_change_nothing_give_one_that_changes_nothing(name, space):
    one = layer()
    idle = replace(one, factors=tuple(replace(factors, up=torch.zeros_like(factors.up)) for factors in one.factors))
    merged = merge(name, space, idle)
    assert merged.rank >= 1 and not merged.product().any()


@cases
def test_the_order_of_the_adapters_does_not_matter(name, space):
    one = layer()
    turned = replace(one, factors=one.factors[::-1], keys=one.keys[::-1])
    same(merge(name, space, turned, weights=[3, 2, 1]), merge(name, space, one, weights=[1, 2, 3]).product())


@cases
def test_adapters_are_borrowed(name, space):
    one = layer()
    before = [(factor.down.clone(), factor.up.clone()) for factor in one.factors]
    merge(name, space, one)
    assert all(torch.equal(a, f.down) and torch.equal(b, f.up) for (a, b), f in zip(before, one.factors, strict=True))


@cases
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
