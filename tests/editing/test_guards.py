"""Every guard of an edit: a case that it lets through and one that it does not; and what was measured beside another way to measure it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lfm_tasks.catalogue import methods_of
from lfm_tasks.editing.asking import answers, mean_nll
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.guards import RULES, judge, judge_facts, largest_singular_value, relative_norm
from lfm_tasks.editing.guards_config import CHECKS, GuardOptions
from lfm_tasks.editing.measuring import moments_checks
from lfm_tasks.editing.moments import KeyMoments
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.facts.record import Fact, Probe
from tests.guarded import FACTS, OPTIONS, harmful, rounds_of, toy

FOX = FACTS[0]
SAME_KEY = FOX.text + " in"
"""Its subject has the key of FOX: attention looks back only."""


def keys(count: int, width: int = 16) -> torch.Tensor:
    return torch.randn(width, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def checked(rounds) -> dict[str, tuple[str, float]]:
    """Outcome and value by check: of the last round that stayed, or of the first fact that did not."""
    rounds.run()
    quarantined = list(rounds.quarantined.values())
    found = quarantined[0]["checks"] if quarantined else rounds.new[-1].note["guards"]
    return {one["name"]: (one["outcome"], one["value"]) for one in found}


def likeliest(editing, prompt: str, rank: int = 0) -> str:
    """The word that is likeliest after the prompt, or so many places behind it."""
    ids = torch.tensor([editing.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        ranked = editing.model(ids).logits[0, -1].argsort(descending=True).tolist()
    words = [editing.tokenizer.decode([token]) for token in ranked]
    return [word.strip() for word in words if word.startswith(" ") and word.strip().isalpha()][rank]


def known_fact(editing) -> Fact:
    """One that the model says by itself."""
    for subject in ("film", "bank", "striker", "chip", "election", "fair", "actor", "dog", "minister", "phone"):
        text = f"The {subject} won three"
        if answers(editing.model, editing.tokenizer, [(text, likeliest(editing, text))]).free.all():
            return Fact("known", subject, "The {} won three", "other", target_true=likeliest(editing, text))
    raise AssertionError("the toy says a word to none of the prompts")


@pytest.mark.parametrize("name", CHECKS)
def test_a_limit_is_met_or_missed_on_the_side_that_the_rule_says_and_nan_misses_it(name):
    options = GuardOptions(warn=[])
    limit, sign = options.limits(name)[0], 1 if RULES[name].bound == "most" else -1
    assert judge(name, limit - sign * abs(limit) * 10, options).outcome == "pass"
    assert judge(name, limit + sign * 0.01, options).outcome == "fail"
    assert judge(name, math.nan, options).outcome == "fail"
    assert judge(name, limit + sign * 0.01, GuardOptions(warn=[name])).outcome == "warn"
    assert judge_facts(name, {"a": limit + sign * 0.01}, GuardOptions(off=[name])) == []


def test_what_a_methods_own_clamp_allows_is_not_refused_by_default():
    """v = v0 + delta with |delta| of at most clamp |v0|."""
    clamps = [card.config_class().clamp for card in methods_of("edit") if "clamp" in card.config_class.model_fields]
    assert clamps and GuardOptions().norm > 1 + max(clamps)


def test_between_its_two_limits_a_check_warns():
    assert [judge("change", value, GuardOptions()).outcome for value in (0.1, 0.5, 0.9)] == ["pass", "warn", "fail"]
    assert [judge("tokens", value, GuardOptions()).outcome for value in (20, 5, 1)] == ["pass", "warn", "fail"]


def test_the_facts_that_miss_a_limit_by_themselves_are_named():
    (check,) = judge_facts("target", {"a": 0.1, "b": 5.0, "c": math.nan}, GuardOptions())
    assert (check.outcome, check.facts) == ("fail", ("b", "c")) and math.isnan(check.value)


def test_tokens_of_the_moments():
    passed = moments_checks([KeyMoments(keys(400) @ keys(400).T / 400, 400)], GuardOptions())
    assert [(one.name, one.outcome) for one in passed] == [("tokens", "pass"), ("condition", "pass")]
    with pytest.raises(DataError, match="tokens 1.25, at least 2 is allowed. Gather key moments from more rows"):
        moments_checks([KeyMoments(keys(20) @ keys(20).T / 20, 20)], GuardOptions(off=["condition"]))


def test_condition_of_the_moments_is_that_of_c_with_its_ridge():
    known = KeyMoments(keys(400) @ keys(400).T / 400, 400)
    assert known.condition == pytest.approx(float(torch.linalg.cond(known.mean + known.ridge * torch.eye(16))), rel=1e-9)
    with pytest.raises(DataError, match="condition"):
        moments_checks([known], GuardOptions(condition=known.condition * 0.99))
    broken = KeyMoments(torch.full((16, 16), math.nan, dtype=torch.float64), 400)
    with pytest.raises(DataError, match="condition nan"):
        moments_checks([broken], GuardOptions())


def test_key_cosine(tmp_path):
    assert checked(rounds_of(toy(tmp_path / "bare"), [FOX], guards={"warn": []}))["key_cosine"] == ("pass", 1.0)
    outcome, value = checked(rounds_of(toy(tmp_path / "contexts"), [FACTS[1]], prefixes=1, guards={"warn": []}))["key_cosine"]
    assert outcome == "fail" and value < 0.7


def test_strength_is_a_share_of_the_rounds_median(tmp_path):
    rounds = rounds_of(toy(tmp_path), guards={"warn": [], "strength": 0.3})
    rounds.run()
    strengths = [figures["strength"] for figures in rounds.new[0].note["facts"]]
    expected = min(strengths) / sorted(strengths)[3]
    assert {one["name"]: one["value"] for one in rounds.new[0].note["guards"]}["strength"] == pytest.approx(expected, rel=0.1)
    assert "strength" in checked(rounds_of(toy(tmp_path / "strict"), guards={"warn": [], "strength": 0.9}))


def test_target_and_efficacy(tmp_path):
    found = checked(rounds_of(toy(tmp_path / "searched"), [FOX]))
    assert found["target"][0] != "fail" and found["efficacy"] == ("pass", 1.0)
    assert checked(rounds_of(toy(tmp_path / "one step"), [FOX], steps=1))["target"][0] == "fail"
    assert checked(rounds_of(toy(tmp_path / "unchecked"), [FOX], steps=1, guards={"off": ["target"]}))["efficacy"] == ("fail", 0.0)


@pytest.mark.parametrize(("name", "limit"), [("norm", 1.2), ("change", 0.3), ("drift", 0.3), ("spectrum", 1.1)])
def test_size_of_the_change(tmp_path, name, limit):
    assert checked(rounds_of(toy(tmp_path / "loose"), [FOX]))[name][0] != "fail"
    assert checked(rounds_of(toy(tmp_path / "strict"), [FOX], guards={name: limit}))[name][0] == "fail"


def test_a_change_that_is_not_finite_is_not_asked_anything_more(tmp_path):
    def broken(editing, facts, options):
        made = METHOD.edit(editing, facts, options)
        return dataclasses.replace(made, changes=tuple(dataclasses.replace(one, left=one.left * math.nan) for one in made.changes))

    METHOD = rounds_of(toy(tmp_path / "whole"), [FOX]).method
    found = checked(rounds_of(toy(tmp_path / "broken"), [FOX], method=dataclasses.replace(METHOD, edit=broken)))
    assert found == {"finite": ("fail", 0.0)}


def test_retention_sees_what_perplexity_does_not(tmp_path):
    """ROME writes a key that an earlier fact's is near to: that fact is gone, general text is as likely as before."""
    other = Fact("again", FOX.subject, "The Article: {}", "tim")
    rounds = rounds_of(toy(tmp_path), [FOX, other], name="rome", covariance="identity", layers=[0])
    rounds.run()
    assert [one.facts for one in rounds.new] == [("fox",)] and list(rounds.quarantined) == ["again"]
    why = rounds.quarantined["again"]
    assert [(one["name"], one["value"]) for one in why["checks"]] == [("retention", 0.0)]
    assert why["nearest"] == {"fact": "fox", "cosine": pytest.approx(0.996, abs=2e-3), "layer": 0}
    assert "retention 0, at least 0.9 is allowed. Leave remember on" in why["reason"]
    free = {"off": ["retention"]}
    unguarded = rounds_of(toy(tmp_path / "unguarded"), [FOX, other], name="rome", covariance="identity", layers=[0], guards=free)
    unguarded.run()
    ratios = [{one["name"]: one["value"] for one in written.note["guards"]}["perplexity"] for written in unguarded.new]
    assert len(ratios) == 2 and abs(ratios[1] - ratios[0]) < 0.05
    said = answers(unguarded.editing.model, unguarded.editing.tokenizer, [(one.text, one.target_new) for one in (FOX, other)])
    assert said.free.tolist() == [False, True]


