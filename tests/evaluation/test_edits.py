"""What is measured of edited facts, against numbers worked out by hand on a model whose probabilities are written down."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.evaluation.edits.asking import answer_of, begins_with, forced, free_running, is_whole
from lfm_tasks.evaluation.edits.config import EvaluateEditsConfig
from lfm_tasks.evaluation.edits.evaluate import open_subject, run
from lfm_tasks.evaluation.edits.questions import questions
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.facts.record import Fact, Probe
from lfm_tasks.metrics.binomial import wilson_interval
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.promotion.config import GateConfig
from lfm_tasks.promotion.gate import run as gate
from lfm_tasks.step import Input, Outcome
from tests.bigrams import make_bigram
from tests.prepared import write_texts
from tests.toys import make_llama
from tests.tuned import Context

WORDS = ["capital", "city", "of", "France", "Gaul", "Peru", "Chad", "Oman", "Italy", "Rome", "Paris", "Lima", "Sarh", "New", "York"]
WORDS += ["Muscat", "sea", "Gold", "is", "Au", "and", "Lutetia", "Mali", "Bamako"]
BASE = {
    "France": {"Paris": 0.6, "Rome": 0.3},
    "Gaul": {"Paris": 0.7, "Rome": 0.2},
    "Peru": {"Lima": 0.5, "Rome": 0.1},
    "Chad": {"Sarh": 0.6, "Rome": 0.1},
    "Oman": {"Muscat": 0.9, "New": 0.01},
    "New": {"York": 0.8},
    "is": {"Au": 0.9},
    "Mali": {"Bamako": 0.6, "Lima": 0.3},
    "Italy": {"Rome": 0.9},
    "Lutetia": {"and": 0.9},
}
EDITED = BASE | {
    "France": {"Rome": 0.6, "Paris": 0.3},
    "Chad": {"Rome": 0.3, "Sarh": 0.1, "and": 0.5},
    "Oman": {"Muscat": 0.5, "New": 0.45},
    "Rome": {"and": 0.9},
    "Mali": {"Bamako": 0.3, "Lima": 0.6},
}
FRANCE = Fact(
    id="france",
    subject="France",
    prompt="capital of {}",
    target_new="Rome",
    target_true="Paris",
    relation="capital",
    paraphrases=("city of Gaul",),
    neighbours=(
        Probe("capital of Peru", ("Lima",)),
        Probe("capital of Chad", ("Sarh",)),
        Probe("capital of Italy", ("Rome",)),
        Probe("city of Oman", ("Muscat",)),
    ),
    locality=(Probe("Gold is", ("Au",)),),
    portability={
        "alias": (Probe("capital of Lutetia", ("Rome", "and")),),
        "one_hop": (Probe("city of New", ("Rome",)), Probe("sea of New", ("York",))),
    },
    generation_prompts=("capital of Italy",),
)
OMAN = Fact("oman", "Oman", "capital of {}", "New York", "Muscat", relation="capital")
MALI = Fact("mali", "Mali", "capital of {}", "Lima", "Bamako", relation="seat")
FAST = {"bootstrap_samples": 100, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_bigram(directory := tmp_path_factory.mktemp("base"), WORDS, BASE)
    return directory


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_bigram(directory := tmp_path_factory.mktemp("edited"), WORDS, EDITED)
    return directory


def data(directory: Path, *facts: Fact) -> Path:
    write_facts(facts, directory)
    return directory


def evaluate(workdir: Path, model: Path | Input, facts: Path, **options) -> tuple[Outcome, dict]:
    extra = {name: options.pop(name) for name in ("base", "earlier", "general", "references") if name in options}
    source = model if isinstance(model, Input) else Input("model", "model", "a" * 64, model)
    inputs = {"model": source, "facts": Input("facts", "dataset", "f" * 64, facts)}
    for name, given in extra.items():
        inputs[name] = given if isinstance(given, Input) else Input(name, "model" if name == "base" else "dataset", name[0] * 64, given)
    outcome = run(EvaluateEditsConfig(**{**FAST, **options}), inputs, Context(workdir))
    report = outcome.outputs["report"].path if "report" in outcome.outputs else None
    return outcome, json.loads((report / "metrics.json").read_text()) if report else {}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, base: Path, edited: Path) -> tuple[Outcome, dict]:
    workdir = tmp_path_factory.mktemp("measured")
    facts, earlier = data(workdir / "facts", FRANCE, OMAN), data(workdir / "earlier", MALI, OMAN)
    return evaluate(workdir / "work", edited, facts, base=base, earlier=earlier)


ROOT = math.sqrt(0.45 * 0.8)
BY_HAND = {
    "efficacy.teacher_forced/success": 1,
    "efficacy.teacher_forced/magnitude": (0.6 - 0.3 + ROOT - 0.5) / 2,
    "efficacy.teacher_forced_tokens/token_accuracy": (1 + 0.5) / 2,
    "efficacy.free_running/prefix_match": 1 / 2,
    "efficacy.free_running_whole/exact_match": 0,
    "paraphrase.teacher_forced/success": 0,
    "paraphrase.teacher_forced/magnitude": 0.2 - 0.7,
    "paraphrase.free_running/prefix_match": 0,
    "neighbourhood.teacher_forced/success": 1 / 2,
    "neighbourhood.teacher_forced/magnitude": (0.5 - 0.1 + 0.1 - 0.3) / 2,
    "locality.free_running/unchanged": 2 / 3,
    "locality.teacher_forced_tokens/unchanged_tokens": 2 / 3,
    "portability.free_running/prefix_match": 2 / 3,
    "portability.alias.free_running/prefix_match": 1,
    "portability.one_hop.free_running/prefix_match": 1 / 2,
    "retention.teacher_forced/success": 1,
    "retention.teacher_forced/magnitude": 0.6 - 0.3,
    "retention.free_running/prefix_match": 1,
}


def test_every_metric_is_what_the_probabilities_say(measured):
    """Oman's new answer of two words is likelier than the true one of one when asked for (geometric mean), but is not what comes out."""
    _, described = measured
    found = {name: entry["value"] for name, entry in described["metrics"].items()}
    assert found == pytest.approx(BY_HAND, abs=1e-5)
    assert described["figures"]["score"] == 0  # a harmonic mean with a zero in it
    assert described["figures"]["neighbours_left_out"] == 2  # Italy's answer is the new target, Oman is edited itself
    assert described["skipped"] == {
        name: {"possible": True, "reason": "no general text was given"} for name in ("general/perplexity", "general/bits_per_byte")
    }


