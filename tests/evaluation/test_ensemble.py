"""The step from models to report: what is combined is what *evaluate* measures of each, and the report is read like one of its own."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import logsumexp
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.evaluation import evaluate as evaluation
from lfm_tasks.evaluation.answers import Texts
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.ensemble.combine import combine
from lfm_tasks.evaluation.ensemble.config import EnsembleConfig
from lfm_tasks.evaluation.ensemble.ensemble import run
from lfm_tasks.metrics.answers import read_answer
from lfm_tasks.metrics.samples import SCHEMA
from lfm_tasks.models.saving import save_model
from lfm_tasks.promotion import gate
from lfm_tasks.promotion.config import GateConfig
from lfm_tasks.selection import compare, select
from lfm_tasks.selection.compare_config import CompareConfig
from lfm_tasks.selection.config import SelectConfig
from lfm_tasks.step import Input, Outcome
from tests.prepared import TOPICS, write_instructions, write_labelled, write_texts
from tests.toys import make_bert, make_llama
from tests.tuned import Context, model_input

FAST = {"bootstrap_samples": 100}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They are those of *evaluate*, and take longer than asking toys."""
    monkeypatch.setattr("lfm_tasks.evaluation.report.draw_group", lambda *_: [])


@pytest.fixture(scope="module")
def llamas(tmp_path_factory) -> list[Input]:
    root = tmp_path_factory.mktemp("llamas")
    for seed in range(3):
        make_llama(root / str(seed), seed=seed)
    return [model_input(root / str(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def berts(tmp_path_factory) -> list[Input]:
    root = tmp_path_factory.mktemp("berts")
    for seed in range(3):
        model = make_bert(root / f"toy{seed}", labels=TOPICS, seed=seed)
        save_model(model, root / f"toy{seed}", root / str(seed), labels=TOPICS)
    return [model_input(root / str(seed)) for seed in range(3)]


def dataset(path: Path) -> Input:
    return Input("data", "dataset", "d" * 64, path)


def ensemble(workdir: Path, models: list[Input], data: Path, method: str, options=(), general: Path | None = None, **values):
    inputs = {f"models.{place}": model for place, model in enumerate(models)} | {"dataset": dataset(data)}
    inputs |= {"general": Input("general", "dataset", "e" * 64, general)} if general else {}
    context = values.pop("context", None) or Context(workdir)
    outcome = run(EnsembleConfig(**FAST, method=method, options=dict(options), **values), inputs, context)
    return outcome, outcome.outputs["report"].path


def alone(workdir: Path, model: Input, data: Path, **values) -> tuple[Outcome, Path]:
    outcome = evaluation.run(EvaluateConfig(**FAST, **values), {"model": model, "dataset": dataset(data)}, Context(workdir))
    return outcome, outcome.outputs["report"].path


def samples(report: Path) -> dict[str, list]:
    table = pq.read_table(report / "samples.parquet")
    assert table.schema.equals(SCHEMA)
    return table.to_pydict()


def test_classes_are_combined_from_what_evaluate_finds(tmp_path: Path, berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path)
    outcome, report = ensemble(tmp_path / "all", berts, data, "probability_mean", {"weights": [1, 2, 1]})
    members = [alone(tmp_path / str(k), model, data) for k, model in enumerate(berts)]
    found, theirs = samples(report), [samples(path) for _, path in members]
    expected = np.average([one["probabilities"] for one in theirs], axis=0, weights=[1, 2, 1])
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-12)
    assert found["prediction"] == [TOPICS[code] for code in expected.argmax(axis=1)]
    codes = [TOPICS.index(label) for label in found["target"]]
    np.testing.assert_allclose(found["nll"], -np.log(expected[np.arange(len(codes)), codes]))
    for place, (measured, _) in enumerate(members):
        assert outcome.metrics[f"models.{place}/classification/accuracy"] == measured.metrics["classification/accuracy"]


def test_the_report_has_the_form_of_an_evaluation_and_is_compared_selected_and_judged_as_one(tmp_path: Path, berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path)
    reports = []
    for split in ("test", "validation"):
        made, together = ensemble(tmp_path / f"{split} all", berts, data, "logit_mean", split=split)
        one = alone(tmp_path / f"{split} one", berts[0], data, split=split)[1]
        reports.append([Input("ensemble", "report", "1" * 64, together), Input("member", "report", "2" * 64, one)])
    described = [json.loads((report.path / "metrics.json").read_text()) for report in reports[0]]
    assert described[0].keys() == described[1].keys()
    assert described[0]["metrics"].keys() == described[1]["metrics"].keys()
    gate.run(GateConfig(bootstrap_samples=100), dict(zip(("challenger", "champion"), reports[0], strict=True)), Context(tmp_path / "gate"))
    inputs = {f"reports.{place}": report for place, report in enumerate(reports[1])}
    assert select.run(SelectConfig(), inputs, Context(tmp_path / "select")).summary["table"][0]["model_sha256"] != berts[0].sha256
    cost = {name: made.metrics[name] for name in ("cpu_seconds", "peak_memory_bytes", "extra_parameters")}
    named = [{"name": "ensemble", **cost}, {"name": "member", "role": "expert", "expert_of": "topics"}]
    cells = [{"subject": one["name"], "task": "topics"} for one in named]
    inputs = {f"reports.{place}": report for place, report in enumerate(reports[0])}
    compared = compare.run(CompareConfig(subjects=named, cells=cells), inputs, Context(tmp_path / "compare"))
    assert [one["extra_parameters"] for one in compared.summary["subjects"]] == [made.metrics["extra_parameters"], 0]


def test_a_sceptic_finds_the_members_beside_the_ensemble(tmp_path: Path, berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path, 40)
    outcome, report = ensemble(tmp_path / "all", berts, data, "vote")
    scrutiny = json.loads((report / "ensemble.json").read_text())
    theirs = [samples(alone(tmp_path / str(k), model, data)[1]) for k, model in enumerate(berts)]
    said, right = np.array([one["prediction"] for one in theirs]), np.array([one["correct"] for one in theirs])
    found = scrutiny["groups"]["classification"]
    assert found["disagreement"] == pytest.approx(np.mean([(said[a] != said[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]))
    assert found["any_right"] == pytest.approx(right.max(axis=0).mean())
    assert found["agreement"] == pytest.approx((said == np.array(samples(report)["prediction"])).mean(axis=1))
    best, together = right.mean(axis=1).argmax(), np.array(samples(report)["correct"])
    gained, lost = int(((together == 1) & (right[best] == 0)).sum()), int(((together == 0) & (right[best] == 1)).sum())
    assert (found["against_best"]["member"], found["against_best"]["gained"], found["against_best"]["lost"]) == (best, gained, lost)
    one = scrutiny["members"][0]["parameters"]
    assert (outcome.metrics["parameters"], outcome.metrics["extra_parameters"]) == (3 * one, 2 * one)
    assert f"{3 * one:,} parameters are in use" in (report / "report.md").read_text()


def models_in_memory() -> int:
    return sum(issubclass(type(one), PreTrainedModel) and hasattr(one, "lm_head") for one in gc.get_objects())


class Counting(Context):
    """Counts the models in memory, beyond those of other tests, whenever samples are done."""

    def report(self, done: int, total: int, metrics=None) -> None:
        self.open.add(models_in_memory() - self.before)
        super().report(done, total, metrics)


@pytest.mark.parametrize("method", ["probability_mean", "member_likelihood"])
def test_one_model_is_in_memory_at_a_time(tmp_path: Path, llamas: list[Input], method: str):
    data = write_instructions(tmp_path / "data", llamas[0].path, 6, choices=method == "probability_mean")
    context = Counting(tmp_path / "work")
    gc.collect()
    context.open, context.before = set(), models_in_memory()
    ensemble(tmp_path / "work", llamas, data, method, max_new_tokens=3, context=context)
    assert context.open == {1}


def test_choices_are_the_mean_of_log_likelihoods(tmp_path: Path, llamas: list[Input]):
    data = write_instructions(tmp_path / "data", llamas[0].path)
    found = samples(ensemble(tmp_path / "all", llamas, data, "logit_mean")[1])
    theirs = [np.log(samples(alone(tmp_path / str(k), model, data)[1])["probabilities"]) for k, model in enumerate(llamas)]
    mean = np.mean(theirs, axis=0)
    np.testing.assert_allclose(np.log(found["probabilities"]), mean - logsumexp(mean, axis=1, keepdims=True), atol=1e-9)


def test_perplexity_is_that_of_the_mixture_of_next_token_distributions(tmp_path: Path, llamas: list[Input]):
    data = write_texts(tmp_path / "data", llamas[0].path)
    outcome, report = ensemble(tmp_path / "all", llamas[:2], data, "probability_mean", {"weights": [3, 1]})
    rows = evaluation.read_rows(data, "test")
    each = []
    for model in llamas[:2]:
        plan = [(evaluation.TASKS["perplexity"], rows)]
        subject, _ = evaluation.open_subject(model, None, plan, 0)
        each.append(plan[0][0].ask(subject, rows, EvaluateConfig(), lambda done: None).log_probabilities)
    expected = [-np.log(0.75 * np.exp(a) + 0.25 * np.exp(b)).sum() for a, b in zip(*each, strict=True)]
    np.testing.assert_allclose(samples(report)["nll"], expected)
    assert outcome.metrics["text/perplexity"] < max(outcome.metrics[f"models.{k}/text/perplexity"] for k in range(2))


def test_general_text_is_measured_where_the_method_can_and_said_to_be_left_out_where_it_cannot(tmp_path: Path, llamas: list[Input]):
    data, general = write_instructions(tmp_path / "data", llamas[0].path), write_texts(tmp_path / "general", llamas[0].path)
    assert "general/perplexity" in ensemble(tmp_path / "a", llamas[:2], data, "probability_mean", general=general)[0].metrics
    skipped = ensemble(tmp_path / "b", llamas[:2], data, "vote", general=general)[0].summary["skipped"]
    assert skipped["general/perplexity"] == {"possible": False, "reason": "vote combines no next-token probabilities"}


@pytest.mark.parametrize("method", ["minimum_bayes_risk", "member_likelihood"])
@pytest.mark.parametrize("comparisons", ["all", "bubble"])
def test_the_chosen_answer_is_one_of_the_members(tmp_path: Path, llamas: list[Input], method: str, comparisons: str):
    data = write_instructions(tmp_path / "data", llamas[0].path, 8, choices=False)
    _, report = ensemble(tmp_path / "all", llamas, data, method, {"comparisons": comparisons}, max_new_tokens=4)
    theirs = [samples(alone(tmp_path / str(k), model, data, max_new_tokens=4)[1])["prediction"] for k, model in enumerate(llamas)]
    assert all(chosen in answers for chosen, *answers in zip(samples(report)["prediction"], *theirs, strict=True))


def test_the_answer_is_read_in_the_text_that_was_chosen(tmp_path: Path, llamas: list[Input]):
    data = write_instructions(tmp_path / "data", llamas[0].path, 8, choices=False)
    found = samples(ensemble(tmp_path / "all", llamas, data, "member_likelihood", max_new_tokens=4, answer_marks=["e"])[1])
    theirs = [samples(alone(tmp_path / str(k), model, data, max_new_tokens=4)[1])["prediction"] for k, model in enumerate(llamas)]
    assert all(chosen in texts for chosen, *texts in zip(found["text"], *theirs, strict=True))
    assert found["prediction"] == [read_answer(text, ["e"]) for text in found["text"]]


def test_likeness_is_of_the_answers_that_are_read(tmp_path: Path, llamas: list[Input]):
    """Two reason differently to one answer; the third's text is like both, the answer another (Wang et al. 2022: a majority of answers)."""
    data = write_instructions(tmp_path / "data", llamas[0].path, 1, choices=False)
    rows, card = evaluation.read_rows(data, "test"), METHODS["minimum_bayes_risk"]
    written = ("aa bb cc dd so: sport", "ee ff gg hh so: sport", "aa bb cc ee ff gg so: tech")
    for marks, similarity, expected in ((("so:",), "exact", 0), (("so:",), "token_f1", 0), ((), "token_f1", 2)):
        members = [Texts("generation", rows, [np.array([k])] * len(rows), [text] * len(rows), marks) for k, text in enumerate(written)]
        table, _ = combine(card.function, card.config_class(similarity=similarity), members, (), {})
        assert table["text" if marks else "prediction"].to_pylist() == [written[expected]] * len(rows)


def test_the_likeliest_answer_under_all_members_is_chosen(tmp_path: Path, llamas: list[Input]):
    """Against the perplexity of each candidate, asked as a data set of its own."""
    data = write_instructions(tmp_path / "data", llamas[0].path, 8, choices=False)
    _, report = ensemble(tmp_path / "all", llamas, data, "member_likelihood", max_new_tokens=4)
    rows = evaluation.read_rows(data, "test")
    plan = [(evaluation.TASKS["generation"], rows)]
    subjects = [evaluation.open_subject(model, None, plan, 0)[0] for model in llamas]
    said = [plan[0][0].ask(subject, rows, EvaluateConfig(max_new_tokens=4), lambda done: None) for subject in subjects]
    for row, chosen in enumerate(samples(report)["prediction"]):
        merit = {}
        for texts in said:
            ids = np.concatenate([rows.input_ids[row][: rows.columns["prompt_tokens"][row]], texts.tokens[row]])
            ids = ids if len(texts.tokens[row]) == 4 else np.append(ids, 2)
            asked = [evaluation.Perplexity().ask(s, _one(rows, row, ids), EvaluateConfig(), lambda done: None) for s in subjects]
            merit[texts.texts[row]] = np.mean([answer.log_probabilities[0].mean() for answer in asked])
        assert chosen == max(merit, key=merit.get)


def _one(rows, row: int, ids: np.ndarray):
    return type(rows)(rows.description, [rows.sample_id[row]], [ids], {name: [values[row]] for name, values in rows.columns.items()})


def test_fitted_methods_are_fitted_on_validation(tmp_path: Path, berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path, 40)
    first = pq.read_table(data / "test.parquet")
    pq.write_table(first.slice(0, 10), data / "validation.parquet")
    outcome, report = ensemble(tmp_path / "a", berts, data, "temperature_scaled", {"fit_samples": 8})
    learned = outcome.summary["ensemble"]["learned"]["classification"]
    assert learned["fitted_on"] == 8 and len(learned["temperatures"]) == 3
    assert "fitted on validation: fitted on 8; temperatures" in (report / "report.md").read_text()
    before = samples(report)
    turned = first.set_column(first.column_names.index("label"), "label", [np.roll(first["label"].to_numpy(), 1)])
    pq.write_table(turned, data / "test.parquet")
    after = samples(ensemble(tmp_path / "b", berts, data, "temperature_scaled", {"fit_samples": 8})[1])
    assert after["probabilities"] == before["probabilities"] and after["target"] != before["target"]
    stacked = ensemble(tmp_path / "c", berts, data, "stacking")[0].summary["ensemble"]["learned"]["classification"]
    assert stacked["nll_fitted"] < stacked["nll_of_mean"]


def test_a_head_stands_in_for_every_members_own(tmp_path: Path, berts: list[Input]):
    """As lfm_merge measures everybody on a task with the head of that task's own model."""
    data = write_labelled(tmp_path / "data", berts[0].path)
    inputs = {"models.0": berts[1], "models.1": berts[2], "dataset": dataset(data), "head": berts[0]}
    report = run(EnsembleConfig(**FAST), inputs, Context(tmp_path / "all")).outputs["report"].path
    assert json.loads((report / "metrics.json").read_text())["head_sha256"] == berts[0].sha256
    each = []
    for place, model in enumerate(berts[1:]):
        given = {"model": model, "dataset": dataset(data), "head": berts[0]}
        each.append(samples(evaluation.run(EvaluateConfig(**FAST), given, Context(tmp_path / str(place))).outputs["report"].path))
    np.testing.assert_allclose(samples(report)["probabilities"], np.mean([one["probabilities"] for one in each], axis=0), atol=1e-12)


def test_equal_ensembles_have_equal_bytes_and_a_digest_of_their_own(tmp_path: Path, berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path)
    reports = [ensemble(tmp_path / str(k), berts, data, "stacking")[1] for k in range(2)]
    for path in sorted(reports[0].rglob("*.*")):
        assert path.read_bytes() == (reports[1] / path.relative_to(reports[0])).read_bytes()
    names = [json.loads((reports[0] / "metrics.json").read_text())["model_sha256"]]
    for method, models in (("vote", berts), ("stacking", berts[:2])):
        report = ensemble(tmp_path / f"{method}{len(models)}", models, data, method)[1]
        names.append(json.loads((report / "metrics.json").read_text())["model_sha256"])
    assert len({*names, *(model.sha256 for model in berts)}) == 6


def test_what_cannot_be_combined_is_refused_with_what_to_do(tmp_path: Path, llamas: list[Input], berts: list[Input]):
    data = write_labelled(tmp_path / "data", berts[0].path)
    with pytest.raises(ConfigError, match="weights: 2 were given for 3 models. Give one for each"):
        ensemble(tmp_path / "a", berts, data, "vote", {"weights": [1, 2]})
    with pytest.raises(ConfigError, match=r"weights: \[1.0, -1.0\] are no shares. Give numbers from 0 up"):
        EnsembleConfig(method="vote", options={"weights": [1, -1]})
    with pytest.raises(ConfigError, match="split: stacking is fitted on the validation split.*Use split=test"):
        ensemble(tmp_path / "b", berts, data, "stacking", split="validation")
    with pytest.raises(
        ConfigError, match="minimum_bayes_risk combines generation; the task here is classification, which probability_mean"
    ):
        ensemble(tmp_path / "c", berts, data, "minimum_bayes_risk")
    with pytest.raises(ConfigError, match="minimum_bayes_risk compares the answers of 3 models or more; 2 were given"):
        ensemble(tmp_path / "d", berts[:2], data, "minimum_bayes_risk")
    with pytest.raises(
        ConfigError, match="logit_mean combines choice and classification; the task here is perplexity, which probability_mean"
    ):
        ensemble(tmp_path / "e", llamas, write_texts(tmp_path / "text", llamas[0].path), "logit_mean")
    with pytest.raises(ConfigError, match="Unknown method 'mean'"):
        EnsembleConfig(method="mean")
    model = make_bert(tmp_path / "toy", labels=["no", "yes"])
    save_model(model, tmp_path / "toy", tmp_path / "other", labels=["no", "yes"])
    with pytest.raises(IncompatibleModels, match="other tells the classes no, yes apart"):
        ensemble(tmp_path / "f", [berts[0], model_input(tmp_path / "other")], data, "vote")
