"""The step from inputs to report: metrics, samples, pictures, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score

from lfm_tasks.artifacts.hashing import sha256_bytes, sha256_file
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.evaluate import run
from lfm_tasks.metrics.samples import SCHEMA, read_samples, write_samples
from lfm_tasks.models.saving import save_model
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.step import Input, Outcome
from tests.prepared import TOPICS, write_instructions, write_labelled, write_prepared, write_texts
from tests.toys import make_bert, make_llama
from tests.tuned import Context

FAST = {"bootstrap_samples": 100}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    make_llama(directory)
    return directory


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    make_bert(directory)
    return directory


def evaluate(workdir: Path, model: Path, dataset: Path, general: Path | None = None, **options) -> tuple[Outcome, Path]:
    inputs = {"model": Input("sha256:" + "a" * 64, "model", "a" * 64, model), "dataset": Input("data", "dataset", "d" * 64, dataset)}
    if general is not None:
        inputs["general"] = Input("general", "dataset", "e" * 64, general)
    outcome = run(EvaluateConfig(**{**FAST, **options}), inputs, Context(workdir))
    return outcome, outcome.outputs["report"].path


def test_choice_report_holds_metrics_that_follow_from_its_samples(tmp_path: Path, llama: Path):
    data, general = write_instructions(tmp_path / "data", llama), write_texts(tmp_path / "general", llama)
    outcome, report = evaluate(tmp_path / "work", llama, data, general)
    described = json.loads((report / "metrics.json").read_text())
    samples = pq.read_table(report / "samples.parquet")
    assert samples.schema.equals(SCHEMA)
    rows = samples.to_pylist()
    chosen, general_rows = [r for r in rows if r["task"] == "choice"], [r for r in rows if r["task"] == "general"]
    assert (len(chosen), len(general_rows)) == (24, 12)
    metrics = described["metrics"]
    target, prediction = [r["target"] for r in chosen], [r["prediction"] for r in chosen]
    assert metrics["choice/accuracy"]["value"] == pytest.approx(np.mean([t == p for t, p in zip(target, prediction, strict=True)]))
    assert metrics["choice/macro_f1"]["value"] == pytest.approx(f1_score(target, prediction, average="macro"))
    surprise = sum(r["nll"] for r in general_rows) / sum(r["tokens"] for r in general_rows)
    assert metrics["general/perplexity"]["value"] == pytest.approx(np.exp(surprise))
    assert metrics["general/perplexity"]["n"] == 12
    assert all(entry["low"] <= entry["value"] <= entry["high"] for name, entry in metrics.items() if "ece" not in name)
    assert [described[name][0] for name in ("model_sha256", "dataset_sha256", "general_sha256")] == ["a", "d", "e"]
    assert outcome.metrics == {name: entry["value"] for name, entry in metrics.items()}


def test_samples_carry_the_hash_of_their_prompt_in_the_order_of_their_ids(tmp_path: Path, llama: Path):
    data = write_instructions(tmp_path / "data", llama)
    _, report = evaluate(tmp_path / "work", llama, data, max_samples=7)
    prepared = {row["sample_id"]: row for row in pq.read_table(data / "test.parquet").to_pylist()}
    rows = pq.read_table(report / "samples.parquet").to_pylist()
    assert [row["sample_id"] for row in rows] == sorted(prepared)[:7]
    for row in rows:
        assert row["prompt_sha256"] == sha256_bytes(prepared[row["sample_id"]]["prompt"].encode())
        assert row["target"] == TOPICS[prepared[row["sample_id"]]["label"]]


def test_the_target_is_scored_as_the_tokens_that_were_prepared(tmp_path: Path, llama: Path):
    """``nll`` of the target's completion is the loss that tuning lowers, without the end-of-sequence token."""
    data = write_instructions(tmp_path / "data", llama)
    _, report = evaluate(tmp_path / "work", llama, data)
    model = make_llama(tmp_path / "again")
    prepared = {row["sample_id"]: row for row in pq.read_table(data / "test.parquet").to_pylist()}
    for row in pq.read_table(report / "samples.parquet").to_pylist()[:6]:
        ids, start = prepared[row["sample_id"]]["input_ids"][:-1], prepared[row["sample_id"]]["prompt_tokens"]
        with torch.inference_mode():
            logged = model(torch.tensor(ids)[None]).logits[0].double().log_softmax(-1)
        expected = -sum(logged[position - 1, ids[position]].item() for position in range(start, len(ids)))
        assert (row["nll"], row["tokens"]) == (pytest.approx(expected, abs=1e-4), len(ids) - start)


