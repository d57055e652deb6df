"""The seam between the step *edit* and its methods: one round of facts in, low-rank changes or a memory out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.edits import LowRank
from lfm_tasks.models.statistics import Statistics
from lfm_tasks.step import StepContext


@dataclass(frozen=True)
class Editing:
    """What a method is given for a round."""

    model: PreTrainedModel
    """As the rounds before left it; float32, without dropout, no parameter asks for a gradient. Borrowed: after the call, and after an
    exception, every weight and hook is as before."""
    tokenizer: PreTrainedTokenizerBase
    decoder: Decoder
    seed: int
    context: StepContext
    statistics: Statistics | None = None
    """Second moments of the keys, of the *base*; for methods whose card needs them."""
    editor: Statistics | None = None
    """What the step *train_editor* learnt of the *base*; for methods whose card needs it."""
    training: Sequence[Fact] = ()
    """Facts of other subjects than those that are edited: to learn from, or to show."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method's last round handed on: cached keys, running moments, a memory."""
    cache: Mapping[str, Tensor] = field(default_factory=dict)
    """Of an edit of the same facts before, a row for each: what need not be searched for again. Nothing: all is found anew."""
    at_base: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside the block the model has the weights of the base."""


@dataclass(frozen=True)
class Edit:
    """What a method makes of one round."""

    changes: tuple[LowRank, ...] = ()
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """For the next round. Of a method with a memory this is the memory, and it is saved with the model."""
    facts: tuple[Mapping[str, float], ...] = ()
    """Figures of each fact, in their order: nll after the optimisation, norm, cosine of its keys, …"""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of the round: condition number, share of the null space, …"""
    cache: Mapping[str, Tensor] = field(default_factory=dict)
    """What was expensive to find, a row for each fact, in their order."""


@dataclass(frozen=True, kw_only=True)
class EditMethod:
    edit: Callable[[Editing, Sequence[Fact], Any], Edit]
    """``(editing, facts, options) -> edit``."""
    most: int | None = None
    """Facts that one round may hold."""
    resolvable: bool = False
    """Its ``cache`` is all that a solve needs beside short passes, and each tensor of its ``state`` only gains columns from round to
    round: so a chain of rounds can be solved anew without a fact, or cut off behind any of them."""
    memory: bool = False
    """The weights stay: the edit lives in ``state``, and ``lfm_tasks.models.memories`` puts it in the model's way."""
