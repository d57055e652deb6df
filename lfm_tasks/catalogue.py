"""All method cards, gathered from the areas. Light to import."""

from __future__ import annotations

from lfm_tasks.distillation.cards import CARDS as DISTILLATION
from lfm_tasks.distillation.data_free.cards import CARDS as DATA_FREE
from lfm_tasks.distillation.texts.cards import CARDS as TEACHERS_TEXTS
from lfm_tasks.editing.cards import CARDS as EDITING
from lfm_tasks.editing.hyper.cards import CARDS as HYPER_EDITS
from lfm_tasks.editing.memory.cards import CARDS as MEMORIES
from lfm_tasks.editing.tuned.cards import CARDS as TUNED_EDITS
from lfm_tasks.evaluation.cards import CARDS as ENSEMBLES
from lfm_tasks.registry import Card, Registry
from lfm_tasks.reuse.alignment.cards import CARDS as ALIGNMENT
from lfm_tasks.reuse.cards import CARDS as REUSE
from lfm_tasks.reuse.mixtures.cards import CARDS as MIXTURES
from lfm_tasks.statistics.cards import CARDS as STATISTICS
from lfm_tasks.tuning.cards import CARDS as TUNING

METHODS: Registry[Card] = Registry("method")
AREAS = (
    TUNING,
    DISTILLATION,
    TEACHERS_TEXTS,
    DATA_FREE,
    STATISTICS,
    REUSE,
    MIXTURES,
    ENSEMBLES,
    ALIGNMENT,
    EDITING,
    TUNED_EDITS,
    HYPER_EDITS,
    MEMORIES,
)
for _card in (card for cards in AREAS for card in cards):
    METHODS.add(_card)


def methods_of(step: str) -> list[Card]:
    """The cards of one step, in the order of their declaration."""
    return [card for card in METHODS if card.step == step]
