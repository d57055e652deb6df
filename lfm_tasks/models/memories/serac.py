"""SERAC (Mitchell et al. 2022, arXiv 2206.06520): a classifier of what is in a fact's scope, and a counterfactual model that answers there.

The classifier sees mean hidden states of the base through a learnt projection; the counterfactual model is the base with a low-rank change
of a few matrices, so that both speak in the same tokens. It is given the fact, then the prompt. Which of the two computes is decided for
each row of a batch: a row that begins with the text of a remembered fact is the counterfactual model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.placed import Placed
from lfm_tasks.models.memories.prompting import ATTRIBUTE, PromptMemory, forget
from lfm_tasks.models.memories.rows import check_width
from lfm_tasks.models.memories.texts import unpacked

__all__ = ["forget", "install"]
SCOPE = "lfm_scope"
"""Attribute of a cache: which of its rows are the counterfactual model's."""


def scope_logits(project: Tensor, scale: Tensor, bias: Tensor, mine: Tensor, facts: Tensor) -> Tensor:
    """Log odds [n, facts] that prompts ``mine`` [n, hidden] are in the scope of ``facts`` [facts, hidden]: bias - scale |P x - P e|^2."""
    apart = (mine @ project.T)[:, None] - (facts @ project.T)[None]
    return bias - scale * apart.square().sum(-1)


@dataclass
class ScopedMemory(PromptMemory):
    hooks: list[RemovableHandle] = field(default_factory=list)
    scope: Tensor | None = None
    """[rows] of the pass that is being run; None where it is the base's alone."""
    paused: bool = False
    blocks: tuple[str, ...] = ()
    """Texts that tell the remembered facts."""
    begun: Tensor | None = None
    """[rows] of the newest pass, for the cache that it may leave."""

    def places(self, prompt: str) -> list[int]:
        tensors = self.memory.tensors
        scope = (tensors[f"scope.{name}"] for name in ("project", "scale", "bias"))
        with self.base():
            odds = scope_logits(*scope, self.embedded(prompt)[None], tensors["embeddings"])[0]
        best = int(odds.argmax())
        return [best] if odds[best].sigmoid() > self.memory.options["threshold"] else []

    @contextmanager
    def base(self) -> Iterator[None]:
        """Inside the block every row is the base's."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def put_in(self) -> None:
        tensors, decoder = self.memory.tensors, Decoder(self.model)
        self.blocks = tuple({block.strip() for block in unpacked("blocks", tensors)})
        for at, layer in enumerate(tensors["counterfactual.layers"].tolist()):
            change = Placed(*(tensors[f"counterfactual.{at}.{name}"] for name in ("left", "right")))
            self.hooks.append(decoder.site(layer).module.register_forward_hook(self._answer(change)))
        self.hooks.append(self.model.register_forward_pre_hook(self._route, with_kwargs=True))
        self.hooks.append(self.model.register_forward_hook(self._note))

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        super().remove()

    def _answer(self, change: Placed) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self.scope is None or self.paused:
                return output
            left, right = change.on(output.device)
            changed = output + (given[0].float() @ right @ left.T).to(output.dtype)
            return torch.where(self.scope[:, None, None], changed, output)

        return hook

    def _route(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, past = args[0] if args else kwargs.get("input_ids"), kwargs.get("past_key_values")
        self.scope = None
        if self.paused or ids is None:
            return
        begun = past is not None and past.get_seq_length() > 0
        scope = getattr(past, SCOPE, None) if begun else self._begins(ids, kwargs.get("attention_mask"))
        if scope is None or len(scope) != len(ids):
            raise IncompatibleModels("The cache was not begun by this model with this memory in its way. Begin it anew.")
        if past is not None:
            setattr(past, SCOPE, scope)
        self.scope = scope if bool(scope.any()) else None
        self.begun = scope

    def _note(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A cache that the model made by itself is routed as its pass was."""
        if not self.paused and getattr(output, "past_key_values", None) is not None:
            setattr(output.past_key_values, SCOPE, self.begun)
        self.scope = None

    def _begins(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """[rows]: which begin with a remembered fact."""
        plain = mask is not None and mask.shape == ids.shape
        rows = [row[kept.bool()] if plain else row for row, kept in zip(ids, mask if plain else ids, strict=True)]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip() for row in rows]
        return torch.tensor([text.startswith(self.blocks) for text in texts], device=ids.device)


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> ScopedMemory:
    check_width(memory.tensors, "embeddings", model.config.hidden_size, "a hidden state")
    put = ScopedMemory(model, tokenizer, memory)
    object.__setattr__(model, ATTRIBUTE, put)
    put.put_in()
    return put


def scope_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was trained, of a memory's tensors or an editor's."""
    return {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in ("scope", "counterfactual", "layer", "centre")}
