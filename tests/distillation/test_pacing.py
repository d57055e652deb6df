"""The laws of waiting, on a clock that only the test moves."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_tasks.distillation.black_box.budget import Budget
from lfm_tasks.distillation.black_box.pacing import TokenBucket, backoff, retry_after

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@settings(deadline=None)
@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 6),
    steps=st.lists(st.tuples(st.floats(0, 3), st.sampled_from([0, 0, 0, 2.5])), min_size=1, max_size=40),
)
def test_no_window_holds_more_than_the_burst_and_the_rate_allow(rate, burst, steps):
    clock = Clock()
    bucket, sent, held_until = TokenBucket(rate, burst, clock), [], 0.0
    for gap, held in steps:
        clock.sleep(gap)
        if held:
            bucket.hold(held)
            held_until = clock() + held
        bucket.turn(clock.sleep)
        assert clock() >= held_until
        sent.append(clock())
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - sent[first]) + 1e-6


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 6))
def test_nobody_waits_longer_than_needed(rate, burst):
    clock = Clock()
    bucket, sent = TokenBucket(rate, burst, clock), []
    for _ in range(20):
        bucket.turn(clock.sleep)
        sent.append(clock() - 100)
    assert sent == pytest.approx([max(0, (n - burst + 1) / rate) for n in range(20)], abs=1e-6)


def test_those_who_come_at_once_are_given_moments_one_after_the_other_and_no_rate_is_no_wait():
    clock = Clock()
    bucket, free = TokenBucket(2.0, 1, clock), TokenBucket(0.0, 1, clock)
    assert [bucket._reserve() - 100 for _ in range(4)] == [0, 0.5, 1.0, 1.5]
    assert [free._reserve() - 100 for _ in range(4)] == [0, 0, 0, 0]


def test_who_waits_already_waits_on_when_the_server_asks_for_it():
    clock = Clock()
    bucket = TokenBucket(1.0, 1, clock)
    bucket.turn(clock.sleep)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock() < 105:
            bucket.hold(10)

    bucket.turn(sleep)
    assert clock() == 111


@given(st.integers(1, 80), st.floats(0, 10), st.floats(0, 100), st.integers(0, 2**31))
def test_a_wait_is_anything_up_to_a_bound_that_doubles(failures, first, longest, seed):
    assert 0 <= backoff(failures, first, longest, Random(seed)) <= min(longest, first * 2.0 ** (failures - 1))


def test_waits_are_spread_over_all_of_that():
    waits = sorted(backoff(3, 1.0, 60.0, Random(seed)) for seed in range(400))
    assert waits[0] < 0.1 and waits[-1] > 3.9 and sum(waits) / 400 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sat, 28 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after(header, NOW) == seconds


@given(st.integers(1, 30), st.integers(1, 300), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=60))
def test_neither_limit_of_a_budget_is_ever_exceeded(max_requests, max_tokens, questions):
    budget, spent, open_ = Budget(max_requests, max_tokens), 0, []
    for most, repeats in questions:
        if budget.admit(1, most):
            open_.append(most)
        for _ in range(repeats):
            budget.repeat()
        if len(open_) > 2:
            worst = open_.pop(0)
            budget.settle(worst, worst // 2)
            spent += worst // 2
        assert budget.requests <= max_requests and budget.tokens == spent and spent + sum(open_) <= max_tokens
