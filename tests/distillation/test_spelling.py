"""Where an API's tokens lie in its answer: exact, or nowhere."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lfm_tasks.distillation.across.spelling import spelled


def pieces(said: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(said)), len(said)]
    return [said[a:b] for a, b in pairwise(edges)]


def shown(piece: bytes, style: str) -> str:
    """A token's text, as APIs give it: those that hold a part of a character in the given ``style``."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        escaped = "".join(f"\\x{byte:02x}" for byte in piece)
        return {"replaced": piece.decode(errors="replace"), "bytes": f"bytes:{escaped}", "escaped": escaped, "empty": ""}[style]


STYLES = st.sampled_from(["replaced", "bytes", "escaped", "empty"])
FEW = st.text("ab é→😀", min_size=1, max_size=14)
"""Of few characters, so that places are easily confused."""
CUTS = st.sets(st.integers(1, 60), max_size=24)


@given(st.one_of(FEW, st.text(min_size=1, max_size=10)), CUTS, STYLES, st.sampled_from(["", "<|im_end|>", "\n", "a b"]))
@example("é a a", {1, 2, 4}, "replaced", "\n")
def test_what_tokens_of_one_span_stand_for_is_that_span(text, cuts, style, behind):
    """``behind``: what ended the answer, as a token of its own: it is not in the text, which may end as it begins."""
    assume(not behind or behind not in text)
    tokens = pieces(text.encode(), cuts)
    spans = spelled([*(shown(token, style) for token in tokens), *([behind] if behind else [])], text)
    tokens.append(behind.encode())
    start = 0
    for (first, last), same in groupby(spans):
        stop = start + len(list(same))
        assert b"".join(tokens[start:stop]).decode() == text[first:last]
        start = stop
    assert [span[0] for span in spans[:1]] in ([], [0]) and all(a == b or a[1] == b[0] for a, b in pairwise(spans))


@given(FEW, CUTS)
def test_every_token_that_has_a_text_has_its_place_where_all_have(text, cuts):
    ends = [0, *(cut for cut in sorted(cuts) if cut < len(text)), len(text)]
    spans = list(pairwise(ends))
    assert spelled([text[a:b] for a, b in spans], text) == spans


@pytest.mark.parametrize(
    ("tokens", "text", "spans"),
    [
        (["caf", "\ufffd", "\ufffd", " is", "<|im_end|>"], "café is", [(0, 3), (3, 4), (3, 4), (4, 7)]),
        (["a", "bytes: \\xf0\\x9f", "bytes:\\x98\\x80", "b"], "a 😀b", [(0, 1), (1, 3), (1, 3), (3, 4)]),
        (["a", "", "é", "f"], "aéf", [(0, 1), (1, 2), (1, 2), (2, 3)]),
        (["ha", "\ufffd", "\ufffd", "ha", "\ufffd", "\ufffd", "ha"], "haéhahaéha", [(0, 2), *[(2, 8)] * 5, (8, 10)]),
        (["hi", "\ufffd", "\ufffd"], "hi😀", [(0, 2)]),
        (["Sure", ".\n"], "Sure.", [(0, 4)]),
        (["<think>", "hm", "</think>", "yes"], "yes", []),
        (["The", "end"], "The end", [(0, 3)]),
        ([], "text", []),
    ],
    ids=["replaced", "escaped", "empty", "uncertain", "cut", "straddling", "thoughts", "spaces lost", "nothing"],
)
def test_places(tokens, text, spans):
    assert spelled(tokens, text) == spans
