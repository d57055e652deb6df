"""Put a memory in a model's way, and take it out again.

Weights stay as they are. GRACE, WISE and T-Patcher decide for every token by what one layer is given there and nothing else: so a row
is answered alike alone and in a batch, padded or not, with a cache and without. In-context memories (IKE, ICE, SERAC, MemPrompt) do not
touch the model's computation at all: they offer a prompt in the place of the given one, and who asks the model asks for it by
:func:`~lfm_tasks.models.memories.prompting.rewrite`. Of a trained SERAC a row that begins with a fact that it put there is the
counterfactual model's; any other is the base's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.errors import ConfigError, IncompatibleModels, unknown_name
from lfm_tasks.models.memories import grace, neurons, prompting, serac, wise
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.texts import unpacked

KINDS: dict[str, ModuleType] = {
    "grace": grace,
    "wise": wise,
    "t_patcher": neurons,
    "ike": prompting,
    "ice": prompting,
    "mem_prompt": prompting,
    "serac": prompting,
    "serac_trained": serac,
}
"""Each has ``install(model, memory, tokenizer)``, which returns what removes it, and ``forget(tensors, place)``."""


@contextmanager
def installed(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> Iterator[PreTrainedModel]:
    """Inside the block ``model`` has the memory; it is as before afterwards, whatever happens."""
    handle = install(model, memory, tokenizer)
    try:
        yield model
    finally:
        handle.remove()


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase):
    """Give ``model`` the memory; what is returned takes it out by ``remove()``.

    Raises :class:`IncompatibleModels` for a method that this version does not know and for tensors that do not fit the model.
    """
    return _kind(memory).install(model, memory, tokenizer)


def remembered(memory: Memory) -> list[str]:
    """Ids of the facts, in the order in which they were edited."""
    return unpacked("ids", memory.tensors)


def forget(memory: Memory, fact: str) -> Memory:
    """The memory as if the fact had never been edited, any of them. Raises :class:`ConfigError` for a fact that it does not hold."""
    known = remembered(memory)
    if fact not in known:
        raise ConfigError(unknown_name("fact", fact, known))
    for place in reversed([place for place, one in enumerate(known) if one == fact]):
        memory = replace(memory, tensors=_kind(memory).forget(memory.tensors, place))
    return memory


def _kind(memory: Memory) -> ModuleType:
    if memory.method not in KINDS:
        raise IncompatibleModels(f"{unknown_name('kind of memory', memory.method, KINDS)} Edit the model again.")
    return KINDS[memory.method]
