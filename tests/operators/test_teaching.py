"""What is refused before a teacher is paid, and how its answers and rationales become rows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators import AskTeacherOperator, EvaluateTaughtOperator, PrepareAnswersOperator
from lfm_tasks.operators.teaching import teaching_params
from lfm_tasks.runner.job import Job, JobResult

FORM = {
    "learn_from": "log_probabilities",
    "ask_teacher_top_logprobs": 5,
    "ask_teacher_api": None,
    "ask_teacher_max_new_tokens": 256,
    "distill_method": "hybrid",
    "prepare_completion_template": "{label}",
    "prepare_label_choices": True,
    "prepare_max_length": 96,
    "write_rationales_method": "step_by_step",
    "predict_share": 0.3,
}
CHAINS = {
    "learn_from": "rationales",
    "write_rationales_method": "chain_of_thought",
    "write_rationales_answer_marks": ["answer:", "####"],
    "write_rationales_closing": None,
    "evaluate_tasks": [],
    "evaluate_answer_marks": [],
    "evaluate_max_new_tokens": 64,
}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ask_teacher_top_logprobs": None}, "ask_teacher_top_logprobs=0 asks for none. Set it to 1 or more, .*or set learn_from=answers"),
        ({"distill_method": "forward_kl"}, "distill_method=forward_kl cannot learn from an API's .* Allowed: alm, hybrid"),
        (
            {"prepare_completion_template": " {label}"},
            "' {label}' begins with a space, .*Write '{label}', or set ask_teacher_api=completions",
        ),
        (
            CHAINS | {"write_rationales_closing": "\nSo it is {answer}"},
            r"closing='\\nSo it is {answer}' ends in no answer .* \['answer:', '####'\]. .* as in '\\nAnswer: {answer}', or add to",
        ),
        (CHAINS | {"evaluate_answer_marks": ["result:"]}, r"closing='\\nAnswer: {answer}' ends in no answer .* answer_marks \['result:'\]"),
    ],
)
def test_what_could_not_be_learnt_is_refused_before_it_is_paid(params, message):
    with pytest.raises(ConfigError, match=message):
        AskTeacherOperator(task_id="ask").job({"params": FORM | params})


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"learn_from": "answers", "ask_teacher_top_logprobs": None, "prepare_completion_template": " {label}"},
        {"prepare_completion_template": " {label}", "ask_teacher_api": "completions"},
        {"prepare_completion_template": " {summary}", "prepare_label_choices": False},
        CHAINS | {"write_rationales_closing": " (#### {answer})"},
        CHAINS | {"write_rationales_closing": " So it is {answer}.", "write_rationales_answer_marks": ["So it is"]},
        CHAINS | {"write_rationales_closing": " So it is {answer}", "evaluate_tasks": ["choice"]},
    ],
)
def test_what_can_be_learnt_is_asked(params):
    with pytest.raises(KeyError, match="dag"):  # past the check, where the DAG's own Params are looked at
        AskTeacherOperator(task_id="ask").job({"params": FORM | params})


def handed_on(way):
    pushed = {}
    context = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value})), "params": {"learn_from": way}}
    job = Job(step="ask_teacher", config={"options": {"endpoint": "https://api.example.com/v1"}})
    AskTeacherOperator(task_id="ask").hand_on(context, job, JobResult(state="success", outputs={"dataset": "sha256:d"}))
    return pushed


def test_an_api_that_gives_no_log_probabilities_is_named_where_they_are_needed():
    assert handed_on("answers") == {"dataset": "sha256:d", "signals": ""}
    with pytest.raises(AirflowFailException, match="https://api.example.com/v1 answered without log-probabilities. Its answers are kept"):
        handed_on("log_probabilities")


def prepared(**params):
    return PrepareAnswersOperator(task_id="prepare_answers", prefix="prepare").fixed({"params": FORM | params})


def test_answers_take_the_place_of_the_label():
    fixed = prepared(prepare_completion_template=" It is {label}.")
    assert fixed["completion_template"] == " It is {completion}." and not {"parts", "max_length"} & fixed.keys()


def test_rationales_have_room_and_step_by_step_parts_with_shares():
    chain = prepared(learn_from="rationales", write_rationales_method="chain_of_thought")
    assert chain["max_length"] == 352 and "parts" not in chain and chain["group_column"] == ""
    steps = prepared(learn_from="rationales", prepare_max_length=8000)
    assert steps["max_length"] == 8192 and (steps["part_column"], steps["group_column"]) == ("part", "question")
    assert steps["prompt_template"] == "{prompt}" and steps["parts"] == pytest.approx({"predict": 0.3, "explain": 0.7})


def measured(**params):
    return EvaluateTaughtOperator(task_id="evaluate").fixed({"params": FORM | CHAINS | params})


def test_who_reasons_first_is_measured_behind_the_marks_and_with_the_room_that_it_learnt_in():
    assert measured() == {"tasks": ["generation"], "answer_marks": ["answer:", "####"], "max_new_tokens": 352}
    assert measured(prepare_max_length=8000)["max_new_tokens"] == 4096


def test_what_the_form_says_of_measuring_stays():
    assert measured(evaluate_tasks=["choice"], evaluate_max_new_tokens=20) == {"answer_marks": ["answer:", "####"]}
    assert "answer_marks" not in measured(evaluate_answer_marks=["####"])


@pytest.mark.parametrize("params", [{"write_rationales_method": "step_by_step"}, {"learn_from": "answers"}])
def test_who_answers_at_once_is_measured_as_ever(params):
    assert measured(**params) == {}


def test_the_form_offers_what_an_api_can_do():
    form = teaching_params()
    assert form["learn_from"].value == "answers" and form["distill_method"].schema["enum"] == ["alm", "hybrid"]
    assert {"ask_teacher_num_beams", "ask_teacher_method", "distill_on_policy", "distill_temperature", "distill_skew"}.isdisjoint(form)
