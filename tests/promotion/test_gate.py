"""The gate's laws, its refusals, and its error rates by simulation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.metrics.catalogue import metric_names
from lfm_tasks.metrics.samples import sample_table, write_samples
from lfm_tasks.promotion.comparison import compare
from lfm_tasks.promotion.config import GateConfig
from lfm_tasks.promotion.gate import assign_roles, decide, run
from lfm_tasks.promotion.reports import Report, check_comparable, read_report
from lfm_tasks.step import Input
from tests.reported import SETTINGS, answers, description
from tests.tuned import Context

NOT_POSSIBLE = {name: {"possible": False, "reason": "a classifier has no next-token probabilities"} for name in metric_names("general")}


def report(model: str, correct: np.ndarray, nll: np.ndarray | None = None, group: str = "choice", skipped: dict | None = None) -> Report:
    """A report on ``len(correct)`` choices and ``len(nll)`` general texts of 50 tokens."""
    tables = [answers(correct, group)]
    if nll is not None:
        ids = [f"{i:064x}" for i in range(len(nll))]
        sizes = {"tokens": np.full(len(nll), 50), "bytes": np.full(len(nll), 200)}
        tables.append(sample_table("general", {"sample_id": ids, "prompt_sha256": ids, "nll": nll, **sizes}))
    metrics = {name: {} for name in metric_names(group) + ([] if nll is None else metric_names("general"))}
    described = description(model * 64, "d" * 64, metrics)
    if nll is not None:
        described |= {"general_sha256": "e" * 64, "skipped": {}}
    elif skipped is not None:
        described |= {"skipped": skipped}
    return Report(described, pa.concat_tables(tables), model * 64)


def judge(challenger: Report, champion: Report, **options):
    """(outcome, reasons, comparisons by name), without files."""
    config = GateConfig(**{"bootstrap_samples": 500, **options})
    found = [compare(name, role, challenger, champion, config) for name, role in assign_roles(config, champion).items()]
    decision = decide(config, found, challenger, champion)
    return decision.outcome(config.ask_when_uncertain), decision.reasons, {each.name: each for each in found}


def hits(n: int, right: int) -> np.ndarray:
    return (np.arange(n) < right).astype(int)


TEXTS = np.linspace(120.0, 180.0, 60)


def test_the_champion_against_itself_is_rejected_because_it_is_the_champion():
    outcome, reasons, _ = judge(report("a", hits(50, 30), TEXTS), report("a", hits(50, 30), TEXTS))
    assert outcome == "reject"
    assert "The challenger is the champion" in reasons[0]


def test_another_model_with_the_same_answers_is_rejected():
    outcome, reasons, found = judge(report("b", hits(50, 30), TEXTS), report("a", hits(50, 30), TEXTS))
    assert outcome == "reject"
    assert "no improvement" in reasons[0]
    assert (found["choice/accuracy"].low, found["choice/accuracy"].high) == (0, 0)


def test_a_clearly_better_challenger_that_forgets_nothing_is_promoted():
    outcome, reasons, found = judge(report("b", hits(200, 180), TEXTS * 1.001), report("a", hits(200, 120), TEXTS))
    assert outcome == "promote"
    assert re.search(r"choice/accuracy rose from 60.0% to 90.0% \(\+30.0 points.*60 samples gained, 0 lost.*improvement", reasons[0])
    assert re.search(r"general/perplexity rose from .*within the tolerated \+5.0%", reasons[1])
    assert found["choice/accuracy"].verdict == "better"


def test_a_few_wins_are_not_enough_and_a_person_is_asked():
    few = report("b", hits(6, 5), TEXTS), report("a", hits(6, 2), TEXTS)
    outcome, reasons, found = judge(*few)
    assert outcome == "ask"
    assert "do not settle" in reasons[0]
    assert found["choice/accuracy"].low > 0, "the bootstrap alone would have been convinced"
    assert judge(*few, ask_when_uncertain=False)[0] == "reject"


@pytest.mark.parametrize("gain", [60, 80])
def test_a_regression_that_must_not_be_rejects_however_good_the_primary_metric_is(gain: int):
    outcome, reasons, found = judge(report("b", hits(200, 100 + gain), TEXTS * 1.05), report("a", hits(200, 100), TEXTS))
    assert outcome == "reject"
    assert found["choice/accuracy"].verdict == "better"
    assert found["general/perplexity"].verdict == "regresses"
    assert "general/perplexity" in reasons[0] and "worse than the tolerated +5.0%" in reasons[0]


def test_a_guard_that_the_samples_do_not_settle_asks():
    noise = np.random.default_rng(0).normal(0, 12, size=60)
    outcome, reasons, found = judge(report("b", hits(200, 180), TEXTS + noise - noise.mean()), report("a", hits(200, 100), TEXTS))
    assert found["general/perplexity"].verdict == "uncertain"
    assert outcome == "ask"
    assert "do not rule out a loss" in reasons[0]


def test_an_accuracy_can_be_guarded_with_a_margin_of_its_own():
    options = {"primary_metric": "general/perplexity", "must_not_regress": ["choice/accuracy"]}
    challenger, champion = report("b", hits(400, 380), TEXTS * 0.97), report("a", hits(400, 388), TEXTS)
    assert judge(challenger, champion, **options)[0] == "promote"
    outcome, reasons, _ = judge(challenger, champion, **options, margins={"choice/accuracy": 0.01})
    assert outcome == "reject"
    assert "worse than the tolerated -1.0 points" in reasons[0]


def test_an_improvement_below_the_least_improvement_is_no_improvement():
    challenger, champion = report("b", hits(1000, 930), TEXTS), report("a", hits(1000, 900), TEXTS)
    assert judge(challenger, champion)[0] == "promote"
    assert judge(challenger, champion, min_improvement=0.05)[0] == "reject"
    assert judge(challenger, champion, min_improvement=0.025)[0] == "ask"
    assert judge(challenger, champion, min_improvement=0.01)[0] == "promote"


def test_swapping_the_roles_negates_every_difference_and_its_interval():
    generator = np.random.default_rng(3)
    one = report("a", generator.integers(0, 2, 80), TEXTS + generator.normal(0, 5, 60))
    two = report("b", generator.integers(0, 2, 80), TEXTS)
    forward, backward = judge(two, one)[2], judge(one, two)[2]
    for name, found in forward.items():
        other = backward[name]
        assert found.difference == pytest.approx(-other.difference, abs=1e-15)
        assert (found.low, found.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
        assert found.p == other.p


def test_what_was_not_measured_cannot_be_vouched_for():
    better = hits(200, 180), hits(200, 100)
    outcome, reasons, _ = judge(report("b", better[0]), report("a", better[1]))
    assert outcome == "ask"
    assert "general/perplexity must not regress, but was not measured: no general text was given" in reasons[0]
    assert judge(report("b", better[0]), report("a", better[1]), must_not_regress=[])[0] == "promote"


def test_a_classifier_is_not_asked_for_a_perplexity():
    challenger, champion = (report(m, hits(200, k), None, "classification", NOT_POSSIBLE) for m, k in (("b", 180), ("a", 100)))
    outcome, reasons, _ = judge(challenger, champion)
    assert outcome == "promote"
    assert "a classifier has no next-token probabilities" in reasons[-1]


def test_metrics_that_nobody_measures_are_refused_with_the_nearest_name():
    both = report("b", hits(20, 9), TEXTS), report("a", hits(20, 9), TEXTS)
    with pytest.raises(ConfigError, match="primary_metric: Unknown metric 'choice/acuracy'. Did you mean 'choice/accuracy'"):
        judge(*both, primary_metric="choice/acuracy")
    with pytest.raises(ConfigError, match="must_not_regress: Unknown metric 'general/perplexty'. Did you mean 'general/perplexity'"):
        judge(*both, must_not_regress=["general/perplexty"])
    with pytest.raises(ConfigError, match=r"margin of general/perplexity is 2.0; use a number from 0"):
        parse_config(GateConfig, {"margins": {"general/perplexity": 2.0}})


def changed(found: Report, **described) -> Report:
    return replace(found, described=found.described | described)


def test_reports_on_other_questions_are_refused():
    champion = report("a", hits(20, 9), TEXTS)
    with pytest.raises(DataError, match="different data set.*Evaluate both models on the same data set"):
        check_comparable(changed(champion, dataset_sha256="0" * 64), champion)
    with pytest.raises(DataError, match="different options.*'length_normalised': True"):
        check_comparable(changed(champion, settings=SETTINGS | {"length_normalised": True}), champion)
    with pytest.raises(DataError, match="not about the same samples: their column 'task' differs in length \\(79 and 80\\)"):
        check_comparable(report("b", hits(19, 9), TEXTS), champion)
    swapped = champion.samples.take([1, 0, *range(2, 80)])
    with pytest.raises(DataError, match="column 'sample_id' differs in row 0"):
        check_comparable(replace(champion, samples=swapped), champion)
    other = champion.samples.set_column(2, "prompt_sha256", [["f" * 64, *champion.samples["prompt_sha256"].to_pylist()[1:]]])
    with pytest.raises(DataError, match="column 'prompt_sha256' differs in row 0"):
        check_comparable(replace(champion, samples=other), champion)


def test_a_directory_that_is_no_report_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="sha256:1 is no evaluation report.*output of evaluate"):
        read_report(Input("sha256:1", "report", "1" * 64, tmp_path))


def write(found: Report, directory: Path) -> Input:
    directory.mkdir()
    (directory / "metrics.json").write_text(json.dumps(found.described))
    write_samples(found.samples, directory / "samples.parquet")
    return Input(directory.name, "report", found.sha256, directory)


def test_the_decision_is_an_artifact_that_names_both_sides(tmp_path: Path):
    challenger, champion = report("b", hits(120, 100), TEXTS), report("a", hits(120, 60), TEXTS)
    inputs = {"challenger": write(challenger, tmp_path / "b"), "champion": write(champion, tmp_path / "a")}
    outcomes = [run(GateConfig(bootstrap_samples=200), inputs, Context(tmp_path / name)) for name in ("one", "two")]
    first, second = (outcome.outputs["decision"].path for outcome in outcomes)
    decision = json.loads((first / "decision.json").read_text())
    assert decision["outcome"] == outcomes[0].summary["outcome"] == "promote"
    assert decision["challenger"] == {"model_sha256": "b" * 64, "report_sha256": "b" * 64}
    assert decision["champion"]["model_sha256"] == "a" * 64
    entry = decision["metrics"]["choice/accuracy"]
    assert entry["role"] == "primary"
    assert entry["mcnemar_p"] == pytest.approx(scipy.stats.binomtest(40, 40).pvalue)
    assert (entry["champion"], entry["challenger"], entry["gained"], entry["lost"]) == (0.5, pytest.approx(100 / 120), 40, 0)
    assert decision["metrics"]["general/perplexity"]["margin"] == pytest.approx(np.log(1.05))
    assert outcomes[0].summary["table"][0]["metric"] == "choice/accuracy"
    names = ["decision.json", "figures/forest.png", "report.md"]
    assert sorted(str(path.relative_to(first)) for path in first.rglob("*.*")) == names
    assert [sha256_file(first / name) for name in names] == [sha256_file(second / name) for name in names]
    assert "# Decision: promote" in (first / "report.md").read_text()


@pytest.mark.parametrize("n", [8, 40, 150])
def test_equal_models_are_promoted_in_at_most_one_case_of_twenty(n: int):
    """Two models that are right equally often, on samples of mixed difficulty. 200 runs: standard error 1.5 points at 5 %."""
    promoted = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        difficulty = generator.beta(2, 2, size=n)
        one, two = (report(model, (generator.random(n) > difficulty).astype(int)) for model in "ab")
        config = GateConfig(bootstrap_samples=200, seed=seed)
        promoted += compare("choice/accuracy", "primary", two, one, config).verdict == "better"
    assert promoted / 200 <= 0.05


def test_equal_perplexities_are_promoted_in_at_most_one_case_of_twenty():
    promoted = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        hard = generator.gamma(9, 15, size=12)
        one, two = (report(model, hits(4, 2), hard + generator.normal(0, 8, 12)) for model in "ab")
        promoted += compare("general/perplexity", "primary", two, one, GateConfig(bootstrap_samples=200, seed=seed)).verdict == "better"
    assert promoted / 200 <= 0.05


def test_a_model_worse_by_just_the_margin_passes_the_guard_in_at_most_one_case_of_twenty():
    passed, n = 0, 150
    for seed in range(200):
        generator = np.random.default_rng(seed)
        champion = (generator.random(n) < 0.85).astype(int)
        challenger = np.where(generator.random(n) < 0.85 - 0.05, 1, 0)
        found = [report(model, column) for model, column in (("b", challenger), ("a", champion))]
        passed += compare("choice/accuracy", "must_not_regress", *found, GateConfig(bootstrap_samples=200, seed=seed)).verdict == "holds"
    assert passed / 200 <= 0.05


def test_power_grows_with_samples_until_a_better_challenger_is_certain_to_pass():
    rates = []
    for n in (30, 120, 600):
        better = 0
        for seed in range(60):
            generator = np.random.default_rng(seed)
            draw = generator.random(n)
            found = [report(model, (draw < share).astype(int)) for model, share in (("b", 0.80), ("a", 0.72))]
            better += compare("choice/accuracy", "primary", *found, GateConfig(bootstrap_samples=200, seed=seed)).verdict == "better"
        rates.append(better / 60)
    assert rates == sorted(rates)
    assert rates[0] < 0.5 < rates[-1] == 1.0
