"""Rounds that do not stay: taken back bit for bit, halved, quarantined; and rounds that go on after a kill."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from lfm_tasks.editing.asking import answers
from lfm_tasks.editing.rounds import Verdict
from lfm_tasks.errors import AttemptKilled, DataError, NonFiniteLoss
from lfm_tasks.models.edits import apply_edits
from tests.guarded import FACTS, equal, fresh, harmful, rounds_of, toy, weights
from tests.located import opened

BAD = "Monday"
LOOSE = {"spectrum": 12.0, "change": 8.0, "drift": 8.0}


def guilty(editing, **values):
    return rounds_of(editing, method=harmful(rounds_of(editing).method, BAD), guards=LOOSE, **values)


def test_one_harmful_fact_of_a_batch_is_found_by_halving_and_the_others_are_written(tmp_path):
    rounds = guilty(toy(tmp_path))
    rounds.run()
    others = [fact for fact in FACTS if fact.id != BAD]
    assert list(rounds.quarantined) == [BAD]
    assert sorted(name for one in rounds.new for name in one.facts) == sorted(fact.id for fact in others)
    said = answers(rounds.editing.model, rounds.editing.tokenizer, [(fact.text, fact.target_new) for fact in others])
    assert said.free.all()
    why = rounds.quarantined[BAD]
    assert why["reason"].startswith("change ") and why["nearest"]["fact"] in {fact.id for fact in others}


def test_the_weights_after_a_round_that_does_not_stay_are_those_before_it(tmp_path):
    editing = toy(tmp_path)
    before = weights(editing)
    rounds = guilty(editing)
    rounds.plan = [[fact for fact in FACTS if fact.id == BAD]]
    rounds.run()
    assert not rounds.new and equal(editing, before)


def test_the_weights_are_the_base_and_the_rounds_that_stayed(tmp_path):
    editing = toy(tmp_path)
    rounds = guilty(editing, size=3)
    rounds.run()
    again = apply_edits(opened(tmp_path / "model"), rounds.new)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in editing.model.state_dict().items())
    with rounds.at_base():
        assert equal(editing, weights(fresh(editing, tmp_path)))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in editing.model.state_dict().items())


def test_halves_are_written_with_what_was_found_for_the_whole(tmp_path):
    """Searches are not made again: as many as facts, however often a round is halved."""
    rounds = guilty(toy(tmp_path))
    searched = []
    inner = rounds.method.edit

    def counting(editing, facts, options):
        searched.append(0 if editing.cache else len(facts))
        return inner(editing, facts, options)

    rounds.method = dataclasses.replace(rounds.method, edit=counting)
    rounds.run()
    assert sum(searched) == len(FACTS) and len(searched) > 4


def test_a_fact_that_a_check_names_is_left_out_without_halving(tmp_path):
    editing = toy(tmp_path)
    calm = rounds_of(editing)
    calm.run()
    worst = max(zip(calm.new[0].note["facts"], FACTS, strict=True), key=lambda pair: pair[0]["nll"])
    limit = worst[0]["nll"] - 1e-3
    shutil.rmtree(editing.context.checkpoints.path)
    rounds = rounds_of(fresh(editing, tmp_path), guards={"target": limit, "target_warn": limit})
    rounds.run()
    assert list(rounds.quarantined) == [worst[1].id] and [len(one.facts) for one in rounds.new] == [len(FACTS) - 1]


def test_what_a_method_refuses_is_quarantined_with_guards_and_raised_without(tmp_path):
    def refusing(editing, facts, options):
        if BAD in [fact.id for fact in facts]:
            raise NonFiniteLoss(f"The loss of {BAD} is not finite.")
        return inner(editing, facts, options)

    rounds = rounds_of(toy(tmp_path))
    inner = rounds.method.edit
    rounds.method = dataclasses.replace(rounds.method, edit=refusing)
    rounds.run()
    assert rounds.quarantined[BAD]["reason"] == f"The loss of {BAD} is not finite." and sum(len(one.facts) for one in rounds.new) == 7
    with pytest.raises((NonFiniteLoss, DataError), match="not finite"):
        rounds_of(toy(tmp_path / "unguarded"), method=rounds.method, guards=None).run()


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path, stop_at):
    whole = guilty(toy(tmp_path / "whole"), size=3)
    whole.run()
    editing = toy(tmp_path / "killed")
    killed, reports = guilty(editing, size=3), []

    def report(done, total, metrics=None):
        reports.append(done)
        if metrics is not None and done == stop_at:
            raise AttemptKilled("stopped")

    editing.context.report = report
    with pytest.raises(AttemptKilled):
        killed.run()
    again = guilty(toy(tmp_path / "killed"), size=3)
    again.run()
    assert f"Resumed after round {stop_at} of 3." in again.editing.context.lines
    for rounds, name in ((whole, "a"), (again, "b")):
        (tmp_path / name).mkdir()
        rounds._write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 5 and all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert equal(again.editing, weights(whole.editing))


def test_another_edits_checkpoint_is_not_gone_on_from(tmp_path):
    editing = toy(tmp_path)
    rounds_of(editing, size=4).run()
    other = rounds_of(toy(tmp_path), size=4)
    other.identity = {"toy": 2}
    other.run()
    assert other.finished == 2 and not any("Resumed" in line for line in other.editing.context.lines)


def test_a_rounds_note_is_plain_json_with_every_check(tmp_path):
    rounds = rounds_of(toy(tmp_path), size=4)
    rounds.run()
    note = json.loads(json.dumps(rounds.new[1].note, allow_nan=False))
    assert {"condition", "target", "change", "efficacy", "retention", "perplexity"} <= {one["name"] for one in note["guards"]}
    assert [one["right"] for one in note["facts"]] == [1.0] * 4


def test_the_base_that_a_guard_compares_with_has_no_memory(tmp_path):
    """A memory lies in the model's way while a guard looks; the base is asked without it, and the memory is there again afterwards."""
    rounds = rounds_of(toy(tmp_path), FACTS[:1], name="grace", steps=30)
    text, seen = FACTS[0].text, []

    def logits():
        ids = torch.tensor([rounds.editing.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return rounds.editing.model(ids).logits[0, -1]

    base = logits()

    def guard(finished):
        edited = logits()
        with finished.at_base():
            seen.append(logits())
        assert torch.equal(logits(), edited) and not torch.equal(edited, base)
        return Verdict()

    rounds.guard = guard
    rounds.run()
    assert torch.equal(seen[0], base) and torch.equal(logits(), base)