def test_locality_of_neighbours_that_were_not_edited(tmp_path):
    editing = toy(tmp_path)
    near = dataclasses.replace(FOX, relation="topic", neighbours=(Probe("Article: lazy dog", (likeliest(editing, "Article: lazy dog"),)),))
    assert checked(rounds_of(editing, [near]))["locality"] == ("pass", 1.0)
    shared = dataclasses.replace(FOX, neighbours=(Probe(SAME_KEY, (likeliest(editing, SAME_KEY),)),))
    limits = {"spectrum": 1e9, "change": 1e9, "drift": 1e9, "perplexity": 1e9, "off": ["efficacy"]}
    spoiled = checked(rounds_of(toy(tmp_path / "near"), [shared], method=harmful(rounds_of(editing, [FOX]).method, "fox"), guards=limits))
    assert spoiled["locality"] == ("fail", 0.0)
    edited = [near, dataclasses.replace(FACTS[2], relation="topic")]
    assert "locality" not in checked(rounds_of(toy(tmp_path / "edited"), edited))


def test_neighbours_that_are_no_longer_said_though_still_preferred_are_a_warning(tmp_path):
    editing = toy(tmp_path)
    said = known_fact(editing)
    near = dataclasses.replace(FACTS[2], neighbours=(Probe(said.text, (said.target_true,)), Probe("Article: lazy dog", ("tim",))))
    assert checked(rounds_of(editing, [near]))["neighbour_answers"] == ("pass", 1.0)
    loose = {"spectrum": 1e9, "change": 1e9, "drift": 1e9, "perplexity": 1e9, "off": ["efficacy", "locality"]}
    none_asked = rounds_of(toy(tmp_path / "none"), [near], method=harmful(rounds_of(editing, [FOX]).method, near.id), guards=loose)
    assert "neighbour_answers" not in checked(none_asked)
    wild = rounds_of(
        toy(tmp_path / "wild"),
        [near],
        method=harmful(rounds_of(editing, [FOX]).method, near.id),
        guards=loose | {"off": ["efficacy"], "locality": 0.0},
    )
    assert checked(wild)["neighbour_answers"] == ("warn", 0.0)


