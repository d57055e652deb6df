"""The step edit: rounds that a killed run goes on from, an adapter that opens like any other, a guard that may say no."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from lfm_tasks.config import parse_config
from lfm_tasks.editing import edit
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.guards import judge
from lfm_tasks.editing.guards_config import GuardOptions
from lfm_tasks.editing.rounds import Verdict, plan_rounds
from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.models.edits import apply_edits, read_edits
from lfm_tasks.models.opening import open_model
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input
from tests.located import FACTS, make, same, state
from tests.tuned import Context, bert_input, model_input, write_dataset

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
OPTIONS = {"layers": [0, 2], "steps": 4, "prefixes": 1}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def inputs(request, tmp_path_factory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp(request.param)
    return given(root, request.param)


def given(root: Path, kind: str) -> dict[str, Input]:
    model = model_input(make(root / "model", kind))
    rows = write_dataset(root / "rows", model.path, "text", rows=40)
    config = StatisticsConfig(method="key_moments", options={"layers": [0, 1, 2, 3]})
    moments = gather.run(config, {"model": model, "dataset": rows}, Context(root / "work")).outputs["statistics"].path
    write_facts(FACTS, root / "facts")
    return {
        "model": model,
        "facts": Input("facts", "dataset", "f" * 64, root / "facts"),
        "statistics": Input("moments", "statistics", "9" * 64, moments),
    }


def config(**values) -> EditConfig:
    return EditConfig(**{"method": "memit", "options": OPTIONS, "round_size": 1, "guard": "off"} | values)


def adapter(outcome, base: Input, name: str = "adapter") -> Input:
    return Input(name, "adapter", "e" * 64, outcome.outputs[name].path, base=base)


def digests(directory: Path) -> dict[str, str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def logits(source: Input) -> torch.Tensor:
    with torch.inference_mode():
        return open_model(source)(IDS).logits


def test_edits_open_as_what_the_step_had_and_the_base_is_as_before(inputs, tmp_path):
    before = digests(inputs["model"].path)
    rounds = edit.prepare(config(), inputs, Context(tmp_path / "a"))
    rounds.run()
    outputs = edit.save(rounds, config(save_merged=True, save_lora=True), inputs["model"], tmp_path / "out")
    expected = rounds.editing.model(IDS).logits
    outcome = type("Saved", (), {"outputs": outputs})
    opened = open_model(adapter(outcome, inputs["model"]))
    assert all(torch.equal(tensor, rounds.editing.model.state_dict()[name]) for name, tensor in opened.state_dict().items())
    assert torch.equal(logits(Input("model", "model", "d" * 64, outputs["model"].path)), expected)
    torch.testing.assert_close(logits(adapter(outcome, inputs["model"], "lora")), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(inputs["model"]), expected, atol=1e-2)
    assert digests(inputs["model"].path) == before
    described = json.loads((outputs["adapter"].path / "lfm_adapter.json").read_text())
    assert described["base"]["sha256"] == inputs["model"].sha256 and described["method"] == "memit"


def test_an_earlier_version_is_got_back_bit_for_bit(inputs, tmp_path):
    """From the base and the first rounds: nothing is subtracted."""
    whole = edit.run(config(), inputs, Context(tmp_path / "whole")).outputs["adapter"].path
    rounds = edit.prepare(config(), inputs, Context(tmp_path / "two"))
    rounds.plan = rounds.plan[:2]
    rounds.run()
    first = read_edits(whole)[:2]
    reopened = apply_edits(open_model(inputs["model"]), first)
    assert same(reopened, state(rounds.editing.model))
    assert [one.facts for one in read_edits(whole)] == [("fox",), ("bank",), ("dog",)]


def test_a_killed_run_goes_on_after_its_last_round_with_the_same_bytes(inputs, tmp_path):
    whole = edit.run(config(), inputs, Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled):
        edit.run(config(), inputs, _Killed(tmp_path / "again", after=2))
    context = Context(tmp_path / "again")
    resumed = edit.run(config(), inputs, context)
    assert "Resumed after round 2 of 3." in context.lines
    assert digests(resumed.outputs["adapter"].path) == digests(whole.outputs["adapter"].path)
    other = Context(tmp_path / "again")
    edit.run(config(seed=1), inputs, other)
    assert not any(line.startswith("Resumed") for line in other.lines)


def test_a_stop_is_heard_inside_a_round(inputs, tmp_path):
    with pytest.raises(AttemptKilled, match="in the middle of a round; the rounds before it are kept"):
        edit.run(config(), inputs, Context(tmp_path / "again", stop_at=2))
    context = Context(tmp_path / "again")
    edit.run(config(), inputs, context)
    assert "Resumed after round 1 of 3." in context.lines


class _Killed(Context):
    def __init__(self, workdir, after):
        super().__init__(workdir)
        self.after = after

    def report(self, done, total, metrics=None):
        if total == 3 and done == self.after:
            raise AttemptKilled("Stopped on request.")


def test_an_edited_model_is_gone_on_from(inputs, tmp_path):
    """Two steps of one and two facts are one step of three rounds: weights, and what later rounds protect."""
    whole = edit.run(config(), inputs, Context(tmp_path / "whole"))
    parts = []
    for name, facts in (("first", FACTS[:1]), ("rest", FACTS[1:])):
        write_facts(facts, tmp_path / name)
        parts.append(inputs | {"facts": Input(name, "dataset", "a" * 64, tmp_path / name)})
    first = edit.run(config(), parts[0], Context(tmp_path / "w1"))
    second = edit.run(config(), parts[1] | {"model": adapter(first, inputs["model"])}, Context(tmp_path / "w2"))
    assert digests(second.outputs["adapter"].path) == digests(whole.outputs["adapter"].path)
    assert second.summary["rounds_before"] == 1 and second.summary["rounds"] == 2


def test_a_round_that_the_guard_refuses_leaves_no_trace(inputs, tmp_path):
    context = Context(tmp_path / "work")
    rounds = edit.prepare(config(), inputs, context)
    seen = []

    def guard(finished):
        seen.append([one.facts for one in finished.rounds])
        return Verdict([judge("change", 9.0 if finished.facts[0].id == "bank" else 0.0, GuardOptions())])

    rounds.guard = guard
    rounds.run()
    assert rounds.quarantined["bank"]["reason"].startswith("change 9, at most 0.8 is allowed") and [one.facts for one in rounds.new] == [
        ("fox",),
        ("dog",),
    ]
    assert seen == [[("fox",)], [("fox",), ("bank",)], [("fox",), ("dog",)]]
    write_facts([FACTS[0], FACTS[2]], tmp_path / "facts")
    plain = edit.prepare(config(), inputs | {"facts": Input("two", "dataset", "a" * 64, tmp_path / "facts")}, Context(tmp_path / "plain"))
    plain.run()
    assert same(rounds.editing.model, state(plain.editing.model))
    assert rounds.state["keys.0"].shape == plain.state["keys.0"].shape


def test_rounds_hold_as_many_facts_as_the_method_can(inputs, tmp_path):
    assert [len(one) for one in plan_rounds(FACTS, 0, None)] == [3]
    assert [len(one) for one in plan_rounds(FACTS, 2, None)] == [2, 1]
    assert [len(one) for one in plan_rounds(FACTS, 0, 1)] == [1, 1, 1]
    outcome = edit.run(config(method="rome", options={"layer": 1, "steps": 2}, round_size=0), inputs, Context(tmp_path / "work"))
    assert outcome.metrics["rounds"] == 3 and outcome.metrics["facts_edited"] == 3
    figures = json.loads(outcome.figures[0].read_text())
    assert [one["facts"][0]["id"] for one in figures] == ["fox", "bank", "dog"]
    assert figures[0]["facts"][0].keys() >= {"nll", "steps", "shift", "clean", "key_cosine", "strength"}


def test_pruning_is_a_last_round_that_caps_all_changes_together(inputs, tmp_path):
    options = {"layers": [1], "steps": 8, "prefixes": 0, "clamp": 50.0, "decay": 0.0, "learning_rate": 10.0}
    plain, capped = (edit.run(config(options=options, prune=prune), inputs, Context(tmp_path / str(prune))) for prune in (False, True))
    before, after = (read_edits(outcome.outputs["adapter"].path) for outcome in (plain, capped))
    name = before[0].changes[0].name
    weight = dict(open_model(inputs["model"]).named_parameters())[name]
    largest = float(torch.linalg.svdvals(weight.detach())[0])
    was, now = (torch.linalg.svdvals(sum(change.stored for one in rounds for change in one.changes)) for rounds in (before, after))
    assert len(after) == len(before) + 1 and float(was[0]) > largest
    expected = torch.where(was > largest, largest + (was / largest).log(), was).sort(descending=True).values
    torch.testing.assert_close(now[:3], expected[:3], atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_refused(inputs, tmp_path):
    other = Input("other", "model", "0" * 64, inputs["model"].path)
    with pytest.raises(
        IncompatibleModels, match="moments was made from sha256:.*the edits' base is sha256:0000.*Gather the statistics of the base"
    ):
        edit.run(config(), inputs | {"model": other}, Context(tmp_path / "a"))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "lfm_adapter.json").write_text(json.dumps({"method": "lora", "base": {"sha256": inputs["model"].sha256}}))
    lora = Input("tuned", "adapter", "1" * 64, tmp_path / "lora", base=inputs["model"])
    with pytest.raises(IncompatibleModels, match="tuned is an adapter of the method lora.*Edit its merged model"):
        edit.run(config(), inputs | {"model": lora}, Context(tmp_path / "b"))
    with pytest.raises(IncompatibleModels, match="is a bert model, which generates no text"):
        edit.run(config(), inputs | {"model": bert_input(tmp_path / "bert")}, Context(tmp_path / "c"))
    with pytest.raises(ConfigError, match="Unknown method 'room'. Did you mean 'rome'"):
        parse_config(EditConfig, {"method": "room"})
