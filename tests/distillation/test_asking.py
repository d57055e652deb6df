"""A teacher behind a real HTTP server: whatever it does, asking ends with rows or with a clear account, and pays for nothing twice."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from lfm_tasks.distillation.texts.answers import cleaned
from lfm_tasks.errors import AttemptKilled, BudgetSpent, ConfigError, DataError, TeacherUnavailable
from tests.distillation.conftest import numbered, rows_of
from tests.teacher_server import Fault, answer
from tests.tuned import StoppingAt


def lines(ask) -> str:
    return "\n".join(ask.contexts[-1].lines)


def test_every_row_has_its_answer_and_says_where_it_came_from(ask, server):
    outcome = ask(9, {"parameters": {"top_p": 0.9}}, system_prompt="Be short.", max_new_tokens=7, reference_column="label", stop=["\n\n"])
    rows = rows_of(outcome)
    assert {row["prompt"]: row["completion"] for row in rows} == {row["text"]: answer(row["text"]) for row in numbered(9)}
    decoding = {"api": "chat", "temperature": 0.0, "max_new_tokens": 7, "top_p": 0.9, "stop": ["\n\n"], "system_prompt": "Be short."}
    assert all(row["decoding"] == decoding and row["reference"] == "x" and row["model"] == "oracle-0301" for row in rows)
    assert {row["teacher"] for row in rows} == {f"{server.url} oracle"} and len({row["request_sha256"] for row in rows}) == 9
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Be short."} and body["messages"][1]["role"] == "user"
    assert body | {"messages": 0} == {"model": "oracle", "temperature": 0, "max_tokens": 7, "top_p": 0.9, "stop": ["\n\n"], "messages": 0}
    assert outcome.metrics["asked/requests"] == outcome.metrics["asked/answered"] == outcome.metrics["asked/rows"] == 9
    assert outcome.metrics["asked/tokens"] == server.tokens


def test_rows_do_not_depend_on_the_order_of_the_data_or_on_concurrency_and_each_question_is_asked_once(ask, server):
    first = ask(12, {"concurrency": 1})
    again = ask([*reversed(numbered(12)), *numbered(5)], {"concurrency": 12, "revision": "2"})
    assert [row["completion"] for row in rows_of(first)] == [row["completion"] for row in rows_of(again)]
    assert set(server.answered.values()) == {2} and again.metrics["asked/asked_before"] == 5


def test_a_fifth_of_the_calls_fails_and_every_question_is_answered(ask, server):
    server.fault = lambda count, text: Fault([500, 503, 429][count % 3]) if count % 5 == 0 else None
    outcome = ask(40)
    assert outcome.metrics["asked/rows"] == 40 and set(server.answered.values()) == {1}
    failed = sum(outcome.metrics[f"asked/{name}"] for name in ("server_error", "rate_limited"))
    assert len(server.bodies) == outcome.metrics["asked/requests"] == 40 + failed and failed >= 9


def test_a_wait_that_the_server_asks_for_is_kept_and_one_that_is_too_long_is_a_failure(ask, server):
    server.fault = lambda count, text: Fault(429, headers={"Retry-After": "0"}) if count == 1 else None
    assert ask(2).metrics["asked/rate_limited"] == 1
    server.fault = lambda count, text: Fault(429, headers={"Retry-After": "3600"})
    with pytest.raises(TeacherUnavailable, match=r"1 of 1 questions .*overloaded.* \(asked to wait 3600 s, longest_wait is 5 s\)"):
        ask([{"text": "another question"}])


BAD_REPLIES = {
    "not JSON": b"<html>bad gateway</html>",
    "no choices": b'{"error": null}',
    "empty choices": b'{"choices": []}',
    "no text": b'{"choices": [{"message": {"content": null}}]}',
    "half a character": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("body", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_garbage_is_asked_again_then_dropped_with_a_count_and_never_kept(ask, server, body):
    server.fault = lambda count, text: Fault(body=body) if "number 3 " in text else None
    outcome = ask(6, {"retries": 2, "max_failed": 0.5})
    assert outcome.metrics["asked/garbage"] == 3 and outcome.metrics["asked/unanswered"] == 1 and len(rows_of(outcome)) == 5
    assert "1 stay without an answer (the last: " in lines(ask)
    server.fault = lambda count, text: None
    assert len(rows_of(ask(6))) == 6 and set(server.answered.values()) == {1}


def test_empty_answers_echoes_and_texts_after_the_end_are_no_rows_to_learn_from(ask, server):
    texts = {"a": "", "b": "  \n", "c": "c is asked\nthe answer", "d": "one<|im_end|>two</s>", "e": " good "}
    server.answer = lambda text: texts[text[0]]
    outcome = ask([{"text": f"{name} is asked"} for name in texts], stop=["</s>", "<|im_end|>"])
    found = {row["prompt"][0]: row["completion"] for row in rows_of(outcome)}
    assert found == {"c": "the answer", "d": "one", "e": "good"}
    assert (outcome.metrics["asked/empty"], outcome.metrics["asked/echoes"]) == (2, 1)
    assert next(row for row in rows_of(outcome) if row["prompt"][0] == "d")["raw"] == "one<|im_end|>two</s>"
    with pytest.raises(DataError, match="None of the answers to 2 questions can be used: 2 are empty"):
        ask([{"text": f"{name} is asked"} for name in "ab"])


@pytest.mark.parametrize(
    ("asked", "text", "kept"),
    [
        ("Paris", "Paris is a city", "Paris is a city"),
        ("What is a cat", "What is a cat? A pet.", "? A pet."),
        ("I am a cat", "I am a category", None),
    ],
)
def test_an_echo_is_the_whole_question_and_not_its_first_word(asked, text, kept):
    assert cleaned(text, asked, []) == (kept or text)


def test_equal_samples_are_one_row_and_each_is_a_request_with_a_seed_of_its_own(ask, server):
    outcome = ask(2, {"samples": 3, "temperature": 0.7, "parameters": {"seed": 5}})
    assert outcome.metrics["asked/duplicates"] == 4 and len(rows_of(outcome)) == 2
    assert Counter(body["seed"] for body in server.bodies) == {5: 2, 6: 2, 7: 2}


def test_a_slow_answer_is_given_up_and_the_others_are_there(ask, server):
    server.fault = lambda count, text: Fault(hold=True) if "number 1 " in text else None
    outcome = ask(4, {"timeout": 0.3, "retries": 0, "max_failed": 0.5})
    assert len(rows_of(outcome)) == 3 and outcome.metrics["asked/no_answer"] == 1


def test_a_dead_teacher_stops_the_step_with_an_account(ask, server):
    server.fault = lambda count, text: Fault(503) if count > 4 else None
    with pytest.raises(
        TeacherUnavailable, match=r"left 2 of 20 .* max_failed is 0.05\. The last: HTTP 503: .*overloaded.* 4 answers are kept"
    ):
        ask(20, {"concurrency": 1, "retries": 1})
    assert len(server.bodies) == 8
    server.fault = lambda count, text: None
    assert ask(20).metrics["asked/kept"] == 4 and set(server.answered.values()) == {1}


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_no_question_gets_past_stops_at_once(ask, server, status):
    server.fault = lambda count, text: Fault(status, headers={"Location": "http://169.254.169.254/v1"})
    with pytest.raises(ConfigError, match=f"answered HTTP {status}.* Check endpoint, model and key; redirects are not followed"):
        ask(20, {"concurrency": 1})
    assert len(server.bodies) == 1


def test_a_question_that_is_refused_is_dropped_and_not_asked_again(ask, server):
    server.fault = lambda count, text: Fault(400, b"too long") if "number 2 " in text else None
    outcome = ask(5, {"max_failed": 0.3})
    assert outcome.metrics["asked/refused"] == 1 and len(server.bodies) == 5 and len(rows_of(outcome)) == 4


@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_budget_of_requests_is_exact_and_more_of_it_pays_for_the_others_only(ask, server, concurrency):
    whole = [row["prompt"] for row in rows_of(ask(20, {"revision": "whole"}))]
    server.bodies.clear()
    outcome = ask(20, {"max_requests": 8, "concurrency": concurrency})
    assert len(server.bodies) == 8 and [row["prompt"] for row in rows_of(outcome)] == whole[:8]
    assert outcome.summary["spent"] == "max_requests=8, max_tokens=0" and "The budget is spent" in lines(ask)
    with pytest.raises(BudgetSpent, match="after 12 answers, and when_spent is 'fail'"):
        ask(20, {"max_requests": 12, "when_spent": "fail", "concurrency": concurrency})
    assert len(server.bodies) == 12
    assert [row["prompt"] for row in rows_of(ask(20, {"max_requests": 20}))] == whole and len(server.bodies) == 20


def test_repetitions_are_within_the_budget(ask, server):
    server.fault = lambda count, text: Fault(500) if count % 2 else None
    outcome = ask(20, {"max_requests": 9, "concurrency": 3})
    assert len(server.bodies) == 9 == outcome.metrics["asked/budget_requests"]
    assert (
        outcome.summary["spent"]
        and outcome.metrics["asked/unanswered"] == 0
        and len(rows_of(outcome)) == sum(server.answered.values()) == 4
    )


@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_budget_of_tokens_is_never_exceeded_and_does_not_depend_on_concurrency(ask, server, concurrency):
    outcome = ask(20, {"max_tokens": 160, "concurrency": concurrency}, max_new_tokens=10)
    assert server.tokens == outcome.metrics["asked/tokens"] <= 160
    cost, most = 6, len(numbered(1)[0]["text"]) + 2 + 32 + 10
    assert abs(len(rows_of(outcome)) - ((160 - most) // cost + 1)) <= 1
    assert [row["prompt"] for row in rows_of(outcome)] == [row["prompt"] for row in rows_of(ask(20))][: len(rows_of(outcome))]


def test_what_changes_the_answer_changes_the_question_and_nothing_else_does(ask, server):
    one = [{"text": "what is asked"}]
    ask(one)
    for options in ({"concurrency": 9}, {"timeout": 9.0}, {"requests_per_minute": 1e5, "burst": 3}, {"retries": 1}):
        assert ask(one, options).metrics["asked/kept"] == 1
    changes = [{"model": "other"}, {"revision": "2"}, {"temperature": 0.5}, {"parameters": {"top_p": 0.5}}, {"api": "completions"}]
    for count, options in enumerate([*changes, {"endpoint": f"{server.url}/v1"}, {"top_logprobs": 2}], start=2):
        ask(one, options)
        assert len(server.bodies) == count, options
    for count, config in enumerate(
        ({"system_prompt": "x"}, {"max_new_tokens": 3}, {"stop": ["."]}, {"teacher_template": "{prompt}?"}), start=9
    ):
        ask(one, **config)
        assert len(server.bodies) == count, config


def test_a_stop_keeps_what_was_answered_and_the_retry_gives_the_rows_of_an_undisturbed_run(ask, server):
    with pytest.raises(AttemptKilled):
        ask(15, {"concurrency": 3}, context=ask.context(lambda workdir: StoppingAt(workdir, 6)))
    before = sum(server.answered.values())
    resumed = ask(15, {"concurrency": 3})
    assert resumed.metrics["asked/kept"] == before >= 6 and set(server.answered.values()) == {1}
    directory = ask(15, {"concurrency": 3}).outputs["dataset"].path
    for path in directory.iterdir():
        assert path.read_bytes() == (resumed.outputs["dataset"].path / path.name).read_bytes()


def test_prepared_rows_of_one_split_are_asked_with_their_right_answers(ask, server, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lfm_tasks.distillation.black_box.config import AskTeacherConfig
    from lfm_tasks.distillation.black_box.questions import read_questions

    (tmp_path / "dataset.json").write_text(json.dumps({"task": "instruction", "labels": []}))
    columns = {"sample_id": ["1", "2"], "input_ids": [[1], [2]], "prompt": ["p one", "p two"], "completion": [" yes", " no"]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    config = AskTeacherConfig(
        method="black_box",
        options={"endpoint": server.url, "model": "m"},
        prompt_template="Q: {prompt}",
        teacher_template="Think.\n{prompt}\nNot {reference}?",
    )
    questions, counts = read_questions(config, tmp_path)
    assert {(q.prompt, q.asked, q.reference) for q in questions} == {
        ("Q: p one", "Think.\nQ: p one\nNot yes?", "yes"),
        ("Q: p two", "Think.\nQ: p two\nNot no?", "no"),
    }
    assert counts["questions"] == 2
    with pytest.raises(ConfigError, match="Unknown column of prepared data 'txt'"):
        read_questions(config.model_copy(update={"prompt_template": "{txt}"}), tmp_path)
