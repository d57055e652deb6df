"""A pass in parts gives what the whole pass gives, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.partial import Endings, shifted, starting_at, until_seen
from tests.located import make, opened, same, state

IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])


@pytest.fixture(params=["llama", "gpt2"])
def decoder(request, tmp_path):
    return Decoder(opened(make(tmp_path, request.param)))


def test_a_pass_shows_what_the_whole_one_does_and_goes_no_farther(decoder):
    entered = []
    handles = [layer.register_forward_pre_hook(lambda module, _: entered.append(module)) for layer in decoder.layers]
    hidden, keys, out = until_seen(decoder, IDS, [decoder.layers[1], decoder.site(2).module], [decoder.layers[1]])
    for handle in handles:
        handle.remove()
    states = decoder.model(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(hidden, states[1]) and torch.equal(out, states[2])
    assert keys.shape == (2, 5, decoder.site(2).matrix.shape[1])
    assert entered == list(decoder.layers[:3])


def test_on_from_a_layer_is_the_whole_pass(decoder):
    expected = decoder.model(IDS).logits
    for layer in range(len(decoder.layers)):
        hidden = until_seen(decoder, IDS, [decoder.layers[layer]])[0]
        with starting_at(decoder, layer, hidden):
            torch.testing.assert_close(decoder.model(input_ids=torch.zeros_like(IDS), use_cache=False).logits[0], expected[0])
            torch.testing.assert_close(decoder.model(input_ids=torch.zeros_like(IDS), use_cache=False).logits[1, :3], expected[1, :3])


def test_padding_behind_a_row_is_seen_by_nobody(decoder):
    alone = decoder.model(IDS[1:, :3]).logits
    torch.testing.assert_close(decoder.model(IDS, use_cache=False).logits[1:, :3], alone)


def test_a_shift_is_one_of_the_output_at_one_place(decoder):
    places, shift = torch.tensor([3, 1]), torch.randn(2, decoder.model.config.hidden_size)
    for module in (decoder.layers[2], decoder.site(2).module, decoder.attention(2)):
        clean = until_seen(decoder, IDS, outputs=[module])[0]
        with shifted(module, places, shift) as seen:
            moved = until_seen(decoder, IDS, outputs=[module])[0]
        expected = clean.clone()
        expected[0, 3] += shift[0]
        expected[1, 1] += shift[1]
        assert torch.equal(moved, expected)
        assert torch.equal(seen[0], torch.stack([clean[0, 3], clean[1, 1]]))


def test_nothing_is_left_behind_by_an_exception(decoder):
    before = state(decoder.model)
    with pytest.raises(RuntimeError, match="stop"), starting_at(decoder, 2, torch.zeros(2, 5, 24)):
        raise RuntimeError("stop")
    with pytest.raises(IndexError):
        until_seen(decoder, torch.tensor([[10_000]]), [decoder.layers[1]])
    assert same(decoder.model, before)


def test_endings_are_the_whole_pass_from_a_place_of_each_row_on(decoder):
    """Also where a row is all ending, and where a row is shorter than the others."""
    expected = decoder.model(IDS).logits
    for layer in (0, 2):
        for first in ([3, 1], [0, 2], [0, 0]):
            endings = Endings(decoder, layer, IDS, torch.tensor(first), torch.tensor([4, 2]))
            assert endings.input_ids.shape[1] == max(5 - first[0], 3 - first[1])
            wanted = torch.cat([expected[0, first[0] :], expected[1, first[1] : 3]])
            torch.testing.assert_close(endings.logits(slice(None), endings.inside), wanted, atol=1e-5, rtol=1e-5)
            second = endings.logits(torch.tensor([1]), endings.inside[1:])
            torch.testing.assert_close(second, expected[1, first[1] : 3], atol=1e-5, rtol=1e-5)