def test_length_normalisation_divides_by_tokens(tmp_path: Path, llama: Path):
    data = write_instructions(tmp_path / "data", llama, labels=["tech", "a much longer label"])
    tokenizer = open_tokenizer(llama)
    lengths = np.array([len(tokenizer.encode(text, add_special_tokens=False)) for text in (" tech", " a much longer label")])
    _, plain = evaluate(tmp_path / "plain", llama, data)
    _, normalised = evaluate(tmp_path / "normalised", llama, data, length_normalised=True)
    for one, other in zip(*(pq.read_table(report / "samples.parquet").to_pylist() for report in (plain, normalised)), strict=True):
        target = ["tech", "a much longer label"].index(one["target"])
        odds = np.log(one["probabilities"])
        likelihoods = odds - odds[target] - one["nll"]
        expected = np.exp(likelihoods / lengths)
        assert other["probabilities"] == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_rows_that_are_no_choice_are_counted_and_said(tmp_path: Path, llama: Path):
    data = write_instructions(tmp_path / "data", llama)
    table = pq.read_table(data / "test.parquet").to_pylist()
    table[0]["label"] = table[1]["label"] = -1
    write_prepared(data, llama, "instruction", table, labels=TOPICS, completions=[f" {topic}" for topic in TOPICS])
    _, report = evaluate(tmp_path / "work", llama, data)
    assert pq.read_table(report / "samples.parquet").num_rows == 22
    assert "2 of 24 rows" in (report / "report.md").read_text()


def test_generation_is_chosen_for_open_completions_and_perplexity_for_text(tmp_path: Path, llama: Path):
    data = write_instructions(tmp_path / "data", llama, choices=False)
    assert set(evaluate(tmp_path / "one", llama, data, max_new_tokens=4)[0].metrics) == {"generation/exact_match"}
    text = write_texts(tmp_path / "text", llama)
    assert set(evaluate(tmp_path / "two", llama, text)[0].metrics) == {"text/perplexity", "text/bits_per_byte"}
    both, _ = evaluate(tmp_path / "three", llama, data, tasks=["generation", "perplexity"], max_new_tokens=4)
    assert set(both.metrics) == {"generation/exact_match", "completion/perplexity"}


