"""Every card of the step align, on networks of several kinds: the same laws for each."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.reuse.alignment.activations import correlate
from lfm_tasks.reuse.alignment.config import AlignConfig
from lfm_tasks.reuse.alignment.pair import Pair
from tests.networks import call, network, outputs, permute, shuffled, specified, state, with_state

NAMES = [card.name for card in methods_of("align")]
EXACT = [name for name in NAMES if METHODS[name].function.exact]
NETWORKS = ["mlp", "cnn", "resnet", "bert", "llama", "gpt2"]
cases = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in NAMES for kind in ("mlp", "cnn", "bert")])


def batches(kind: str):
    """Rows that differ, of the example's shape."""
    _, inputs = network(kind)
    generator = torch.Generator().manual_seed(3)
    for _ in range(6):
        if isinstance(inputs, dict) and "input_ids" in inputs:
            yield {"input_ids": torch.randint(40, inputs["input_ids"].shape, generator=generator)}
        else:
            shape = inputs["pixel_values"].shape if isinstance(inputs, dict) else inputs.shape
            yield {"pixel_values": torch.randn(shape, generator=generator)}


def pair_of(kind: str, tensors) -> Pair:
    """The network of seed 0 as reference, and one of the same kind with ``tensors``."""
    reference, inputs = network(kind)
    found, model = specified(reference, inputs), with_state(kind, tensors)

    def correlations(*, joint: bool):
        def run(one, batch):
            return call(one, dict(batch) if isinstance(inputs, dict) else batch["pixel_values"])

        return correlate(found, (reference, model), run, batches(kind), joint=joint)

    return Pair(found, reference, state(reference), tensors, correlations, seed=0)


def aligned(name: str, pair: Pair, **options) -> dict[str, torch.Tensor]:
    result = METHODS[name].function.align(pair, METHODS[name].config_class(**options))
    return {one: result.tensor(one) if one in pair.specification.axes else tensor for one, tensor in pair.model.items()}


@cases
def test_a_model_with_itself_is_itself(name, kind):
    reference, _ = network(kind)
    found = aligned(name, pair_of(kind, state(reference)), **({"regularization": 0} if name == "transport" else {}))
    for one, tensor in state(reference).items():
        torch.testing.assert_close(found[one], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, one=one: f"{one}: {text}")


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", EXACT)
def test_a_permuted_copy_is_recovered_exactly(name, kind):
    reference, inputs = network(kind)
    original = state(reference)
    found = specified(reference, inputs)
    recovered = aligned(name, pair_of(kind, permute(found, original, shuffled(found))))
    assert [one for one in original if not torch.equal(recovered[one], original[one])] == []


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", EXACT)
def test_another_model_computes_the_same_afterwards(name, kind):
    other, inputs = network(kind, seed=7)
    pair = pair_of(kind, state(other))
    moved = aligned(name, pair)
    torch.testing.assert_close(outputs(with_state(kind, moved), inputs), outputs(other, inputs), atol=2e-5, rtol=1e-4)
    assert any(not torch.equal(moved[one], tensor) for one, tensor in state(other).items())


@cases
def test_models_are_borrowed_and_equal_arguments_give_equal_bits(name, kind):
    pair = pair_of(kind, state(network(kind, seed=7)[0]))
    before = [{one: tensor.clone() for one, tensor in tensors.items()} for tensors in (pair.reference, pair.model)]
    first, second = aligned(name, pair), aligned(name, pair)
    for tensors, copies in zip((pair.reference, pair.model), before, strict=True):
        assert all(torch.equal(tensors[one], copies[one]) for one in tensors)
    for one, tensor in first.items():
        assert torch.equal(tensor, second[one]) and tensor.isfinite().all()
        assert (tensor.shape, tensor.dtype) == (pair.model[one].shape, pair.model[one].dtype)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    assert card.area == "reuse" and card.access[0] == "weights" and ("activations" in card.access) == (card.function.data != "ignored")
    assert card.title and card.preconditions and card.cost and any(character.isdigit() for character in card.paper)
    assert type(AlignConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        AlignConfig(method=name, options={"nonsense": 1})