def test_perplexity_and_probe(tmp_path):
    editing = toy(tmp_path)
    known = known_fact(editing)
    calm = rounds_of(editing, [FACTS[2]])
    calm.guard.probe = [known]
    found = checked(calm)
    assert found["perplexity"][0] == "pass" and found["probe"] == ("pass", 1.0)
    loose = {"spectrum": 1e9, "change": 1e9, "drift": 1e9}
    wild = rounds_of(toy(tmp_path / "wild"), [FACTS[2]], method=harmful(calm.method, FACTS[2].id), guards=loose)
    wild.guard.probe = [known]
    spoiled = checked(wild)
    assert spoiled["perplexity"][0] == "fail" and spoiled["probe"] == ("fail", 0.0)


def test_what_is_said_freely_is_seen_without_decoding(tmp_path):
    """One padded pass says what greedy decoding would say, and no row sees another one's padding."""
    editing = toy(tmp_path)
    model, tokenizer = editing.model, editing.tokenizer
    prompts = [fact.text for fact in FACTS] + ["The central bank raised", "A"]
    ids = [torch.tensor([tokenizer(prompt)["input_ids"]]) for prompt in prompts]
    made = [model.generate(one, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)[0, one.shape[1] :] for one in ids]
    said = [tokenizer.decode(one) for one in made]
    pairs = [
        (prompt, text[1:]) for prompt, text in zip(prompts, said, strict=True) if text.startswith(" ") and text[1:].strip() == text[1:]
    ]
    assert pairs and answers(model, tokenizer, pairs).free.all()
    assert not answers(model, tokenizer, [(prompt, text + "x") for prompt, text in pairs]).free.any()
    alone = [float(answers(model, tokenizer, [pair]).nll) for pair in pairs]
    torch.testing.assert_close(answers(model, tokenizer, pairs).nll, torch.tensor(alone), rtol=1e-5, atol=1e-5)


def test_mean_nll_is_the_models_own_loss(tmp_path):
    editing = toy(tmp_path)
    row = torch.tensor(editing.tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"])
    expected = float(editing.model(row[None], labels=row[None]).loss)
    assert mean_nll(editing.model, [row, row[:1]]) == pytest.approx(expected, rel=1e-5)


def test_norms_of_factors_and_the_largest_singular_value():
    left, right, base = keys(3, 20), keys(3, 16) + 1, keys(16, 20)
    every = [(left, right), (left + 1, right - 2)]
    total = left @ right.T + (left + 1) @ (right - 2).T
    assert relative_norm(every, base) == pytest.approx(float(total.norm() / base.norm()), rel=1e-10)
    assert largest_singular_value(base) == pytest.approx(float(torch.linalg.matrix_norm(base, 2)), rel=1e-3)


def test_a_check_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="Unknown check 'retension'. Did you mean 'retention'"):
        EditConfig(guards={"off": ["retension"]})
    with pytest.raises(ConfigError, match="guards"):
        EditConfig(guards={"retension": 0.5})
    assert EditConfig(guard="warn").guard_options().level("retention") == "warn"
    assert OPTIONS["targets"] == "base"
