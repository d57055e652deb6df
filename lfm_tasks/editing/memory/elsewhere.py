"""Prompts that no edit shall touch, and what a module is given by them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lfm_tasks.editing.likelihood import prompt_batch
from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.partial import until_seen

PLAIN = (
    "The weather was fine and we went for a walk along the river.",
    "Add the flour to the bowl and stir until the dough is smooth.",
    "What should I do if my computer does not start?",
    "The function returns the sum of the two numbers.",
    "She closed the door, sat down and opened the letter.",
    "In the second half of the year sales rose by four per cent.",
)
"""Sentences about nothing in particular: their mean state is a centre to take directions from, and no edit shall touch them."""


def elsewhere(editing: Editing, facts: Sequence[Fact]) -> list[str]:
    """Prompts that no edit shall touch: plain sentences, those of the training facts, and what the facts name as their locality. The
    facts' neighbours are not among them: they are what locality is measured on."""
    trained = [text for fact in editing.training for text in (fact.text, *fact.paraphrases, *(probe.prompt for probe in fact.neighbours))]
    return list(dict.fromkeys([*PLAIN, *trained, *(probe.prompt for fact in facts for probe in fact.locality)]))


def tokens_elsewhere(editing: Editing, module: nn.Module, facts: Sequence[Fact]) -> Tensor:
    """[tokens, in]: what ``module`` is given at the tokens of :func:`elsewhere`, without the first of each prompt."""
    ids, given = prompt_batch(editing.tokenizer, elsewhere(editing, facts))
    given[:, 0] = False
    return until_seen(editing.decoder, ids, [module])[0][given]
