"""Facts from a table of countries: of files in the package's own form, and of the real package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_tasks.evaluation.edits.questions import questions
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.starter.catalogue import find_starter
from lfm_tasks.starter.convert import build
from lfm_tasks.starter.countries import country_facts, placed


def entry(name: str, capital, languages=("en",), population=10**6, also=()) -> dict:
    return {"name": name, "capital": capital, "languages": list(languages), "population": population, "altSpellings": ["XX", *also]}


ENTRIES = [
    entry("France", "Paris", ["fr"], also=["République française", "French Republic"]),
    entry("Netherlands", "Amsterdam", ["nl"], also=["Kingdom of the Netherlands"]),
    entry("The Gambia", "Banjul"),
    entry("Peru", "Lima", ["es", "qu"], also=["Peru, Republic of"]),
    entry("Japan", "Tokyo", ["ja"]),
    entry("Singapore", "Singapore"),
    entry("Tiny", "Town", population=99),
    entry("East", "Shared"),
    entry("West", "Shared"),
    entry("Nowhere", None),
    entry("Vatican", ["Vatican City"]),
    entry("Isles (North)", "Port"),
]


def made(directory: Path, entries=ENTRIES) -> Path:
    files = []
    for number, one in enumerate(entries):
        files.append(directory / f"{number}.json")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(json.dumps(one))
    country_facts(find_starter("country-facts"), files, directory / "made")
    return directory / "made"


def test_which_countries_and_what_is_asked(tmp_path: Path):
    facts = {fact.id: fact for fact in read_facts(made(tmp_path))}
    assert sorted(facts) == [
        *(f"capital-{name}" for name in ("france", "gambia", "japan", "netherlands", "peru")),
        *(f"language-{name}" for name in ("france", "gambia", "japan", "netherlands")),
    ]
    france, gambia = facts["capital-france"], facts["capital-gambia"]
    assert (france.text, france.target_true) == ("The capital of France is", "Paris")
    assert france.target_new in {"Amsterdam", "Banjul", "Lima", "Tokyo"}
    assert france.paraphrases == ("France's capital city is", "In France, the capital is the city of")
    assert gambia.text == "The capital of the Gambia is" and gambia.paraphrases[0] == "The Gambia's capital city is"
    assert france.portability["alias"][0].prompt == "The capital of the French Republic is"
    assert "alias" not in facts["capital-peru"].portability
    assert france.portability["reversal"][0].prompt == f"{france.target_new} is the capital of"
    assert france.locality[0].prompt == "The official language of France is"
    for fact in facts.values():
        assert all(fact.target_new not in probe.answers and fact.target_true not in probe.prompt for probe in fact.neighbours)
        assert {probe.answers[0] for probe in fact.neighbours}.isdisjoint({fact.target_new})


def test_same_bytes_and_draws_that_do_not_depend_on_the_order_of_the_files(tmp_path: Path):
    first, second = made(tmp_path / "a"), made(tmp_path / "b", ENTRIES[::-1])
    for name in ("facts.jsonl", "source.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_edited_countries_are_no_neighbours(tmp_path: Path):
    facts = read_facts(made(tmp_path))
    asked, _ = questions([fact for fact in facts if fact.id in ("capital-france", "capital-japan")])
    prompts = [question.prompt for question in asked if question.aspect == "neighbourhood"]
    assert prompts and not any("France" in prompt or "Japan" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("United States", "The capital of {} is", "The capital of the {} is"),
        ("Solomon Islands", "{}'s capital city is", "The {}'s capital city is"),
        ("French Republic", "In {}, it", "In the {}, it"),
        ("France", "{} is", "{} is"),
    ],
)
def test_names_that_take_an_article(name: str, form: str, expected: str):
    assert placed(form, name) == expected


@pytest.mark.real
def test_the_real_package(tmp_path: Path):
    (tmp_path / "scratch").mkdir()
    build(find_starter("country-facts"), tmp_path / "packages", tmp_path / "scratch", tmp_path / "facts")
    facts = {fact.id: fact for fact in read_facts(tmp_path / "facts")}
    source = json.loads((tmp_path / "facts" / "source.json").read_text())
    assert source["relations"] == {"capital": 192, "language": 113} and len(facts) == 305
    assert facts["capital-france"].target_true == "Paris" and facts["language-brazil"].target_true == "Portuguese"
    assert all(len(fact.paraphrases) == 2 and len(fact.neighbours) == 8 for fact in facts.values())
