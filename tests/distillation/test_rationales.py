"""Rationales: which are kept is checked on a constructed set, arithmetic against exact values."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.config import parse_config
from lfm_tasks.distillation.texts.arithmetic import equations, evaluate, false_equations
from lfm_tasks.distillation.texts.config import WriteRationalesConfig
from lfm_tasks.distillation.texts.files import write_rows
from lfm_tasks.distillation.texts.rationales import Rationale, leaks, parse, reject, same_answer
from lfm_tasks.distillation.texts.write import run
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.step import Input
from tests.distillation.conftest import rows_of
from tests.tuned import Context

MARKS = ["answer:", "answer is", "####"]


@pytest.mark.parametrize(
    ("text", "answer", "rationale"),
    [
        ("Three plus four make seven.\nAnswer: 7", "7", "Three plus four make seven."),
        ("The cup was won. So the answer is sport.", "sport", "The cup was won. So the"),
        ("The cup was won.\nSo the answer is **sport**.", "sport", "The cup was won."),
        ("He has 3 + 4 = 7.\n#### 7\n", "7", "He has 3 + 4 = 7."),
        ("The answer is not clear at first.\nAnswer: tech\nMore text.", "tech", "The answer is not clear at first."),
        ("ANSWER IS İstanbul? No.\nİ think: answer: Rome", "Rome", "ANSWER IS İstanbul? No.\nİ think:"),
        ("İ saw the dome.\nAnswer: Rome", "Rome", "İ saw the dome."),
    ],
)
def test_the_answer_is_what_follows_the_last_mark_and_the_rationale_what_comes_before(text, answer, rationale):
    assert parse(text, MARKS) == Rationale(answer, rationale)


@pytest.mark.parametrize("text", ["No mark at all.", "Answer: sport", "Because of the cup.\nAnswer:", "Because of it.\nAnswer: ."])
def test_without_one_of_the_two_there_is_nothing_to_learn(text):
    assert parse(text, MARKS) is None


@given(
    st.recursive(
        st.integers(0, 999).map(str), lambda part: st.tuples(part, st.sampled_from("+-*/"), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    )
)
def test_arithmetic_is_pythons_own(text):
    exact = text
    for number in sorted({*filter(str.isdigit, text.replace("(", " ").replace(")", " ").split())}, key=len, reverse=True):
        exact = " ".join(f"Fraction({part})" if part == number else part for part in exact.replace("(", " ( ").replace(")", " ) ").split())
    try:
        expected = eval(exact, {"Fraction": Fraction})  # noqa: S307
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(text)
    else:
        assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "value"), [("1,200 × 2", 2400), ("$3.50*2", 7), ("50% * 80", 40), ("-2 - -3", 1), ("7 ÷ 2", Fraction(7, 2))]
)
def test_arithmetic_reads_what_people_write(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["__import__('os')", "2 ** 3", "x + 1", "1 +", "(1", "1 2"])
def test_anything_else_is_not_arithmetic(text):
    with pytest.raises(ValueError):
        evaluate(text)


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("She has 3 + 4 = 7 apples and 7*2=14 pears.", []),
        ("3 + 4 = 8 apples", ["3 + 4 = 8"]),
        ("10 / 3 = 3.33 each, 2/3 = 0.67, 1/8 = 12.5%", []),
        ("10 / 3 = 3.34 each", ["10 / 3 = 3.34"]),
        ("10 / 4 = 2 left", ["10 / 4 = 2"]),
        ("x = 5 and in 2024 = year; 5 / 0 = 3", []),
        ("2 + 3 = 5 + 1 = 6", []),
        ("(2 + 3) * 4 = 20, cost $1,000 + $250 = $1,250.", []),
        ("12.5 - 3 = 9.5.", []),
    ],
)
def test_equations_that_do_not_hold_are_found(text, false):
    assert false_equations(text) == false


def test_a_chain_of_equations_is_not_cut_in_the_middle():
    assert list(equations("1 + 1 = 2 * 3")) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("7", "7.0", True), ("1,000", "1000", True), ("Sport.", "sport", True), ("7", "8", False), ("70%", "0.7", True)],
)
def test_answers_are_equal_as_numbers_or_as_texts(one, other, same):
    assert same_answer(one, other) is same


@pytest.mark.parametrize(
    ("rationale", "answer", "leaking"),
    [
        ("Sport. The cup was won by goals in the final.", "sport", True),
        ("It is sport.", "sport", True),
        ("The cup was won by goals, which is about sport.", "sport", False),
        ("The cup was won by goals in the final.", "sport", False),
    ],
)
def test_a_rationale_that_begins_with_the_answer_or_is_nothing_else_leaks(rationale, answer, leaking):
    assert leaks(Rationale(answer, rationale)) is leaking


SET = {
    "": [
        "Goals were scored in the final.\nAnswer: sport",
        "A striker ran a lot.\nSo the answer is Sport.",
        "5 + 6 = 11 players ran.\nanswer: sport",
    ],
    "wrong_answer": ["Markets fell all day.\nAnswer: business", "A phone was shown today.\nAnswer: tech"],
    "no_answer": ["Goals were scored in the final.", "", "Answer: sport"],
    "false_arithmetic": ["5 + 6 = 12 players ran.\nAnswer: sport"],
    "leakage": ["Sport, as goals were scored in it.\nAnswer: sport", "Well, sport.\nAnswer: sport"],
}


def test_the_filter_tells_the_constructed_set_apart():
    filters = {"require": True, "arithmetic": True, "leakage": True}
    for reason, some in SET.items():
        assert [reject(parse(text, MARKS), "sport", **filters) for text in some] == [reason] * len(some)
    assert reject(parse(SET["wrong_answer"][0], MARKS), None, **filters) == "wrong_answer"
    off = dict.fromkeys(filters, False)
    kept = [text for some in SET.values() for text in some if not reject(parse(text, MARKS), "sport", **off)]
    assert len(kept) == sum(map(len, SET.values())) - len(SET["no_answer"])


def answered(directory, reference="sport") -> Input:
    rows = [
        {"prompt": f"Article {i}", "completion": text, "reference": reference, "teacher": "t", "model": "m", "request_sha256": f"{i:064}"}
        for i, text in enumerate(text for some in SET.values() for text in some)
    ]
    write_rows(rows, directory, "teacher.json", {})
    return Input("answers", "dataset", "1" * 64, directory)


def test_step_by_step_makes_two_tasks_of_each_rationale_and_keeps_the_teachers_words(tmp_path):
    outcome = run(WriteRationalesConfig(), {"data": answered(tmp_path / "in")}, Context(tmp_path / "work"))
    rows = rows_of(outcome)
    assert [(row["part"], row["prompt"], row["completion"], row["question"]) for row in rows[:2]] == [
        ("predict", "Article 0", "sport", "Article 0"),
        ("explain", "Explain. Article 0", "Goals were scored in the final.", "Article 0"),
    ]
    assert rows[1]["raw"] == SET[""][0] and rows[1]["request_sha256"] == f"{0:064}" and len(rows) == 6
    counts = {name.removeprefix("rationales/"): value for name, value in outcome.metrics.items()}
    assert counts == {"answers": 11, "kept": 3, "rows": 6} | {reason: len(some) for reason, some in SET.items() if reason}
    assert json.loads((outcome.outputs["dataset"].path / "rationales.json").read_text())["wrong_answer"] == 2


def test_the_explanation_is_asked_for_in_words_of_ones_own(tmp_path):
    config = parse_config(WriteRationalesConfig, {"options": {"explain_prompt": "{prompt} Why? {{prompt}"}})
    rows = rows_of(run(config, {"data": answered(tmp_path / "in")}, Context(tmp_path / "work")))
    assert [row["prompt"] for row in rows[:2]] == ["Article 0", "Article 0 Why? {Article 0"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Explain.", "explain_prompt 'Explain.' does not hold {prompt}; write it where the question is to stand"),
        (" {prompt}\n", "explain_prompt is the prompt of the part predict, .*write something beside {prompt}"),
    ],
)
def test_an_explanation_without_a_prompt_of_its_own_is_refused(prompt, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(WriteRationalesConfig, {"options": {"explain_prompt": prompt}})


def test_a_chain_of_thought_is_one_row_with_the_answer_at_its_end(tmp_path):
    config = parse_config(WriteRationalesConfig, {"method": "chain_of_thought"})
    rows = rows_of(run(config, {"data": answered(tmp_path / "in")}, Context(tmp_path / "work")))
    assert [row["completion"] for row in rows][0] == "Goals were scored in the final.\nAnswer: sport" and len(rows) == 3


def test_where_nothing_is_kept_the_reasons_are_said(tmp_path):
    with pytest.raises(DataError, match="None of the 11 answers is kept: 3 no answer, 8 wrong answer"):
        run(WriteRationalesConfig(), {"data": answered(tmp_path / "in", "Rome")}, Context(tmp_path / "work"))
    with pytest.raises(DataError, match="no teacher.json"):
        run(WriteRationalesConfig(), {"data": Input("x", "dataset", "", tmp_path)}, Context(tmp_path / "work"))
    with pytest.raises(ConfigError, match="does not hold {answer}"):
        parse_config(WriteRationalesConfig, {"method": "chain_of_thought", "options": {"closing": "no answer here"}})
