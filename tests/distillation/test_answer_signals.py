"""Top-k log-probabilities of an API: a distribution of k + 1 outcomes at each place, whichever call gave them."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.distillation.black_box.reply import Garbage, parse_reply
from lfm_tasks.distillation.black_box.signals import tail
from tests.distillation.conftest import rows_of


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_signals_hold_every_token_with_its_top_k_and_the_rest(ask, server, api):
    server.answer = lambda text: "the answer is 7"
    outcome = ask(3, {"top_logprobs": 4, "api": api})
    path = outcome.outputs["signals"].path
    found = pq.read_table(path / "signals.parquet").to_pylist()
    assert {row["request_sha256"] for row in found} == {row["request_sha256"] for row in rows_of(outcome)}
    for row in found:
        assert "".join(row["tokens"]) == "the answer is 7" and row["logprob"] == [math.log(0.5)] * 4
        assert [tokens[0] for tokens in row["top_tokens"]] == row["tokens"]
        for top, rest in zip(row["top_logprobs"], row["tail"], strict=True):
            assert math.fsum(map(math.exp, [*top, rest])) == pytest.approx(1, abs=1e-15) and rest == pytest.approx(math.log(0.5**4))
    described = json.loads((path / "signals.json").read_text())
    assert (described["answers"], described["places"]) == (3, 12)
    assert "signals" not in ask(3, {"api": api}).outputs


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=12), st.integers(1, 12), st.lists(st.floats(0.001, 1), min_size=12, max_size=12))
def test_the_divergence_with_the_tail_is_at_most_that_of_all_tokens(teacher, k, student):
    p = [value / sum(teacher) for value in teacher]
    q = [value / sum(student[: len(p)]) for value in student[: len(p)]]
    k = min(k, len(p) - 1)
    p_tail, q_tail = (math.exp(tail(map(math.log, one[:k]))) for one in (p, q))
    buckets = zip([*p[:k], p_tail], [*q[:k], q_tail], strict=True)
    assert p_tail == pytest.approx(sum(p[k:]), abs=1e-12)
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert sum(a * math.log(a / b) for a, b in buckets) <= divergence + 1e-9


def test_a_tail_that_rounding_leaves_nothing_for_is_empty():
    assert tail([math.log(0.5), math.log(0.5) + 1e-9]) == -math.inf


@pytest.mark.parametrize("value", ['"high"', "0.7", "NaN", "null"])
def test_log_probabilities_that_are_none_are_garbage(value):
    token = f'{{"token": "a", "logprob": {value}, "top_logprobs": [{{"token": "a", "logprob": {value}}}]}}'
    body = f'{{"choices": [{{"message": {{"content": "a"}}, "logprobs": {{"content": [{token}]}}}}]}}'
    with pytest.raises(Garbage, match="log-probabilities"):
        parse_reply(body, "chat")