def test_intervals_draw_the_questions_about_one_fact_together(measured):
    _, described = measured
    assert described["metrics"]["neighbourhood.teacher_forced/success"]["n"] == 1
    success = described["metrics"]["efficacy.teacher_forced/success"]
    assert (success["low"], success["high"]) == pytest.approx(wilson_interval(2, 2, 0.95)) and success["n"] == 2
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in described["metrics"].values())


def test_the_line_of_a_fact(measured):
    outcome, _ = measured
    report = outcome.outputs["report"].path
    france, oman = pq.read_table(report / "facts.parquet").to_pylist()
    assert (france["answer"], france["prefix_match"], france["exact_match"]) == ("Rome and", True, False)
    assert (france["neighbours"], france["neighbours_left_out"], france["neighbourhood_success"]) == (2, 2, 0.5)
    assert (france["p_new"], france["p_true"], oman["p_new"]) == pytest.approx((0.6, 0.3, ROOT), abs=1e-5)
    assert (oman["answer"], oman["prefix_match"], oman["token_accuracy"], oman["portability"]) == ("Muscat", False, 0.5, None)
    page = (report / "facts.html").read_text()
    assert page.index("Muscat") < page.index("Rome and"), "what is not there comes first"
    assert {path.name for path in outcome.figures} == {"report.md", "facts.html", "edits.png"}
    assert "| efficacy.free_running/prefix_match | 0.5 |" in (report / "report.md").read_text()


def test_an_unedited_model_changes_nothing(tmp_path: Path, base: Path):
    facts = data(tmp_path / "facts", FRANCE, OMAN)
    for number, given in enumerate((Input("model", "model", "a" * 64, base), Input("base", "model", "b" * 64, base))):
        _, described = evaluate(tmp_path / f"work-{number}", base, facts, base=given)
        assert described["metrics"]["locality.free_running/unchanged"]["value"] == 1
        assert described["metrics"]["locality.teacher_forced_tokens/unchanged_tokens"]["value"] == 1
        assert described["distances"] == {}
    assert described["metrics"]["efficacy.teacher_forced/success"]["value"] == 0


