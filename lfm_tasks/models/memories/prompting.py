"""Memories that are put before the prompt: IKE, ICE, MemPrompt, SERAC without training; trained, it has more beside (``serac.py``).

The model computes as ever: a plain call of it is a call of the base. Who asks it a question asks :func:`rewrite` (text) or
:func:`rewrite_ids` (tokens) first for the prompt that stands in for the given one. Both put text *before* the prompt and leave it as it is,
so a target after it stays where it was, counted from the end; a prompt that is nothing like what is remembered stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.rows import check_width, without_row
from lfm_tasks.models.memories.texts import unpacked
from lfm_tasks.models.partial import until_seen

ATTRIBUTE = "prompt_memory"
ROOM = 64
"""Tokens of the context that are left to the answer."""


def rewrite(model: nn.Module, prompt: str) -> str:
    """What to ask in the place of ``prompt``; ``prompt`` itself of a model without such a memory."""
    memory = getattr(model, ATTRIBUTE, None)
    return memory.prefix(prompt) + prompt if memory else prompt


def rewrite_ids(model: nn.Module, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """:func:`rewrite` of a prompt in tokens: the tokens of what is put before, after the special token that may begin ``ids``, then
    ``ids`` as they are."""
    memory = getattr(model, ATTRIBUTE, None)
    return memory.before(ids) if memory else ids


@dataclass
class PromptMemory:
    """A memory that an opened model has."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    memory: Memory

    def prefix(self, prompt: str) -> str:
        """What stands before ``prompt``: the remembered facts whose prompts are likest to it, the likest last. Demonstrations of a fact
        are left out, the farthest first, where there is no room for them."""
        tensors = self.memory.tensors
        if not len(tensors["embeddings"]):
            return ""
        blocks = [unpacked("blocks", tensors)[place] for place in self.places(prompt)]
        lines = [line for block in blocks for line in block.split(SEPARATOR)]
        while len(lines) > len(blocks) and not self._fits("".join(lines) + prompt):
            lines = lines[1:]
        (before,) = unpacked("before_prompt", tensors)
        return "".join(lines) + before if lines and self._fits("".join(lines) + prompt) else ""

    def places(self, prompt: str) -> list[int]:
        """Of the facts that ``prompt`` is in the scope of, the likest last."""
        tensors, options = self.memory.tensors, self.memory.options
        likeness = tensors["embeddings"] @ self.embedded(prompt)
        named = [options["scope"] == "likeness" or subject.casefold() in prompt.casefold() for subject in unpacked("subjects", tensors)]
        found = [place for place in likeness.argsort(stable=True).tolist() if named[place] and likeness[place] >= options["threshold"]]
        return found[-options["most"] :]

    def embedded(self, prompt: str) -> Tensor:
        """[hidden]"""
        tensors = self.memory.tensors
        return embed(self.model, self.tokenizer, [prompt], int(tensors["layer"]), tensors["centre"])[0]

    def before(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        text = self.prefix(self.tokenizer.decode(ids, skip_special_tokens=True))
        start = 1 if len(ids) and ids[0] == self.tokenizer.bos_token_id else 0
        added = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return np.concatenate([ids[:start], np.asarray(added, ids.dtype), ids[start:]])

    def _fits(self, text: str) -> bool:
        return len(self.tokenizer(text)["input_ids"]) + ROOM <= self.model.config.max_position_embeddings

    def remove(self) -> None:
        delattr(self.model, ATTRIBUTE)


SEPARATOR = "\x1e"
"""Between the demonstrations of a fact and the fact."""


def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], layer: int, centre: Tensor | None = None) -> Tensor:
    """[texts, hidden], on the CPU: the mean over the tokens of what ``layer`` gives, less ``centre`` and of length 1; without ``centre`` as
    it is.

    A text's first token is left out where it has others: its states are abnormally large, whatever it is.
    """
    rows, decoder = [], Decoder(model)
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        ((states,),) = until_seen(decoder, ids, outputs=[decoder.layers[layer]])
        rows.append((states[1:] if len(states) > 1 else states).float().mean(0).cpu())
    found = torch.stack(rows)
    return found if centre is None else torch.nn.functional.normalize(found - centre, dim=-1)


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> PromptMemory:
    check_width(memory.tensors, "embeddings", model.config.hidden_size, "a hidden state")
    put = PromptMemory(model, tokenizer, memory)
    object.__setattr__(model, ATTRIBUTE, put)
    return put


def forget(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return without_row(tensors, place, ("embeddings",), ("ids", "blocks", "subjects"))
