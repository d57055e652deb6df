"""A fact is forgotten, an earlier version got back: what was found is used again, nothing is subtracted."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from lfm_tasks.editing import edit, revise
from lfm_tasks.editing.config import EditConfig, ReviseEditsConfig
from lfm_tasks.editing.revise import Chain, exactness, solve_without, state_after
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.models.edits import read_edits
from lfm_tasks.step import Input
from tests.editing.test_edit_step import adapter, given
from tests.guarded import FACTS, fresh, rounds_of, toy, weights
from tests.located import FACTS as LOCATED
from tests.tuned import Context

CHAINS = {
    "memit": {"name": "memit", "size": 3},
    "memit over layers": {"name": "memit", "size": 3, "layers": [1, 2]},
    "alphaedit": {"name": "alphaedit", "size": 3, "energy": 0.5},
    "emmet": {"name": "emmet", "size": 4},
    "rome": {"name": "rome", "prefixes": 1},
    "anchored": {"name": "memit", "size": 3, "anchor": True, "prefixes": 1},
    "one round": {"name": "memit", "size": 0, "targets": "current"},
}


def chain_of(rounds, facts=FACTS) -> Chain:
    return Chain(rounds.new, rounds.caches, rounds.state, {fact.id: fact for fact in facts}, rounds.name)


def ran(directory: Path, facts, options):
    rounds = rounds_of(toy(directory, torch.float64), facts, guards=None, **options)
    rounds.run()
    return rounds


def distance(one, other) -> float:
    return max(float((one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-9)) for name in one)


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory):
    """The rounds of a kind of chain over all facts, run once."""
    return functools.cache(lambda kind: ran(tmp_path_factory.mktemp("whole"), FACTS, CHAINS[kind]))


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("place", [0, 4, 7])
def test_forgetting_a_fact_gives_the_chain_that_was_never_asked_for_it(tmp_path, whole_of, kind, place):
    """With values of the base, or in one round. The rounds of the other chain hold the same facts as those that are left."""
    forgotten = FACTS[place]
    whole = whole_of(kind)
    without = rounds_of(toy(tmp_path / "without", torch.float64), FACTS, guards=None, **CHAINS[kind])
    without.plan = [left for one in without.plan if (left := [fact for fact in one if fact is not forgotten])]
    without.run()
    chain = chain_of(whole)
    kept = revise.first_round_of(chain, [forgotten.id])
    solved = solve_without(chain, [forgotten.id], kept, fresh(toy(tmp_path / "again", torch.float64), tmp_path / "again"))
    assert exactness(chain, [forgotten.id])["exact"]
    assert distance(weights(solved.editing), weights(without.editing)) < 1e-6
    assert distance(weights(solved.editing), weights(whole.editing)) > 1e-3
    assert distance(dict(solved.state), dict(without.state)) < 1e-6 if solved.state else not without.state


def test_where_later_values_were_found_on_a_model_that_held_the_fact_it_is_said(tmp_path):
    options = CHAINS["memit"] | {"targets": "current"}
    whole, without = ran(tmp_path / "whole", FACTS, options), ran(tmp_path / "without", FACTS[1:], options | {"size": 8})
    without = rounds_of(toy(tmp_path / "split", torch.float64), FACTS, guards=None, **options)
    without.plan = [[fact for fact in one if fact is not FACTS[0]] for one in without.plan]
    without.run()
    said = exactness(chain_of(whole), [FACTS[0].id])
    assert not said["exact"] and "2 later rounds were found on a model that held the facts (targets=current)" in said["because"]
    solved = solve_without(chain_of(whole), [FACTS[0].id], 0, toy(tmp_path / "again", torch.float64))
    assert distance(weights(solved.editing), weights(without.editing)) > 1e-6
    assert exactness(chain_of(whole), [FACTS[7].id])["exact"] is True


def test_forgetting_searches_for_nothing(tmp_path, monkeypatch):
    whole = ran(tmp_path / "whole", FACTS, CHAINS["memit"])
    monkeypatch.setattr("lfm_tasks.editing.pipeline.find_targets", None)
    solve_without(chain_of(whole), [FACTS[1].id, FACTS[2].id], 0, toy(tmp_path / "again", torch.float64))


def test_what_a_method_handed_on_is_got_back_as_it_was_after_each_round(tmp_path):
    whole = ran(tmp_path / "whole", FACTS, CHAINS["anchored"])
    for count in range(len(whole.new) + 1):
        part = rounds_of(toy(tmp_path / str(count), torch.float64), FACTS, guards=None, **CHAINS["anchored"])
        part.plan = part.plan[:count]
        part.run()
        found = state_after(chain_of(whole), count)
        assert found.keys() == part.state.keys() and all(torch.equal(found[name], part.state[name]) for name in found)


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    root = tmp_path_factory.mktemp("edited")
    inputs = given(root, "llama")
    options = {"layers": [0, 2], "steps": 4, "prefixes": 1, "targets": "base"}
    config = EditConfig(method="memit", options=options, round_size=1, guard="off")
    return inputs, config, adapter(edit.run(config, inputs, Context(root / "edit")), inputs["model"])


def revised(edited, workdir, **values):
    inputs, _, source = edited
    return revise.run(ReviseEditsConfig(**values), {"adapter": source, "statistics": inputs["statistics"]}, Context(workdir))


def test_kept_rounds_are_an_edit_that_ended_there_and_can_be_gone_on_from(edited, tmp_path):
    inputs, config, source = edited
    outcome = revised(edited, tmp_path / "kept", keep_rounds=2)
    write_facts(LOCATED[:2], tmp_path / "two")
    two = edit.run(config, inputs | {"facts": Input("two", "dataset", "2" * 64, tmp_path / "two")}, Context(tmp_path / "w"))
    for path in two.outputs["adapter"].path.iterdir():
        if path.name != "quarantine.json":
            assert (outcome.outputs["adapter"].path / path.name).read_bytes() == path.read_bytes(), path.name
    assert outcome.summary["way"] == "kept" and outcome.summary["exact"] is True
    write_facts(LOCATED[2:], tmp_path / "third")
    third = inputs | {"facts": Input("third", "dataset", "3" * 64, tmp_path / "third"), "model": adapter(outcome, inputs["model"])}
    on = edit.run(config, third, Context(tmp_path / "on")).outputs["adapter"].path
    assert (on / "adapter_model.safetensors").read_bytes() == (source.path / "adapter_model.safetensors").read_bytes()


def test_the_step_forgets_and_says_which_way_it_went(edited, tmp_path):
    outcome = revised(edited, tmp_path / "forgotten", forget=["bank"])
    rounds = read_edits(outcome.outputs["adapter"].path)
    assert [one.facts for one in rounds] == [("fox",), ("dog",)]
    assert (
        outcome.summary | {"way": "solved anew", "exact": True, "rounds_kept": 1, "because": "all values were found on the base"}
        == outcome.summary
    )
    before = read_edits(edited[2].path)[0]
    assert all(
        torch.equal(a.left, b.left) and torch.equal(a.right, b.right) for a, b in zip(rounds[0].changes, before.changes, strict=True)
    )
    again = revise.run(
        ReviseEditsConfig(forget=["fox"]),
        {"adapter": adapter(outcome, edited[0]["model"]), "statistics": edited[0]["statistics"]},
        Context(tmp_path / "again"),
    )
    assert [one.facts for one in read_edits(again.outputs["adapter"].path)] == [("dog",)]


def test_what_cannot_be_revised_is_refused(edited, tmp_path):
    with pytest.raises(ConfigError, match="Unknown fact 'fix'. Did you mean 'fox'"):
        revised(edited, tmp_path / "a", forget=["fix"])
    with pytest.raises(ConfigError, match="keep_rounds=4: .* has 3 rounds"):
        revised(edited, tmp_path / "b", keep_rounds=4)
    with pytest.raises(ConfigError, match="name facts to forget, or rounds to keep, not both"):
        ReviseEditsConfig(forget=["fox"], keep_rounds=1)
    whole = ran(tmp_path / "whole", FACTS, CHAINS["memit"])
    lost = dataclasses.replace(chain_of(whole), caches=[{} for _ in whole.caches])
    with pytest.raises(IncompatibleModels, match="memit keeps nothing to solve a round again from"):
        solve_without(lost, [FACTS[0].id], 0, toy(tmp_path / "again", torch.float64))
