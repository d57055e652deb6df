"""Where the answer stands in a text: behind the last mark, or at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.metrics.answers import normalise, read_answer, split_at_answer

MARKS = ["answer:", "answer is", "####"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The cup was won.\nAnswer: sport", "sport"),
        ("Answer: sport", "sport"),
        ("The answer is not clear.\nANSWER: tech\nAnswers differ.", "tech"),
        ("Answer: tech\nNo, the answer is sport.", "sport"),
        ("So the answer is **sport**.", "sport"),
        ("3 + 4 = 7\n##### 7", "7"),
        ("It was won.\nAnswer:\n\n sport\n", "sport"),
        ("İstanbul lost.\nAnswer: sport", "sport"),
    ],
)
def test_the_answer_is_one_line_behind_the_last_mark_in_any_case(text, answer):
    assert read_answer(text, MARKS) == answer


@pytest.mark.parametrize("text", ["The cup was won.\nAnswer:", "The cup was won.\nAnswer: ...\n"])
def test_nothing_behind_a_mark_is_an_empty_answer(text):
    assert read_answer(text, MARKS) == ""


@pytest.mark.parametrize(
    ("text", "answer"), [(" sport", "sport"), ("\nsport.\n\nArticle: of day 5\nTopic: tech", "sport"), ("", ""), ("(a) The\ncup", "a) The")]
)
def test_a_text_without_a_mark_answers_at_once_by_its_first_line(text, answer):
    assert split_at_answer(text, MARKS) is None
    assert read_answer(text, MARKS) == answer


def test_reasons_that_were_cut_off_before_their_mark_are_not_the_answer_that_they_name():
    assert normalise(read_answer("It speaks of a goal, which is sport.\nAns", MARKS)) != normalise("sport")


def test_a_mark_is_text_and_no_pattern():
    assert read_answer("a.b? is it\na.c) 7", ["a.c)"]) == "7"
    assert split_at_answer("abc) 7", ["a.c)"]) is None


@given(st.text(), st.lists(st.text(min_size=1), min_size=1), st.text())
def test_what_comes_before_holds_for_any_text_and_marks(before, marks, after):
    head, answer = split_at_answer(f"{before}{marks[0]}{after}", marks)
    assert len(head) >= len(before) and f"{before}{marks[0]}{after}".startswith(head)
    assert "\n" not in answer
