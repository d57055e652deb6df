"""Keyed randomness: a seed per purpose, from the run's seed and a name, so that order and sharding change nothing."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the purpose that ``names`` spell, e.g. ``derive_seed(7, "dropout", step, micro_batch)``."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
