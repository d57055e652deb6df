"""Rows of every format, written by hand in its form, and the facts that follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.facts.config import ImportFactsConfig
from lfm_tasks.facts.importing import run
from lfm_tasks.facts.reading import fact_row, read_facts
from lfm_tasks.step import Input
from tests.tuned import Context

COUNTERFACT = {
    "case_id": 3,
    "pararel_idx": 11,
    "requested_rewrite": {
        "prompt": "{} plays the",
        "relation_id": "P1303",
        "target_new": {"str": "flute", "id": "Q1"},
        "target_true": {"str": "drums", "id": "Q2"},
        "subject": "Ada Beat",
    },
    "paraphrase_prompts": ["In the band, Ada Beat has the"],
    "neighborhood_prompts": ["Bo Snare plays the", "Cy Tom plays the"],
    "attribute_prompts": ["Di Reed plays the"],
    "generation_prompts": ["Ada Beat is loved for"],
}
ZSRE = {
    "subject": "Harbour Hall",
    "src": "Which town is Harbour Hall in?",
    "pred": "Leeds",
    "rephrase": "In what town does Harbour Hall stand?",
    "alt": "York",
    "answers": ["Hull", "Kingston upon Hull"],
    "loc": "nq question: who wrote the anthem",
    "loc_ans": "E. Note",
    "cond": "Hull >> York || Which town is Harbour Hall in?",
}
KNOWEDIT = {
    "subject": "Lake Oval",
    "prompt": "The country that Lake Oval lies in is",
    "target_new": "Norway",
    "ground_truth": [["Sweden", "Kingdom of Sweden"]],
    "rephrase_prompt": "Lake Oval is found in the country",
    "portability": {
        "Reasoning": [{"prompt": "The capital of the country that Lake Oval lies in is", "ground_truth": [["Oslo"]]}],
        "Subject_Aliasing": [{"prompt": "The country that the Oval lies in is", "ground_truth": [["Norway", "Norge"]]}],
        "Logical_Generalization": [],
    },
    "locality": {"Relation_Specificity": [{"prompt": "The depth of Lake Oval is", "ground_truth": [["12 m"], ["twelve metres"]]}]},
}
WIKIBIO = {"concept": "Jo Pen", "text": "Jo Penner is a writer; Jo Pen was born in", "labels": "Ghent", "ground_truth": None}
MQUAKE = {
    "case_id": 9,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Chile", "id": "Q3"},
            "target_true": {"str": "Spain", "id": "Q4"},
            "subject": "Lu Roe",
            "question": "What country is Lu Roe a citizen of?",
        },
        {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "target_new": {"str": "Lima", "id": "Q5"},
            "target_true": {"str": "Santiago", "id": "Q6"},
            "subject": "Chile",
        },
    ],
    "questions": ["What is the capital of the country of Lu Roe?", "Lu Roe's country has which capital?"],
    "answer": "Madrid",
    "answer_alias": [],
    "new_answer": "Lima",
    "new_answer_alias": ["City of Kings"],
}
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the mother of Max Moor is Eva Moor.",
        "subject_id": "Q7",
        "relation": "MOTHER",
        "target_id": "Q8",
        "previous_fact": {"prompt": "The name of the mother of Max Moor is Ida Moor.", "relation": "MOTHER"},
    },
    "Relation_Specifity": [
        {"test_queries": [{"prompt": "The father of Max Moor is", "answers": [{"value": "Al Moor", "aliases": ["A. Moor"]}]}]}
    ],
    "Logical_Generalization": [{"test_queries": [{"prompt": "A child of Eva Moor is", "answers": [{"value": "Max Moor", "aliases": []}]}]}],
    "Compositionality_I": [
        {"test_queries": [{"prompt": "The mother of Max Moor comes from", "answers": [{"value": "Kiel", "aliases": []}]}]}
    ],
    "Compositionality_II": [],
    "Subject_Aliasing": [{"test_queries": [{"prompt": "The mother of Maxi is", "answers": []}]}],
    "Forgetfulness": [],
}


def importing(tmp_path: Path, rows: list | None = None, name: str = "rows.json", **config):
    inputs = {}
    if rows is not None:
        (tmp_path / "data").mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / name).write_text(json.dumps(rows) if name.endswith(".json") else lines)
        inputs = {"data": Input("data", "dataset", "d" * 64, tmp_path / "data")}
    outcome = run(parse_config(ImportFactsConfig, config), inputs, Context(tmp_path / "work"))
    return outcome, [fact_row(fact) for fact in read_facts(outcome.outputs["dataset"].path)]


def test_counterfact(tmp_path: Path):
    assert importing(tmp_path, [COUNTERFACT])[1] == [
        {
            "id": "counterfact-3",
            "subject": "Ada Beat",
            "prompt": "{} plays the",
            "target_new": "flute",
            "target_true": "drums",
            "change": "replace",
            "relation": "P1303",
            "paraphrases": ("In the band, Ada Beat has the",),
            "neighbours": ({"prompt": "Bo Snare plays the", "answers": ("drums",)}, {"prompt": "Cy Tom plays the", "answers": ("drums",)}),
            "generation_prompts": ("Ada Beat is loved for",),
            "source": "counterfact",
        }
    ]


@pytest.mark.parametrize(("target", "new", "true"), [("alt", "York", "Hull"), ("answers", "Hull", None)])
def test_zsre_writes_the_counterfactual_or_the_true_answer(tmp_path: Path, target: str, new: str, true: str | None):
    ((fact),) = importing(tmp_path, [ZSRE], "rows.jsonl", zsre_target=target)[1]
    assert (fact["prompt"], fact["target_new"], fact.get("target_true")) == ("Which town is {} in?", new, true)
    assert fact["paraphrases"] == ("In what town does Harbour Hall stand?",) and fact["source"] == f"zsre ({target})"
    assert fact["locality"] == ({"prompt": "nq question: who wrote the anthem", "answers": ("E. Note",)},)


def test_knowedit(tmp_path: Path):
    fact, biography = importing(tmp_path, [KNOWEDIT, WIKIBIO])[1]
    assert (fact["prompt"], fact["target_new"], fact["target_true"]) == ("The country that {} lies in is", "Norway", "Sweden")
    assert fact["portability"] == {
        "reasoning": ({"prompt": "The capital of the country that Lake Oval lies in is", "answers": ("Oslo",)},),
        "alias": ({"prompt": "The country that the Oval lies in is", "answers": ("Norway", "Norge")},),
    }
    assert fact["locality"] == ({"prompt": "The depth of Lake Oval is", "answers": ("12 m", "twelve metres")},)
    assert fact["paraphrases"] == ("Lake Oval is found in the country",)
    assert biography["target_new"] == "Ghent" and "target_true" not in biography


def test_wikibio_needs_its_concept_once(tmp_path: Path):
    with pytest.raises(DataError, match="rows.json, fact 1: the subject 'Jo Pen' is 2 times"):
        importing(tmp_path, [WIKIBIO | {"text": "Jo Pen and Jo Pen"}])


def test_mquake_is_a_fact_for_each_rewrite_and_shared_ones_are_one(tmp_path: Path):
    again = MQUAKE | {"case_id": 10, "questions": ["Third?"], "requested_rewrite": MQUAKE["requested_rewrite"][:1], "new_answer_alias": []}
    first, second = importing(tmp_path, [MQUAKE, again])[1]
    assert (first["id"], second["id"], second["target_true"]) == ("mquake-9-0", "mquake-9-1", "Santiago")
    assert first["paraphrases"] == ("What country is Lu Roe a citizen of?",)
    assert first["portability"]["multi_hop"] == (
        {"prompt": "What is the capital of the country of Lu Roe?", "answers": ("Lima", "City of Kings")},
        {"prompt": "Lu Roe's country has which capital?", "answers": ("Lima", "City of Kings")},
        {"prompt": "Third?", "answers": ("Lima",)},
    )
    assert "portability" not in second


def test_rippleedits_reads_subject_and_target_out_of_the_sentence(tmp_path: Path):
    ((fact),) = importing(tmp_path, [RIPPLE])[1]
    assert (fact["subject"], fact["prompt"]) == ("Max Moor", "The name of the mother of {} is")
    assert (fact["target_new"], fact["target_true"], fact["relation"]) == ("Eva Moor", "Ida Moor", "MOTHER")
    assert fact["locality"] == ({"prompt": "The father of Max Moor is", "answers": ("Al Moor", "A. Moor")},)
    assert {kind: probes[0]["answers"] for kind, probes in fact["portability"].items()} == {"logical": ("Max Moor",), "one_hop": ("Kiel",)}


def test_facts_typed_in_and_files_together(tmp_path: Path):
    typed = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}
    outcome, facts = importing(tmp_path, [COUNTERFACT], facts=[typed])
    assert [fact["subject"] for fact in facts] == ["Ada Beat", "France"]
    assert outcome.summary == {"facts": 2, "dropped": 0} and outcome.metrics["facts/neighbours"] == 2
    counts = json.loads((outcome.outputs["dataset"].path / "facts.json").read_text())
    assert counts["sources"] == {"": 1, "counterfact": 1} and counts["relations"] == {"": 1, "P1303": 1}


def test_what_was_imported_is_imported_again_as_it_is(tmp_path: Path):
    _, facts = importing(tmp_path, [COUNTERFACT, KNOWEDIT])
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "work" / "facts" / "manifest.json").write_text('{"kind": "dataset"}')  # as beside every artifact of a store of files
    inputs = {"data": Input("data", "dataset", "d" * 64, tmp_path / "work" / "facts")}
    outcome = run(ImportFactsConfig(), inputs, Context(again / "work"))
    first = (tmp_path / "work" / "facts" / "facts.jsonl").read_bytes()
    assert (outcome.outputs["dataset"].path / "facts.jsonl").read_bytes() == first and len(facts) == 2


def test_problems_are_refused_together_or_dropped_and_counted(tmp_path: Path):
    rows = [COUNTERFACT, COUNTERFACT | {"case_id": 4}, ZSRE | {"src": "Which town?"}, {"what": 1}, KNOWEDIT]
    with pytest.raises(DataError) as caught:
        importing(tmp_path, rows)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "rows.json, fact 3: the subject 'Harbour Hall' is 0 times in 'Which town?'" in lines[0]
    assert "rows.json, fact 4: the keys what are those of no known format. Known: canonical" in lines[1]
    assert "rows.json, fact 2: duplicate of rows.json, fact 1" in lines[2]
    outcome, facts = importing(tmp_path / ".." / tmp_path.name, rows, problems="drop")
    assert len(facts) == 2 and outcome.summary == {"facts": 2, "dropped": 3}


def test_refusals(tmp_path: Path):
    with pytest.raises(DataError, match="No facts were given"):
        importing(tmp_path)
    with pytest.raises(DataError, match="fact 1: no row of the format 'counterfact' .KeyError: 'requested_rewrite'"):
        importing(tmp_path, [ZSRE], format="counterfact")
    with pytest.raises(DataError, match="None of the facts can be used"):
        importing(tmp_path, [{"what": 1}], problems="drop")
    (tmp_path / "data" / "rows.json").write_text("{}")
    with pytest.raises(DataError, match="rows.json holds a dict; a list of facts is needed"):
        run(ImportFactsConfig(), {"data": Input("data", "dataset", "d" * 64, tmp_path / "data")}, Context(tmp_path / "w"))
    (tmp_path / "data" / "rows.json").rename(tmp_path / "data" / "rows.csv")
    with pytest.raises(DataError, match="holds no .json or .jsonl file; it holds rows.csv"):
        run(ImportFactsConfig(), {"data": Input("data", "dataset", "d" * 64, tmp_path / "data")}, Context(tmp_path / "w"))
    with pytest.raises(ConfigError, match="format"):
        importing(tmp_path, format="csv")
