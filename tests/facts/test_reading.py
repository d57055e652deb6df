"""Facts to and from JSONL, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_tasks.errors import DataError
from lfm_tasks.facts.reading import mentions, parse_fact, read_facts, write_facts
from lfm_tasks.facts.record import Fact, Probe

PARIS = {"id": "1", "subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}


def write(directory: Path, *rows: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_what_is_written_is_read(tmp_path: Path):
    facts = [
        Fact("1", "France", "The capital of {} is", "Rome"),
        Fact(
            "2",
            "100 % {x}",
            "{} is made in",
            "Köln",
            "東京",
            "erase",
            "made_in",
            ("Where is 100 % {x} from?",),
            (Probe("Tea is made in", ("China", "PRC")),),
            (Probe("Water is", ("wet",)),),
            {"one_hop": (Probe("A", ("b",)),)},
            ("100 % {x} is",),
            "me",
        ),
    ]
    for name in "ab":
        write_facts(facts, tmp_path / name)
    assert read_facts(tmp_path / "a") == facts
    assert (tmp_path / "a" / "facts.jsonl").read_bytes() == (tmp_path / "b" / "facts.jsonl").read_bytes()
    assert facts[1].text == "100 % {x} is made in" and facts[1].text[slice(*facts[1].subject_span)] == "100 % {x}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "The capital is"}, r"the prompt 'The capital is' holds {} 0 times; exactly one {}"),
        ({"prompt": "{} or {}"}, "holds {} 2 times"),
        ({"prompt": "France, {}, is"}, "the subject 'France' is 2 times in 'France, France, is'"),
        ({"subject": "  "}, "the subject is empty"),
        ({"target_new": " "}, "target_new is empty"),
        ({"target_true": ""}, "target_true is empty"),
        ({"target_new": "paris "}, "target_new and target_true are both 'paris'"),
        ({"change": "delete"}, "Unknown change 'delete'.*Allowed: erase, replace"),
        ({"relation": 7}, "relation holds 7, a int. Write a text"),
        ({"paraphrases": "one"}, "paraphrases holds 'one'. Write a list"),
        ({"neighbours": [{"prompt": "x"}]}, "neighbours holds .*answers"),
        ({"neighbours": [{"prompt": "x", "answers": []}]}, r"neighbours: 'x' has the answers \[\]"),
        ({"portability": []}, r"portability holds \[\]"),
        ({"portability": {"alias": [1]}}, "portability.alias holds 1"),
        ({"subjekt": "x"}, "Unknown field 'subjekt'. Did you mean 'subject'"),
    ],
)
def test_a_fact_that_cannot_be_used_is_named_by_row_and_value(tmp_path: Path, change: dict, message: str):
    with pytest.raises(DataError, match=f"facts.jsonl, line 1: .*{message}"):
        read_facts(write(tmp_path, PARIS | change))


def test_rows_that_are_no_facts(tmp_path: Path):
    with pytest.raises(DataError, match="the field 'prompt' is missing"):
        parse_fact({"subject": "x", "target_new": "y"})
    with pytest.raises(DataError, match="a list, not an object"):
        read_facts(write(tmp_path, []))
    (tmp_path / "facts.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="facts.jsonl, line 1: not valid JSON"):
        read_facts(tmp_path)
    (tmp_path / "facts.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="There are no facts"):
        read_facts(tmp_path)
    (tmp_path / "facts.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8: byte 0xff at offset 7"):
        read_facts(tmp_path)
    with pytest.raises(DataError, match="has no facts.jsonl.*import_facts"):
        read_facts(tmp_path / "nothing")


def test_all_problems_are_said_at_once(tmp_path: Path):
    directory = write(
        tmp_path,
        PARIS,
        PARIS | {"id": "2"},
        PARIS | {"id": "3", "target_new": "Bonn"},
        {"id": "4", "subject": "Peru", "prompt": "The capital of {} is", "target_new": "Rome", "relation": "capital"},
        {"id": "5", "subject": "Peru", "prompt": "{}'s capital is", "target_new": "Oslo", "relation": "capital"},
        {"id": "1", "subject": "Chad", "prompt": "The capital of {} is", "target_new": "Rome"},
        PARIS | {"target_new": ""},
    )
    with pytest.raises(DataError) as caught:
        read_facts(directory)
    assert str(caught.value).splitlines() == [
        "facts.jsonl, line 2: duplicate of facts.jsonl, line 1 ('France', target 'Rome'). Keep one.",
        "facts.jsonl, line 3: conflict with facts.jsonl, line 1: 'France' (The capital of {} is) is to be 'Bonn' here and 'Rome' there. "
        "Keep one.",
        "facts.jsonl, line 5: conflict with facts.jsonl, line 4: 'Peru' (capital) is to be 'Oslo' here and 'Rome' there. Keep one.",
        "facts.jsonl, line 6: the id '1' is also that of facts.jsonl, line 1. Give each fact an id of its own.",
        "facts.jsonl, line 7: target_new is empty. Give the answer that the model shall give, or leave the fact out.",
    ]


def test_many_problems_are_counted(tmp_path: Path):
    with pytest.raises(DataError, match="… and 5 more"):
        read_facts(write(tmp_path, *[PARIS | {"id": str(n), "target_new": ""} for n in range(25)]))


def test_a_fact_without_an_id_gets_the_digest_of_what_it_says():
    first, again, other = (parse_fact({"subject": "A", "prompt": "{} is", "target_new": new}).id for new in ("b", "b ", "c"))
    assert first == again != other and len(first) == 12


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [("Niger", "Nigeria and Niger", 1), ("Niger", "Nigeria", 0), ("C++", "C++ and C", 1), ("王", "王 and 王", 2), ("x", "y", 0)],
)
def test_a_name_inside_a_longer_word_is_not_that_name(name: str, text: str, count: int):
    assert mentions(name, text) == count
