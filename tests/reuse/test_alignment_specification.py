"""Groups of units found by following axes: permuting any of them changes weights and no output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lfm_tasks.errors import InvalidInput
from lfm_tasks.reuse.alignment.axes import Atom, cut, fix, resolve, unite
from tests.networks import mlp, network, outputs, permute, shuffled, specified, state, with_state

GROUPS = {
    "mlp": [16, 12],
    "cnn": [6, 10, 12],
    # residual stream and pooler; of each layer heads, two head dimensions and hidden units
    "bert": [16, 16, *2 * [4, 4, 4, 24]],
    # key-value groups, query heads in each of them, dimensions of values (rotary ones are fixed)
    "llama": [16, *2 * [2, 2, 4, 24]],
    "gpt2": [16, *2 * [4, 4, 64]],
    "vit": [16, *2 * [4, 4, 4, 24]],
    "resnet": [8, 8, 12, 12, 12],
}


@pytest.mark.parametrize("name", GROUPS)
def test_any_places_of_the_units_give_the_same_function(name):
    model, inputs = network(name)
    found = specified(model, inputs)
    assert sorted(found.groups.values()) == sorted(GROUPS[name])
    tensors = state(model)
    moved = permute(found, tensors, shuffled(found))
    grouped = {tensor for holders in found.holders().values() for tensor, _ in holders} & tensors.keys()
    assert {tensor for tensor in tensors if not torch.equal(tensors[tensor], moved[tensor])} == grouped
    torch.testing.assert_close(outputs(with_state(name, moved), inputs), outputs(model, inputs), atol=2e-5, rtol=1e-4)


def test_query_heads_move_with_the_keys_and_values_that_they_share():
    model, inputs = network("llama")
    found = specified(model, inputs)
    query, key, value = (found.axes[f"model.layers.1.self_attn.{name}_proj.weight"][0] for name in "qkv")
    assert query[0] == key[0] == value[0] and query[0][1] == 2
    assert [size for _, size in query] == [2, 2, 4] and query[2] == (None, 4)


def test_all_of_a_residual_network_is_aligned_but_inputs_and_classes():
    model, inputs = network("cnn")
    found = specified(model, inputs)
    stem = found.dims("norm.weight")[0]
    assert found.dims("stem.weight")[0] == found.dims("outer.weight")[0] == stem == found.dims("head.0.weight")[1]
    assert found.dims("stem.weight")[1:] == ((None, 2), (None, 3), (None, 3)) and found.dims("head.2.bias") == ((None, 3),)
    assert found.unknown == ()


def test_what_is_named_fixed_stays_and_takes_its_group_with_it():
    model, inputs = network("bert")
    found = specified(model, inputs, fixed=("*embeddings*",))
    assert sorted(found.groups.values()) == sorted([16, *2 * [4, 4, 4, 24]])
    assert all(group is None for group, _ in found.dims("bert.encoder.layer.1.output.LayerNorm.weight"))
    with pytest.raises(InvalidInput, match="fixed: no tensor of the model is named 'nothing.*'. Its first: bert.embeddings"):
        specified(model, inputs, fixed=("nothing.*",))


class Ordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(self.first(x).cumsum(-1))


def test_a_model_that_cannot_be_permuted_is_refused_with_the_operations_not_followed():
    with pytest.raises(InvalidInput, match="No units of this model can be permuted .* not understood: cumsum. Merge such models without"):
        specified(Ordered(), torch.randn(3, 4))
    with pytest.raises(InvalidInput, match="not understood: none"):
        specified(mlp((4, 3)), torch.randn(3, 4))


def test_axes_split_where_they_are_viewed_and_are_one_where_they_meet():
    heads, other = Atom(12), (Atom(3), Atom(4))
    outer, inner = cut((heads,), [2, 6])
    unite((heads,), other)
    assert resolve((heads,)) == outer + inner
    assert all(atom.fixed for atom in resolve((heads,)) + resolve(other)), "2 x 6 and 3 x 4 have no common refinement"
    whole, parts = Atom(12), (Atom(2), Atom(6))
    unite((whole,), parts)
    assert resolve((whole,)) == resolve(parts) and not resolve((whole,))[0].fixed
    assert fix((whole,)) and all(atom.fixed for atom in resolve(parts)) and not fix(parts)