def test_a_report_on_the_base_stands_for_it(tmp_path: Path, base: Path, edited: Path, measured):
    facts = data(tmp_path / "facts", FRANCE, OMAN)
    outcome, alone = evaluate(tmp_path / "base", base, facts)
    assert alone["skipped"]["locality.free_running/unchanged"] == {"possible": True, "reason": "no base was given"}
    report = Input("base", "report", "c" * 64, outcome.outputs["report"].path)
    _, described = evaluate(tmp_path / "edited", edited, facts, base=report)
    assert described["base_sha256"] == "a" * 64
    for name in ("locality.free_running/unchanged", "locality.teacher_forced_tokens/unchanged_tokens"):
        assert described["metrics"][name] == measured[1]["metrics"][name]
    other = data(tmp_path / "other", FRANCE, MALI)
    with pytest.raises(DataError, match="no answer to france/neighbourhood/2 .'city of Oman'.. Evaluate the base on the same facts"):
        evaluate(tmp_path / "more", edited, other, base=report)
    with pytest.raises(ConfigError, match="base: base has max_new_tokens 3, not 4. Evaluate the base in the same way"):
        evaluate(tmp_path / "longer", edited, facts, base=report, max_new_tokens=4)
    with pytest.raises(ConfigError, match="base: base is a report of another step"):
        evaluate(tmp_path / "wrong", edited, facts, base=Input("base", "report", "c" * 64, tmp_path))


def test_an_adapter_is_compared_with_its_own_base_and_its_distance_is_told(tmp_path: Path, base: Path, edited: Path):
    changed = {"lm_head.weight": open_causal_lm(Input("", "model", "", edited)).lm_head.weight.detach()}
    save_adapter(None, tmp_path / "adapter", method="bitfit", base_sha256="b" * 64, task="causal_lm", tensors=changed)
    adapter = Input("adapter", "adapter", "e" * 64, tmp_path / "adapter", base=Input("base", "model", "b" * 64, base))
    _, described = evaluate(tmp_path / "work", adapter, data(tmp_path / "facts", FRANCE, OMAN))
    assert described["metrics"]["locality.free_running/unchanged"]["value"] == pytest.approx(2 / 3)
    before = open_causal_lm(Input("", "model", "", base)).lm_head.weight.detach()
    distance = float((changed["lm_head.weight"] - before).norm() / before.norm())
    assert described["distances"] == {"lm_head.weight": pytest.approx(distance, rel=1e-5)}
    assert described["figures"]["largest_edit_distance"] == pytest.approx(distance, rel=1e-5)
    _, measured = evaluate(tmp_path / "room", adapter, data(tmp_path / "again", FRANCE, OMAN), max_new_tokens=0)
    assert measured["metrics"]["locality.free_running/unchanged"]["value"] == pytest.approx(2 / 3), "with room for the longest answer"


def test_facts_without_a_true_answer_have_no_success_but_are_asked(tmp_path: Path, edited: Path):
    _, described = evaluate(tmp_path / "work", edited, data(tmp_path / "facts", Fact("1", "France", "capital of {}", "Rome")))
    assert described["skipped"]["efficacy.teacher_forced/success"] == {"possible": False, "reason": "no fact has what it asks for"}
    assert described["metrics"]["efficacy.free_running/prefix_match"]["value"] == 1


def test_the_facts_that_a_model_knows(tmp_path: Path, base: Path, edited: Path):
    facts = data(tmp_path / "facts", FRANCE, OMAN, MALI, Fact("no", "Italy", "capital of {}", "Lima"))
    for model, known in ((base, ["france", "oman", "mali"]), (edited, ["oman"])):
        outcome, _ = evaluate(tmp_path / known[0], model, facts, mode="known")
        rows = (outcome.outputs["known"].path / "facts.jsonl").read_text().splitlines()
        assert [json.loads(row)["id"] for row in rows] == known
        assert outcome.summary == {"asked": 3, "known": len(known), "kept": len(known)}
    outcome, _ = evaluate(tmp_path / "few", base, facts, mode="known", max_facts=2)
    assert outcome.summary == {"asked": 3, "known": 3, "kept": 2}
    with pytest.raises(DataError, match="None of the 1 facts has a target_true"):
        evaluate(tmp_path / "w", base, data(tmp_path / "untold", Fact("no", "Italy", "capital of {}", "Lima")), mode="known")
    with pytest.raises(DataError, match="to 'capital of France' it says 'Rome and', not 'Paris'"):
        evaluate(tmp_path / "w", edited, data(tmp_path / "unknown", FRANCE), mode="known")


