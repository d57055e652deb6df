"""A decoder's forward pass in parts: no farther than what is looked at, or on from a layer whose input is known.

Rows are padded on the right and given without a mask: under causal attention no token sees the padding behind it. Every hook is gone
when a function or a block here is left, by an exception too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.decoder import Decoder

Start = tuple[int, Tensor]
"""A layer, and its input [rows, length, d]."""


class Enough(Exception):
    """Raised by a hook: the pass has shown what it was run for."""


@contextmanager
def told(tell: Callable[[int, Tensor], None], inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Inside the block a pass calls ``tell(place, tensor)`` with what each of ``inputs`` is given and each of ``outputs`` gives, whose
    places follow those of the inputs, as it comes to them, and raises :class:`Enough` behind the last; :func:`run` runs such a pass."""
    wanted, seen = len(inputs) + len(outputs), set[int]()

    def see(place: int, tensor: Tensor) -> None:
        tell(place, tensor)
        seen.add(place)
        if len(seen) == wanted:
            seen.clear()
            raise Enough

    def see_input(place: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(place, args[0] if args else kwargs["hidden_states"])

    def see_output(place: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(place, first(output))

    with ExitStack() as hooks:
        for place, module in enumerate(inputs):
            hooks.enter_context(module.register_forward_pre_hook(partial(see_input, place), with_kwargs=True))
        for place, module in enumerate(outputs, start=len(inputs)):
            hooks.enter_context(module.register_forward_hook(partial(see_output, place)))
        yield


@contextmanager
def watched(inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = ()) -> Iterator[list[Tensor]]:
    """Inside the block a pass fills the list, first with what ``inputs`` are given, then with what ``outputs`` give, as soon as it has all
    of them; it ends there, as in :func:`told`."""
    seen: dict[int, Tensor] = {}
    listed: list[Tensor] = []

    def keep(place: int, tensor: Tensor) -> None:
        seen[place] = tensor
        if len(seen) == len(inputs) + len(outputs):
            listed[:] = [seen[place] for place in range(len(seen))]
            seen.clear()

    with told(keep, inputs, outputs):
        yield listed


def until_seen(
    decoder: Decoder, input_ids: Tensor, inputs: Sequence[nn.Module] = (), outputs: Sequence[nn.Module] = (), start: Start | None = None
) -> list[Tensor]:
    """What ``inputs`` are given and ``outputs`` give, [rows, length, width] each; without gradients, nothing behind the last is run, and
    with a ``start`` nothing below it."""
    with torch.no_grad(), starting_at(decoder, *start) if start else nullcontext(), watched(inputs, outputs) as seen:
        run(decoder, input_ids)
    return seen


def run(decoder: Decoder, input_ids: Tensor) -> None:
    """A pass inside :func:`told` or :func:`watched`."""
    try:
        decoder.model(input_ids=input_ids.to(decoder.model.device), use_cache=False)
    except Enough:
        return


@contextmanager
def starting_at(decoder: Decoder, layer: int, hidden: Tensor) -> Iterator[None]:
    """Inside the block the model takes ``hidden`` [rows, length, d] for the input of ``layer``, whatever ids it is given; the layers
    below are not run. Masks, positions, the last norm and the head are the model's own code."""

    def given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})

    with ExitStack() as undo:
        for below in decoder.layers[:layer]:
            below.forward = _pass_on
            undo.callback(delattr, below, "forward")
        undo.enter_context(decoder.layers[layer].register_forward_pre_hook(given, with_kwargs=True))
        yield


class Endings:
    """Rows from a place of their own on, in the layers from one on up. Under causal attention what stands before does not depend on what
    is changed there: its keys and values are computed once, and a pass runs the endings alone."""

    def __init__(self, decoder: Decoder, layer: int, input_ids: Tensor, first: Tensor, last: Tensor) -> None:
        """``first`` and ``last`` [rows]: the places in ``input_ids`` [rows, length] where each row's ending begins, and of its last token.

        Layers below ``layer`` are not run again.
        """
        self.decoder, self.layer, device = decoder, layer, decoder.model.device
        input_ids, first, last = input_ids.to(device), first.to(device), last.to(device)
        hidden = until_seen(decoder, input_ids, inputs=[decoder.layers[layer]])[0]
        cache, before, nowhere = DynamicCache(), int(first.max()), torch.zeros_like(input_ids, dtype=torch.bool)
        with torch.no_grad(), starting_at(decoder, layer, hidden), logits_at(decoder.model, nowhere):
            decoder.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        self.past = [(one.keys[:, :, :before], one.values[:, :, :before]) for one in cache.layers[layer:]]
        self.places = first[:, None] + torch.arange(int((last - first).max()) + 1, device=device)
        self.inside = self.places <= last[:, None]
        """[rows, length of the longest ending]: False behind a row's last place."""
        self.input_ids, self.hidden = self.of(input_ids), self.of(hidden)
        self.seen = torch.cat([torch.arange(before, device=device) < first[:, None], torch.ones_like(self.inside)], 1)

    def of(self, values: Tensor) -> Tensor:
        """[rows, length, …] to the endings' places; what lies behind the last is a repetition of it."""
        places = self.places.clamp(max=values.shape[1] - 1).to(values.device)
        return values[torch.arange(len(values), device=values.device)[:, None], places]

    def logits(self, rows: Tensor | slice, asked: Tensor) -> Tensor:
        """[asked, vocabulary] of the endings of ``rows``, where ``asked`` [rows, length] is True, in row-major order."""
        past = [(keys[rows], values[rows]) for keys, values in self.past]
        cache = DynamicCache([past[0]] * self.layer + past)
        with starting_at(self.decoder, self.layer, self.hidden[rows]), logits_at(self.decoder.model, asked):
            return self.decoder.model(
                input_ids=self.input_ids[rows],
                attention_mask=self.seen[rows].long(),
                position_ids=self.places[rows],
                past_key_values=cache,
                use_cache=True,
            ).logits[0]


@contextmanager
def shifted(module: nn.Module, places: Tensor, shift: Tensor) -> Iterator[list[Tensor]]:
    """Inside the block ``module`` gives ``shift`` [rows, d] more at each row's place [rows]; differentiable by it.

    The list holds what the module itself gave there in the last pass, [rows, d].
    """
    seen: list[Tensor] = []

    def add(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tensor = first(output)
        rows = torch.arange(len(places), device=tensor.device)
        seen[:] = [tensor[rows, places].detach()]
        moved = tensor.index_put((rows, places), shift.to(tensor.dtype), accumulate=True)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    with module.register_forward_hook(add):
        yield seen


@contextmanager
def replaced(module: nn.Module, places: Tensor, values: Tensor) -> Iterator[None]:
    """Inside the block ``module`` gives ``values`` [rows, d] at each row's place [rows]."""

    def put(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tensor = first(output)
        patched = tensor.index_put((torch.arange(len(places), device=tensor.device), places), values.to(tensor.dtype))
        return (patched, *output[1:]) if isinstance(output, tuple) else patched

    with module.register_forward_hook(put):
        yield


def first(output: Any) -> Tensor:
    """Attention gives a tuple, whose first member is the hidden states; MLPs and layers give those alone."""
    return output[0] if isinstance(output, tuple) else output


def _pass_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states
