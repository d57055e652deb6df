"""Which earlier fact an edit runs into: the one whose key is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lfm_tasks.editing.keys import subject_rows
from lfm_tasks.editing.method import Editing
from lfm_tasks.errors import DataError
from lfm_tasks.facts.record import Fact


def nearest_key(editing: Editing, fact: Fact, earlier: Sequence[Fact], changed: Sequence[str]) -> dict[str, Any] | None:
    """Of ``earlier`` the fact whose bare prompt has the key with the largest cosine to ``fact``'s, at the first site among ``changed``
    weights, below which no edit was made. Nothing without any, or for a fact that has no key."""
    site = next((site for site in editing.decoder.sites if site.name in changed), None)
    if site is None or not earlier:
        return None
    try:
        (keys,) = subject_rows(editing, [fact, *earlier], ("",)).states(editing, [site.module])
    except DataError:
        return None
    cosines = torch.nn.functional.cosine_similarity(keys[:1, 0].double(), keys[1:, 0].double(), dim=1)
    place = int(cosines.argmax())
    return {"fact": earlier[place].id, "cosine": float(cosines[place]), "layer": site.layer}