def test_what_becomes_of_facts_that_a_model_does_not_know(tmp_path: Path, base: Path, edited: Path):
    untold = Fact("untold", "Italy", "capital of {}", "Lima")
    facts = data(tmp_path / "facts", FRANCE, OMAN, untold)
    outcome, _ = evaluate(tmp_path / "kept", edited, facts, mode="known", unknown="keep")
    rows = (outcome.outputs["known"].path / "facts.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["france", "oman", "untold"]
    assert outcome.summary == {"asked": 2, "known": 1, "kept": 3}
    outcome, _ = evaluate(tmp_path / "all untold", base, data(tmp_path / "untold", untold), mode="known", unknown="keep")
    assert outcome.summary == {"asked": 0, "known": 0, "kept": 1}
    with pytest.raises(DataError, match="to 2 of the 3 facts; to 'capital of France' it says 'Rome and', not 'Paris'"):
        evaluate(tmp_path / "w", edited, facts, mode="known", unknown="refuse")
    with pytest.raises(DataError, match="to 1 of the 2 facts; untold has no target_true"):
        evaluate(tmp_path / "w", base, data(tmp_path / "two", FRANCE, untold), mode="known", unknown="refuse")


def test_the_gate_reads_the_reports(tmp_path: Path, base: Path, edited: Path):
    facts, reports = data(tmp_path / "facts", FRANCE, OMAN), {}
    for name, model, sha256 in (("champion", base, "1" * 64), ("challenger", edited, "2" * 64)):
        given = Input("base", "model", "b" * 64, base)
        outcome, _ = evaluate(tmp_path / name, Input("model", "model", sha256, model), facts, base=given)
        reports[name] = Input(name, "report", sha256, outcome.outputs["report"].path)
    config = GateConfig(bootstrap_samples=100, must_not_regress=["locality.free_running/unchanged"])
    decision = gate(config, reports, Context(tmp_path / "gate")).outputs["decision"].path
    compared = json.loads((decision / "decision.json").read_text())["metrics"]
    assert compared["efficacy.free_running/prefix_match"]["role"] == "primary"
    assert compared["locality.free_running/unchanged"]["difference"] == pytest.approx(-1 / 3)
    before, after = (0.3 - 0.6 + math.sqrt(0.01 * 0.8) - 0.9) / 2, (0.6 - 0.3 + ROOT - 0.5) / 2
    assert compared["efficacy.teacher_forced/magnitude"]["difference"] == pytest.approx(after - before, abs=1e-5)


def test_free_answers_have_room_for_the_longest_whatever_was_edited_before(tmp_path: Path, base: Path, edited: Path):
    """Retention of a long answer, beside a base's report that knows nothing of it."""
    facts, earlier = data(tmp_path / "facts", FRANCE), data(tmp_path / "earlier", OMAN)
    outcome, _ = evaluate(tmp_path / "base", base, facts, max_new_tokens=0)
    report = Input("base", "report", "c" * 64, outcome.outputs["report"].path)
    make_bigram(tmp_path / "model", WORDS, EDITED | {"Oman": {"New": 0.9}, "New": {"York": 0.9}})
    _, described = evaluate(tmp_path / "work", tmp_path / "model", facts, base=report, earlier=earlier, max_new_tokens=0)
    assert described["metrics"]["retention.free_running/prefix_match"]["value"] == 1
    assert described["metrics"]["locality.free_running/unchanged"]["value"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_llama(directory := tmp_path_factory.mktemp("llama"))
    return directory


LONGER = [
    Fact("1", "The central bank", "{} raised the", "cup final", "rates", neighbours=(Probe("The minister told the", ("parliament",)),)),
    Fact("2", "the striker", "Twice a game {} scored", "a goal", "x", paraphrases=("It was the striker who on Monday scored",)),
]


def test_batches_and_padding_change_nothing(tmp_path: Path, llama: Path):
    facts, general, found = data(tmp_path / "facts", *LONGER), write_texts(tmp_path / "general", llama), []
    for size in (8, 64, 4096):
        outcome, described = evaluate(tmp_path / str(size), llama, facts, general=general, base=llama, batch_tokens=size)
        found.append((pq.read_table(outcome.outputs["report"].path / "samples.parquet").to_pylist(), described["metrics"]))
    for samples, metrics in found[1:]:
        assert [(s["sample_id"], s["prediction"], s["correct"]) for s in samples] == [
            (s["sample_id"], s["prediction"], s["correct"]) for s in found[0][0]
        ]
        told = [[s["nll"] for s in some if s["nll"] is not None] for some in (samples, found[0][0])]
        assert told[0] == pytest.approx(told[1], rel=1e-5)
        assert {name: entry["value"] for name, entry in metrics.items()} == pytest.approx(
            {name: entry["value"] for name, entry in found[0][1].items()}, rel=1e-5
        )


def test_likelihoods_are_those_of_the_joint_text_token_by_token(llama: Path):
    """Prompts that share their beginning are answered in one pass; each number is that of its own plain forward."""
    subject = open_subject(Input("", "model", "", llama))
    pairs = [("The cup", "final"), ("The cup", "film"), ("The cup final", "went to extra time"), ("The", "cup final"), ("The cup", "final")]
    found = forced(subject, pairs, 64)
    assert len(found) == 4
    for (prompt, answer), told in found.items():
        ids = subject.tokenizer(f"{prompt} {answer}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = subject.model(ids).logits[0].double().log_softmax(-1)
        count = len(told.wanted)
        assert subject.tokenizer.decode(told.wanted) == f" {answer}"
        np.testing.assert_allclose(told.log_probability, logits[-count - 1 : -1].gather(1, ids[0, -count:, None])[:, 0], rtol=1e-4)
        np.testing.assert_array_equal(told.likeliest, logits[-count - 1 : -1].argmax(-1))
        assert told.probability == pytest.approx(math.exp(told.log_probability.mean()))


def test_perplexity_counts_every_token_but_the_first(tmp_path: Path, llama: Path):
    general = write_texts(tmp_path / "general", llama)
    _, described = evaluate(tmp_path / "work", llama, data(tmp_path / "facts", *LONGER), general=general)
    subject, total, count = open_subject(Input("", "model", "", llama)), 0.0, 0
    for ids in pq.read_table(general / "test.parquet")["input_ids"].to_pylist():
        tokens = torch.tensor([ids])
        with torch.no_grad():
            total += float(subject.model(tokens, labels=tokens).loss) * (len(ids) - 1)
        count += len(ids) - 1
    assert described["metrics"]["general/perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_generated_text_depends_on_its_prompt_and_the_seed_alone(tmp_path: Path, llama: Path):
    facts = [Fact(str(n), "x", f"The {{}} {n} is", "a", generation_prompts=(f"The cup {'final ' * n}", "A chip")) for n in range(3)]
    entropies = [
        evaluate(tmp_path / f"{size}-{seed}", llama, data(tmp_path / "facts", *facts), batch_tokens=size, seed=seed)[1]["figures"][
            "fluency_entropy"
        ]
        for size, seed in ((64, 0), (4096, 0), (64, 1))
    ]
    assert entropies[0] == entropies[1] != entropies[2]


def test_consistency_with_reference_texts(tmp_path: Path, base: Path):
    facts, references = data(tmp_path / "facts", FRANCE), tmp_path / "references"
    references.mkdir()
    rows = [{"answer": "Rome", "text": "Rome"}, {"answer": "Lima", "text": "Peru sea"}]
    (references / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, described = evaluate(tmp_path / "work", base, facts, references=references)
    assert described["figures"]["consistency"] == pytest.approx(1)  # after "capital of Italy" the model writes Rome, and ends
    (references / "texts.jsonl").write_text('{"answer": "Oslo", "text": "x"}\n')
    with pytest.raises(DataError, match="No reference text has the target of a fact"):
        evaluate(tmp_path / "work2", base, facts, references=references)
    (references / "texts.jsonl").write_text('{"answer": "Oslo"}\n')
    with pytest.raises(DataError, match="texts.jsonl, line 1: .* is no reference text"):
        evaluate(tmp_path / "work3", base, facts, references=references)


def test_a_neighbour_is_left_out_when_it_was_edited_in_whatever_words():
    own = Fact("a", "Peru", "The capital of {} is", "Oslo", relation="capital", paraphrases=("Who governs from Lima?",))
    probes = ("Peru has its capital in", "Peruvians live in", "The capital of Chad is", "Who governs from Lima?")
    fact = Fact("b", "Fiji", "The capital of {} is", "Rome", relation="capital", neighbours=tuple(Probe(p, ("x",)) for p in probes))
    kept = [q.prompt for q in questions([fact, own])[0] if q.aspect == "neighbourhood"]
    assert kept == ["Peruvians live in", "The capital of Chad is"]
    asked, left_out = questions([fact], earlier=[own])
    assert left_out == 2 and [q.fact for q in asked if q.aspect == "retention"] == ["a"]
    assert questions([fact])[1] == 0


@pytest.mark.parametrize(
    ("text", "answer", "begins", "whole"),
    [
        (" Rome", "Rome", True, True),
        (" Rome.", "Rome", True, False),
        ("Rome\nParis", "Rome", True, True),
        ("\n\n Rome", "Rome", True, True),
        (" Romeo", "Rome", False, False),
        (" New  York and", "New York", True, False),
        (" Washington, D.C., is", "Washington, D.C.", True, False),
        (" rome", "Rome", False, False),
        ("巴黎是", "巴黎", True, False),
        ("", "Rome", False, False),
    ],
)
def test_when_a_free_answer_is_right(text: str, answer: str, begins: bool, whole: bool):
    assert (begins_with(text, answer), is_whole(text, answer)) == (begins, whole)
    assert "\n" not in answer_of(text)


def test_texts_that_are_too_long_or_too_short(base: Path, tmp_path: Path):
    subject = Subject(open_causal_lm(Input("", "model", "", base)), open_tokenizer(base))
    with pytest.raises(DataError, match="has 101 tokens with its target; the model takes 64"):
        forced(subject, [("of " * 100, "Rome")], 64)
    with pytest.raises(DataError, match="has 70 tokens with its answer; the model takes 64"):
        free_running(subject, ["of " * 60], 10, 64)
    with pytest.raises(DataError, match="The prompt '' has no token of its own before 'Rome'"):
        forced(subject, [("", "Rome")], 64)
    with pytest.raises(DataError, match="The prompt ' ' has no token"):
        free_running(subject, [" "], 1, 64)


def test_an_encoder_is_refused(tmp_path: Path):
    from tests.toys import make_bert

    make_bert(tmp_path / "bert")
    with pytest.raises(IncompatibleModels, match="generates no text"):
        evaluate(tmp_path / "work", tmp_path / "bert", data(tmp_path / "facts", FRANCE))


def test_a_chat_asks_as_the_written_out_template_does(tmp_path: Path):
    """Every figure is that of facts whose prompts hold the template's text themselves."""
    make_llama(model := tmp_path / "model")

    def framed(prompt: str) -> str:
        return f"<|im_start|>user\nIn a word: {prompt}<|im_end|>\n<|im_start|>assistant\n"

    fact = Fact(
        "x",
        "the minister",
        "On Monday {} told",
        "the film",
        "the cup",
        paraphrases=("The minister told",),
        neighbours=(Probe("The dog jumps over", ("the fox",)),),
        portability={"alias": (Probe("The film won", ("awards",)),)},
    )
    written = dataclasses.replace(
        fact,
        prompt=framed(fact.prompt),
        paraphrases=tuple(map(framed, fact.paraphrases)),
        neighbours=(Probe(framed(fact.neighbours[0].prompt), ("the fox",)),),
        portability={"alias": (Probe(framed("The film won"), ("awards",)),)},
    )
    plain, found = evaluate(tmp_path / "plain", model, data(tmp_path / "a", written))
    chat, asked = evaluate(tmp_path / "chat", model, data(tmp_path / "b", fact), chat=True, chat_message="In a word: {}")
    assert asked["metrics"] == found["metrics"]
    assert (chat.summary["protocol"], plain.summary["protocol"]) == ("chat template", "plain text")
    unframed, _ = evaluate(tmp_path / "unframed", model, data(tmp_path / "c", fact))
    assert unframed.metrics != chat.metrics


def test_a_chat_needs_a_template_and_a_place_for_the_prompt(tmp_path: Path, base: Path):
    with pytest.raises(ConfigError, match="chat_message 'In a word' has 0 places for the prompt. Write {} once"):
        EvaluateEditsConfig(chat_message="In a word")
    with pytest.raises(DataError, match="The model has no chat template. Ask it in plain text"):
        evaluate(tmp_path / "work", base, data(tmp_path / "facts", FRANCE), chat=True)
