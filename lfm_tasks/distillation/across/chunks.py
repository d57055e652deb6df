"""Two tokenizations of one text: the chunks between the places where both have a boundary.

A token is ``(start, end)`` in the characters of the text, as fast tokenizers give it. Of a character that is several tokens each has
the character's whole span, and a token may begin inside of one that another ended in: a boundary is only where no later token
reaches back over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Chunks:
    """``ours[k]`` and ``theirs[k]`` are the chunk of the token k of either side; chunks are numbered from 0 in the text's order.

    Tokens behind the last common boundary, where one side's text was cut, have the number ``count``: no chunk.
    """

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]
    count: int


def aligned(ours: Spans, theirs: Spans) -> Chunks:
    """The finest chunks that are whole tokens on both sides and the same characters."""
    cuts = np.intersect1d(boundaries(ours), boundaries(theirs))
    return Chunks(_places(ours, cuts), _places(theirs, cuts), len(cuts))


def boundaries(spans: Spans) -> NDArray[np.int64]:
    """Ends that no later token reaches back over, ascending."""
    if not len(spans):
        return np.zeros(0, np.int64)
    starts, ends = np.asarray(spans, np.int64).T
    later = np.minimum.accumulate(np.append(starts[1:], ends.max())[::-1])[::-1]
    return np.unique(ends[later >= np.maximum.accumulate(ends)])


def _places(spans: Spans, cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.maximum.accumulate(np.asarray([end for _, end in spans], np.int64))
    return np.searchsorted(cuts, ends)
