"""Every card of the steps ask_teacher and write_rationales: the same laws for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_tasks.artifacts.answers import StoreAnswers
from lfm_tasks.artifacts.store import Store
from lfm_tasks.catalogue import methods_of
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.settings import settings
from lfm_tasks.step import Input, Outcome
from lfm_tasks.steps import STEPS
from tests.teacher_server import TeacherServer
from tests.tuned import Context, llama_input

ASKING, WRITING = methods_of("ask_teacher"), methods_of("write_rationales")
CARDS = [*ASKING, *WRITING]
ids = lambda card: card.name  # noqa: E731


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Input:
    return llama_input(tmp_path_factory.mktemp("teacher") / "model", vocabulary=300)


@pytest.fixture
def do(tmp_path, teacher, monkeypatch):
    """``do(card, rows)`` runs the card's step on rows of questions, or of answers."""
    with TeacherServer(answer=lambda text: f"Goals were scored in it.\nAnswer: {text.split()[-1]}") as server:
        monkeypatch.setenv("LFM_TEACHER_ENDPOINTS", server.url)
        settings.cache_clear()
        made = []

        def run(card, rows: list[dict]) -> Outcome:
            place = tmp_path / str(len(made))
            made.append(place)
            (place / "data").mkdir(parents=True)
            (place / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            config = {"method": card.name}
            inputs = {"data": Input("rows", "dataset", "0" * 64, place / "data")}
            if card in ASKING:
                config |= {"prompt_template": "{text}", "reference_column": "label", "max_new_tokens": 6}
            else:
                (place / "data" / "teacher.json").write_text("{}")
            if card.name == "black_box":
                config["options"] = {"endpoint": server.url, "model": "oracle"}
            elif card in ASKING:
                inputs["teacher"] = teacher
            context = Context(place / "work")
            context.answers = StoreAnswers(Store.open(f"file://{tmp_path}/store"))
            step = STEPS[card.step]
            return step.function(parse_config(step.config_class, config), inputs, context)

        yield run
    settings.cache_clear()


def questions(count: int = 6) -> list[dict[str, str]]:
    return [{"text": f"article {i} about sport", "label": "sport"} for i in range(count)]


def answers(count: int = 6) -> list[dict[str, str]]:
    common = {"completion": "Goals were scored in it.\nAnswer: sport", "reference": "sport", "teacher": "t", "model": "m"}
    return [common | {"prompt": f"article {i}", "request_sha256": f"{i:064}"} for i in range(count)]


def given(card, count: int = 6) -> list[dict[str, str]]:
    return questions(count) if card in ASKING else answers(count)


def content(outcome: Outcome) -> dict[str, bytes]:
    directory: Path = outcome.outputs["dataset"].path
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def rows(outcome: Outcome) -> list[dict]:
    return [json.loads(line) for line in content(outcome)["rows.jsonl"].splitlines()]


@pytest.mark.parametrize("card", CARDS, ids=ids)
def test_every_row_has_a_prompt_a_completion_and_where_it_came_from(do, card):
    found = rows(do(card, given(card)))
    assert found
    for row in found:
        explains = "Explain. " if row.get("part") == "explain" else ""
        assert row["prompt"].startswith(f"{explains}article ") and row["completion"] == row["completion"].strip() != ""
        assert len(row["request_sha256"]) == 64 and row["teacher"] and row["reference"] == "sport"


@pytest.mark.parametrize("card", CARDS, ids=ids)
def test_the_same_again_is_the_same_bytes(do, card):
    assert content(do(card, given(card))) == content(do(card, given(card)))


@pytest.mark.parametrize("card", ASKING, ids=ids)
def test_neither_the_order_of_the_data_nor_rows_given_twice_change_an_answer(do, card):
    again = do(card, [*reversed(questions()), *questions(2)])
    assert rows(do(card, questions())) == rows(again) and again.metrics["asked/asked_before"] == 2


@pytest.mark.parametrize("card", WRITING, ids=ids)
def test_what_one_row_becomes_does_not_depend_on_the_others(do, card):
    whole = rows(do(card, answers()))
    assert [row for n in range(6) for row in rows(do(card, answers()[n : n + 1]))] == whole


@pytest.mark.parametrize("card", ASKING, ids=ids)
def test_blank_questions_are_refused(do, card):
    with pytest.raises(DataError, match="All 1 rows are blank"):
        do(card, [{"text": " ", "label": "x"}])


@pytest.mark.parametrize("card", CARDS, ids=ids)
def test_the_card_says_what_it_is(card):
    assert "arXiv" in card.paper and card.preconditions and card.cost and card.title and "text" in card.access
    assert card.area == "distillation" and card.tasks == ("causal_lm",)
    with pytest.raises(ConfigError, match=f"options of {card.name}: .*Unknown option 'nonsense'"):
        parse_config(STEPS[card.step].config_class, {"method": card.name, "options": {"nonsense": 1}})