def test_an_answer_is_read_behind_its_mark_and_shown_beside_its_text(tmp_path: Path, llama: Path, monkeypatch):
    data, tokenizer = write_instructions(tmp_path / "data", llama, choices=False), open_tokenizer(llama)
    written = {
        "the cup was scored\nAnswer: sport": "sport",
        "answer: tech\nno, the final ANSWER: **Sport.**\nthe fox": "Sport",
        "the cup was scored, sport\nAns": "the cup was scored, sport",
        " sport\nArticle: the phone": "sport",
        "the bank fell\nAnswer:": "",
        "the bank fell": "the bank fell",
    }
    texts = [list(written)[place % len(written)] for place in range(24)]
    ids = [np.array(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    monkeypatch.setattr("lfm_tasks.evaluation.generation.generate", lambda *_: ids)
    rows = pq.read_table(data / "test.parquet").to_pylist()
    write_prepared(data, llama, "instruction", [row | {"completion": " sport"} for row in rows])
    outcome, report = evaluate(tmp_path / "work", llama, data, answer_marks=["####", "Answer:"])
    found = pq.read_table(report / "samples.parquet").to_pylist()
    assert [(row["text"], row["prediction"]) for row in found] == [(text, written[text]) for text in texts]
    assert [row["correct"] for row in found] == [1, 1, 0, 1, 0, 0] * 4
    assert outcome.metrics == {"generation/exact_match": 0.5}
    page = (report / "report.md").read_text()
    assert "| sample | target | answer | text |\n|---|---|---|---|\n" in page
    assert "|  sport | the cup was scored, sport | the cup was scored, sport ⏎ Ans |" in page
    assert "|  sport |  | the bank fell ⏎ Answer\\: |" in page
    assert "12 of 24 texts hold none of the answer marks; the first line of each is its answer" in page


def test_reports_are_as_they_were_where_no_mark_is_named(tmp_path: Path, llama: Path):
    """A report of before answers were read is compared with one of today."""
    data = write_instructions(tmp_path / "data", llama, choices=False)
    _, plain = evaluate(tmp_path / "plain", llama, data, max_new_tokens=4)
    _, read = evaluate(tmp_path / "read", llama, data, max_new_tokens=4, answer_marks=["answer:"])
    settings = [json.loads((report / "metrics.json").read_text())["settings"] for report in (plain, read)]
    assert settings[1] == settings[0] | {"answer_marks": ["answer:"]} and "answer_marks" not in settings[0]
    page = (plain / "report.md").read_text()
    assert "| sample | target | answer |\n" in page and "answer marks" not in page
    table = pq.read_table(plain / "samples.parquet")
    assert table["text"].null_count == table.num_rows
    write_samples(table.drop_columns("text"), tmp_path / "before.parquet")
    assert read_samples(tmp_path / "before.parquet").equals(table.drop_columns("text"))


@pytest.mark.parametrize(
    ("marks", "message"), [([" "], "answer_marks.0: .*Got ' '"), (["x"] * 17, "answer_marks: .*at most 16"), ("answer:", "answer_marks: ")]
)
def test_marks_that_stand_everywhere_or_are_too_many_are_refused(marks, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(EvaluateConfig, {"answer_marks": marks})


def test_an_encoder_without_a_head_is_a_baseline_that_says_so(tmp_path: Path, bert: Path):
    data, general = write_labelled(tmp_path / "data", bert, 40), write_texts(tmp_path / "general", bert)
    outcome, report = evaluate(tmp_path / "one", bert, data, general)
    assert outcome.summary["untrained_head"] is True
    assert "**The head (classifier) was never trained**" in (report / "report.md").read_text()
    assert outcome.summary["skipped"]["general/perplexity"]["possible"] is False
    assert set(outcome.metrics) == {f"classification/{name}" for name in ("accuracy", "macro_f1", "ece", "adaptive_ece", "brier")}
    again, _ = evaluate(tmp_path / "two", bert, data, general)
    other, _ = evaluate(tmp_path / "three", bert, data, general, seed=1)
    assert again.metrics == outcome.metrics
    assert other.metrics["classification/brier"] != outcome.metrics["classification/brier"]


def test_a_trained_classifier_is_evaluated_with_its_own_head(tmp_path: Path):
    bert = make_bert(tmp_path / "toy", labels=TOPICS)
    save_model(bert, tmp_path / "toy", tmp_path / "model", labels=TOPICS)
    data = write_labelled(tmp_path / "data", tmp_path / "model")
    outcome, report = evaluate(tmp_path / "work", tmp_path / "model", data)
    assert outcome.summary["untrained_head"] is False
    prepared = {row["sample_id"]: row["input_ids"] for row in pq.read_table(data / "test.parquet").to_pylist()}
    for row in pq.read_table(report / "samples.parquet").to_pylist():
        with torch.inference_mode():
            expected = bert(torch.tensor(prepared[row["sample_id"]])[None]).logits[0].softmax(-1)
        assert row["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_equal_evaluations_have_equal_bytes(tmp_path: Path, llama: Path):
    data, general = write_instructions(tmp_path / "data", llama), write_texts(tmp_path / "general", llama)
    first, second = (evaluate(tmp_path / name, llama, data, general)[1] for name in ("one", "two"))
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [str(name) for name in names] == [
        *(f"figures/choice_{name}.png" for name in ("classes", "confusion", "reliability")),
        "metrics.json",
        "report.md",
        "samples.parquet",
    ]
    assert [sha256_file(first / name) for name in names] == [sha256_file(second / name) for name in names]


def test_progress_counts_every_sample(tmp_path: Path, llama: Path):
    data, general = write_instructions(tmp_path / "data", llama), write_texts(tmp_path / "general", llama)
    inputs = {name: Input(name, "dataset", "d" * 64, path) for name, path in (("dataset", data), ("general", general))}
    context = Context(tmp_path / "work")
    run(EvaluateConfig(**FAST), inputs | {"model": Input("m", "model", "a" * 64, llama)}, context)
    assert context.reports[-1][:2] == (36, 36)


def test_bad_data_and_models_are_refused_with_what_to_do(tmp_path: Path, llama: Path, bert: Path):
    data, labelled = write_instructions(tmp_path / "data", llama), write_labelled(tmp_path / "labelled", bert)
    open_ended = write_instructions(tmp_path / "open", llama, choices=False)
    with pytest.raises(DataError, match="task 'choice' needs.*at least two fixed completions.*has 0.*'generation'"):
        evaluate(tmp_path / "w1", llama, open_ended, tasks=["choice"])
    with pytest.raises(DataError, match="'classification' needs.*'instruction'.*Prepare"):
        evaluate(tmp_path / "w2", llama, data, tasks=["classification"])
    with pytest.raises(DataError, match="'generation' needs.*'classification'.*Prepare"):
        evaluate(tmp_path / "w3", bert, labelled, tasks=["generation"])
    with pytest.raises(DataError, match="'perplexity' needs.*Prepare"):
        evaluate(tmp_path / "w4", bert, labelled, tasks=["perplexity"])
    with pytest.raises(ConfigError, match="choice, classification need a classifier and a language model at once"):
        evaluate(tmp_path / "w5", llama, data, tasks=["choice", "classification"])
    with pytest.raises(IncompatibleModels, match="bert.*generates no text"):
        evaluate(tmp_path / "w6", bert, write_instructions(tmp_path / "bert data", bert))
    (data / "test.parquet").unlink()
    with pytest.raises(DataError, match="no rows in its split 'test'.*another split"):
        evaluate(tmp_path / "w7", llama, data)
    (data / "dataset.json").unlink()
    with pytest.raises(DataError, match="no dataset.json.*Run the step 'prepare'"):
        evaluate(tmp_path / "w8", llama, data)
    one_token = [{"sample_id": "0" * 64, "input_ids": [5], "text": "a"}]
    with pytest.raises(DataError, match="None of the 1 held-out texts has two tokens.*longer"):
        evaluate(tmp_path / "w9", llama, write_prepared(tmp_path / "short", llama, "text", one_token))
    with pytest.raises(ConfigError, match="choice, choice.*once"):
        EvaluateConfig(tasks=["choice", "choice"])


def test_rows_without_any_choice_are_refused(tmp_path: Path, llama: Path):
    data = write_instructions(tmp_path / "data", llama, choices=False)
    description = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(description | {"completions": [" tech", " sport"], "labels": ["tech", "sport"]}))
    with pytest.raises(DataError, match="None of the 24 held-out rows ends in one of the completions.*Prepare"):
        evaluate(tmp_path / "work", llama, data)


def test_data_prepared_for_another_tokenizer_is_refused(tmp_path: Path, llama: Path):
    make_llama(tmp_path / "other", vocabulary=300)
    data = write_instructions(tmp_path / "data", tmp_path / "other")
    with pytest.raises(IncompatibleModels, match="prepared with the tokenizer.*Prepare the data with this model"):
        evaluate(tmp_path / "one", llama, data)
    with pytest.raises(IncompatibleModels, match="prepared with the tokenizer"):
        general = write_texts(tmp_path / "general", tmp_path / "other")
        evaluate(tmp_path / "two", llama, write_instructions(tmp_path / "own", llama), general)


def test_a_classifier_of_other_classes_is_refused(tmp_path: Path):
    bert = make_bert(tmp_path / "toy", labels=["no", "yes"])
    save_model(bert, tmp_path / "toy", tmp_path / "model", labels=["no", "yes"])
    data = write_labelled(tmp_path / "data", tmp_path / "model", labels=["yes", "no"])
    with pytest.raises(IncompatibleModels, match="classes no, yes apart, in this order; the data set has yes, no.*tune"):
        evaluate(tmp_path / "work", tmp_path / "model", data)


def test_text_of_a_label_is_text_in_the_report(tmp_path: Path, llama: Path):
    labels = ["$x$ | <b>", "[y](http://example.org)"]
    _, report = evaluate(tmp_path / "work", llama, write_instructions(tmp_path / "data", llama, labels=labels))
    text = (report / "report.md").read_text()
    assert r"$x$ \| &lt;b&gt;" in text
    assert r"\[y\]\(http" in text
    assert "<b>" not in text


def expert(directory: Path, labels: list[str], seed: int, **options) -> Path:
    """A classifier saved as *tune* saves one."""
    model = make_bert(directory / "toy", labels=labels, seed=seed, **options)
    save_model(model, directory / "toy", directory / "model", labels=labels)
    return directory / "model"


def evaluate_with_head(workdir: Path, model: Path, head: Path, dataset: Path) -> dict[str, list]:
    inputs = {"model": Input("the model", "model", "a" * 64, model), "head": Input("the head", "model", "b" * 64, head)}
    inputs["dataset"] = Input("data", "dataset", "d" * 64, dataset)
    report = run(EvaluateConfig(**FAST), inputs, Context(workdir)).outputs["report"].path
    assert json.loads((report / "metrics.json").read_text())["head_sha256"] == "b" * 64
    assert "with the head of `sha256:bbbb" in (report / "report.md").read_text()
    return pq.read_table(report / "samples.parquet").to_pydict()


def test_a_backbone_below_an_experts_head_is_the_expert_to_the_last_bit(tmp_path: Path):
    """What a merge of one expert with weight 1 is evaluated as, whatever head, of whatever classes, its own file holds."""
    own, other = expert(tmp_path / "own", TOPICS, 1), expert(tmp_path / "other", ["no", "yes"], 2)
    data = write_labelled(tmp_path / "data", own)
    _, alone = evaluate(tmp_path / "alone", own, data)
    tensors = load_file(own / "model.safetensors")
    other_head = {name: t for name, t in load_file(other / "model.safetensors").items() if name.startswith("classifier.")}
    save_file(tensors | other_head, other / "model.safetensors", metadata={"format": "pt"})
    headless = tmp_path / "headless"
    make_bert(tmp_path / "headless", seed=3)
    save_file(
        {name.removeprefix("bert."): t for name, t in tensors.items() if name.startswith("bert.")},
        headless / "model.safetensors",
        metadata={"format": "pt"},
    )
    for place, backbone in enumerate((other, headless)):
        assert evaluate_with_head(tmp_path / f"work{place}", backbone, own, data) == pq.read_table(alone / "samples.parquet").to_pydict()


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, llama: Path, bert: Path):
    own, wide = expert(tmp_path / "own", TOPICS, 1), expert(tmp_path / "wide", TOPICS, 1, hidden=64)
    data = write_labelled(tmp_path / "data", own)
    with pytest.raises(IncompatibleModels, match="head of the head does not fit the model: .* is .* in the model and .*same base"):
        evaluate_with_head(tmp_path / "w1", wide, own, data)
    with pytest.raises(IncompatibleModels, match="the model is a llama model, the head the head belongs to a bert model"):
        evaluate_with_head(tmp_path / "w2", llama, own, data)
    with pytest.raises(IncompatibleModels, match="the head is no classifier, so it has no head to give"):
        evaluate_with_head(tmp_path / "w3", own, bert, data)
    with pytest.raises(IncompatibleModels, match="classes business, politics, sport, tech apart"):
        evaluate_with_head(tmp_path / "w4", bert, own, write_labelled(tmp_path / "two", own, labels=["no", "yes"]))
    with pytest.raises(ConfigError, match="needs a language model, which keeps its own head. Leave the input 'head' out"):
        evaluate_with_head(tmp_path / "w5", llama, own, write_instructions(tmp_path / "text", llama))
