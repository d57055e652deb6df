"""The loop: normalisation, resume, early stopping, what stops it, and what it reports."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels, IntegrityError, NonFiniteLoss
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.training.loop import clip, make_optimizer, uses_bfloat16
from lfm_tasks.training.snapshots import snapshot_steps
from lfm_tasks.tuning import tune
from lfm_tasks.tuning.config import TuneConfig
from tests.mixed import files
from tests.tuned import Context, bert_input, llama_input, write_dataset


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("loop")
    model = llama_input(root / "llama")
    return {"model": model, "dataset": write_dataset(root / "data", model.path, "instruction", rows=16)}


def prepared(inputs, directory, **values):
    config = TuneConfig(**({"batch_size": 8, "max_steps": 3, "learning_rate": 1e-2} | values))
    return tune.prepare(config, open_causal_lm(inputs["model"]), inputs["dataset"], "completion", Context(directory))


def weights(training) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in training.parameters.items()}


def trained(inputs, directory, **values):
    training = prepared(inputs, directory, **values)
    training.run()
    return training


@pytest.mark.parametrize(
    "cut", [{"micro_batch_size": 4}, {"micro_batch_size": 1}, {"pack_length": 40}, {"packing": True, "pack_length": 40}, {"packing": True}]
)
def test_how_a_step_is_cut_changes_neither_loss_nor_weights(inputs, tmp_path, cut):
    one = trained(inputs, tmp_path / "one", packing=False, micro_batch_size=8)
    other = trained(inputs, tmp_path / "other", **({"packing": False} | cut))
    assert other.packs == cut.get("packing", False)
    for ours, theirs in zip(one.progress.history, other.progress.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for name, parameter in one.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], atol=2e-4, rtol=1e-3)


def test_the_gradient_is_that_of_the_mean_over_the_tokens_of_the_whole_step(inputs, tmp_path):
    training = prepared(inputs, tmp_path / "w", method="full", max_steps=1, max_grad_norm=0, micro_batch_size=3, packing=False)
    reference = open_causal_lm(inputs["model"])
    examples = training.plan.examples(0)
    losses = []
    for index in examples:
        ids, first = torch.from_numpy(training.train.tokens[index]), int(training.train.first[index])
        logits = reference(input_ids=ids[None]).logits[0, first - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[first:], reduction="none"))
    torch.cat(losses).mean().backward()
    expected = {name: parameter.grad.clone() for name, parameter in reference.named_parameters()}
    training.run()
    for name, parameter in training.parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("extra", [{"early_stopping_patience": 2}, {"keep_last": 2}], ids=str)
def test_stopped_at_any_poll_and_resumed_ends_in_the_same_bits(inputs, tmp_path, extra):
    values = {
        "options": {"dropout": 0.3},
        "packing": False,
        "micro_batch_size": 4,
        "evaluate_every": 2,
        "max_steps": 3,
        "checkpoint_every": 2,
    } | extra
    whole = trained(inputs, tmp_path / "whole", **values)
    for stop_at in range(1, whole.context.polls + 1):
        stopped = prepared(inputs, tmp_path / f"again{stop_at}", **values)
        stopped.context.stop_at = stop_at
        with pytest.raises(AttemptKilled):
            stopped.run()
        resumed = trained(inputs, tmp_path / f"again{stop_at}", **values)
        assert resumed.progress == whole.progress
        assert all(torch.equal(tensor, whole.parameters[name]) for name, tensor in resumed.parameters.items())
        assert all(torch.equal(tensor, whole.best[name]) for name, tensor in resumed.best.items())
        kept = [[path.read_bytes() for path in one.snapshots.files()] for one in (whole, resumed)]
        assert kept[0] == kept[1] and len(kept[0]) == extra.get("keep_last", 0)


def test_dropout_is_on_and_keyed_by_the_seed(inputs, tmp_path):
    def loss(directory, **values):
        return trained(inputs, tmp_path / directory, max_steps=2, **values).progress.history[1]["loss"]

    on = {"options": {"dropout": 0.5}}
    assert loss("a", **on) == loss("b", **on)
    assert loss("c", **on) != loss("d")
    torch.manual_seed(99)
    assert loss("e", **on) == loss("f", **on)


def test_a_checkpoint_of_another_run_is_not_used(inputs, tmp_path):
    stopped = prepared(inputs, tmp_path / "w")
    stopped.context.stop_at = 3
    with pytest.raises(AttemptKilled):
        stopped.run()
    other = trained(inputs, tmp_path / "w", learning_rate=1e-3)
    assert other.context.lines == ["The checkpoint found belongs to another run; starting from the beginning."]
    assert [entry["step"] for entry in other.progress.history] == [1, 2, 2, 3, 3]


def test_checkpoints_are_kept_every_so_many_steps_without_pickle(inputs, tmp_path):
    training = trained(inputs, tmp_path / "w", max_steps=5, checkpoint_every=2)
    folder = training.context.checkpoints.path
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    assert {path.suffix for path in folder.rglob("*.*")} == {".safetensors", ".json"}


def test_gradient_checkpointing_gives_the_same_gradients(inputs, tmp_path):
    plain = trained(inputs, tmp_path / "a", max_steps=1, method="full")
    again = trained(inputs, tmp_path / "b", max_steps=1, method="full", gradient_checkpointing=True)
    for name, parameter in plain.parameters.items():
        torch.testing.assert_close(parameter.grad, again.parameters[name].grad, atol=1e-6, rtol=1e-5)
    lora = trained(inputs, tmp_path / "c", max_steps=2)
    lora_again = trained(inputs, tmp_path / "d", max_steps=2, gradient_checkpointing=True)
    assert lora.progress.history[1]["grad_norm"] == pytest.approx(lora_again.progress.history[1]["grad_norm"], rel=1e-4)


def test_early_stopping_stops_and_keeps_the_best_weights(inputs, tmp_path):
    training = prepared(inputs, tmp_path / "w", max_steps=12, evaluate_every=1, early_stopping_patience=2, schedule="constant")
    values = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    seen = []

    def evaluate(_):
        seen.append(weights(training))
        return next(values)

    training.evaluate = evaluate
    progress = training.run()
    assert (progress.step, progress.best_step, progress.best_loss, progress.stopped_early) == (4, 2, 2.0, True)
    assert all(torch.equal(parameter, seen[1][name]) for name, parameter in training.parameters.items())


def test_validation_loss_is_the_mean_over_its_tokens(inputs, tmp_path):
    training = prepared(inputs, tmp_path / "w", pack_length=30)
    reference, total, count = open_causal_lm(inputs["model"]), 0.0, 0
    for ids, first in zip(training.validation.tokens, training.validation.first, strict=True):
        logits = reference(input_ids=torch.from_numpy(ids)[None]).logits[0, first - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[first:]), reduction="sum").item()
        count += len(ids) - first
    assert trained_value(training) == pytest.approx(total / count, rel=1e-5)


def trained_value(training) -> float:
    with training._modes():
        return training.evaluate(training.validation)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(inputs, tmp_path):
    training = prepared(inputs, tmp_path / "w", schedule="constant")
    before = weights(training)
    with torch.no_grad():
        training.base.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(NonFiniteLoss, match="Step 1: the loss is nan") as caught:
        training.run()
    assert all(training.train.sample_ids[index] in str(caught.value) for index in training.plan.examples(0))
    assert all(torch.equal(parameter, before[name]) for name, parameter in training.parameters.items())


def test_gradients_are_scaled_down_to_the_limit_and_their_norm_is_reported():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    assert clip(parameters, 0).item() == pytest.approx(2 * math.sqrt(7))
    assert clip(parameters, 1.0).item() == pytest.approx(2 * math.sqrt(7))
    assert clip(parameters, 1.0).item() == pytest.approx(1.0, rel=1e-5)


def test_an_adamw_step_is_the_papers():
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in float64 by hand; no decay on vectors."""
    config = TuneConfig(learning_rate=0.1, weight_decay=0.2, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-6)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "w": torch.nn.Parameter(torch.randn(3, 2, generator=generator)),
        "b": torch.nn.Parameter(torch.randn(3, generator=generator)),
    }
    optimizer = make_optimizer(parameters, config)
    expected = {name: parameter.detach().double() for name, parameter in parameters.items()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in (1, 2, 3):
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradient = parameter.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.9 * second[name] + 0.1 * gradient**2
            decay = 0.2 if name == "w" else 0.0
            moved = (first[name] / (1 - 0.8**step)) / ((second[name] / (1 - 0.9**step)).sqrt() + 1e-6)
            expected[name] = expected[name] - 0.1 * (moved + decay * expected[name])
        optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], atol=1e-6, rtol=1e-5)


def test_progress_is_reported_at_every_step(inputs, tmp_path):
    reports = trained(inputs, tmp_path / "w", max_steps=2).context.reports
    assert [(done, total) for done, total, _ in reports] == [(1, 2), (2, 2), (2, 2)]
    assert set(reports[0][2]) == {"loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert set(reports[2][2]) == {"validation_loss"}


def test_bfloat16_is_used_where_the_device_has_it_or_on_demand(inputs, tmp_path):
    cpu = torch.device("cpu")
    assert [uses_bfloat16(TuneConfig(precision=name), cpu) for name in ("auto", "float32", "bfloat16")] == [False, False, True]
    plain, half = (trained(inputs, tmp_path / name, precision=name) for name in ("float32", "bfloat16"))
    assert half.progress.history[0]["loss"] == pytest.approx(plain.progress.history[0]["loss"], rel=2e-2)
    assert half.progress.history[0]["loss"] != plain.progress.history[0]["loss"]
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters.values())


def test_tuning_lowers_the_loss_by_more_than_noise(inputs, tmp_path):
    falls = []
    for seed in range(3):
        losses = [
            entry["loss"] for entry in trained(inputs, tmp_path / str(seed), seed=seed, max_steps=12).progress.history if "loss" in entry
        ]
        falls.append(losses[0] - np.mean(losses[-3:]))
    assert min(falls) > 3 * np.std(falls) and min(falls) > 0.2


def test_the_outcome_has_adapter_model_metrics_and_pictures(inputs, tmp_path):
    config = TuneConfig(max_steps=2, batch_size=4)
    outcome = tune.run(config, inputs, Context(tmp_path / "w"))
    assert {name: output.kind for name, output in outcome.outputs.items()} == {"adapter": "adapter", "model": "model"}
    assert outcome.metrics["tokens_seen"] > 0 and outcome.metrics["peak_memory_bytes"] > 1e6
    assert 0 < outcome.metrics["trainable_parameters"] < outcome.metrics["total_parameters"]
    curve, history = outcome.figures
    assert curve.read_bytes().startswith(b"\x89PNG") and len(json.loads(history.read_text())) == 3
    assert outcome.summary["steps"] == 2 and outcome.summary["packed"]
    unmerged = tune.run(config.model_copy(update={"save_merged": False}), inputs, Context(tmp_path / "v"))
    assert set(unmerged.outputs) == {"adapter"}


@pytest.mark.parametrize(
    ("last", "every", "steps"), [(3, 0, [2, 4, 7]), (7, 0, [1, 2, 3, 4, 5, 6, 7]), (3, 2, [3, 5, 7]), (1, 100, [7]), (0, 0, [])]
)
def test_which_steps_are_kept(last, every, steps):
    assert snapshot_steps(7, last, every) == steps


@pytest.mark.parametrize(
    ("values", "most"), [({"keep_last": 4}, "3 steps, so at most 3"), ({"keep_last": 3, "keep_every": 2}, "2 apart, so at most 2")]
)
def test_more_models_than_the_run_has_steps_are_refused_before_it_begins(inputs, tmp_path, values, most):
    with pytest.raises(ConfigError, match=rf"keep_last={values['keep_last']}: the run has .*{most}"):
        prepared(inputs, tmp_path / "w", **values)


@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_models_along_the_run_are_those_of_shorter_runs(tmp_path, method):
    """With a constant learning rate the first steps of a run are a run."""
    model = bert_input(tmp_path / "bert")
    given = {"model": model, "dataset": write_dataset(tmp_path / "data", model.path, "classification", rows=16)}
    values = {"method": method, "batch_size": 8, "learning_rate": 1e-2, "schedule": "constant", "options": {}}
    outcome = tune.run(TuneConfig(**values, max_steps=4, keep_last=2), given, Context(tmp_path / "w"))
    kinds = {"checkpoints": "model"} | ({} if method == "full" else {"adapter_checkpoints": "adapter"})
    single = {kind: kind for kind in kinds.values()}
    assert {name: output.kind for name, output in outcome.outputs.items()} == single | {
        f"{name}.{place}": kind for name, kind in kinds.items() for place in (0, 1)
    }
    assert outcome.summary["kept_steps"] == [2, 4]
    short = tune.run(TuneConfig(**values, max_steps=2), given, Context(tmp_path / "short"))
    for name, kind in kinds.items():
        assert files(outcome.outputs[f"{name}.0"].path) == files(short.outputs[kind].path)
        assert files(outcome.outputs[f"{name}.1"].path) == files(outcome.outputs[kind].path)


def test_text_is_learned_at_every_token(inputs, tmp_path):
    data = write_dataset(tmp_path / "text", inputs["model"].path, "text")
    outcome = tune.run(TuneConfig(max_steps=1, save_merged=False), {**inputs, "dataset": data}, Context(tmp_path / "w"))
    assert outcome.summary["objective"] == "tokens"


def test_a_save_that_differs_from_memory_is_refused():
    with pytest.raises(IntegrityError, match=r"the saved model gives logits that differ by 0.5 .* at most 0.002"):
        tune.check_same([torch.ones(2, 2) * 2], [torch.ones(2, 2) * 1.5], "the saved model")
    with pytest.raises(IntegrityError, match="differ by nan"):
        tune.check_same([torch.ones(2)], [torch.full((2,), float("nan"))], "the saved model")


def test_a_data_set_of_another_vocabulary_is_refused(inputs, tmp_path):
    data = write_dataset(tmp_path / "wide", inputs["model"].path, "instruction", vocabulary=9999)
    with pytest.raises(IncompatibleModels, match="9,999 tokens"):
        tune.run(TuneConfig(), {**inputs, "dataset": data}, Context(tmp_path / "w"))


def test_a_data_set_that_is_not_prepared_is_refused(inputs, tmp_path):
    with pytest.raises(DataError, match=r"no dataset.json: it is not a prepared one"):
        tune.run(TuneConfig(), {**inputs, "dataset": replace(inputs["dataset"], path=tmp_path)}, Context(tmp_path / "w"))


def test_data_without_a_token_to_learn_is_refused(inputs, tmp_path):
    data = write_dataset(tmp_path / "cut", inputs["model"].path, "instruction", rows=3)
    table = pq.read_table(data.path / "train.parquet")
    lengths = [len(ids) for ids in table["input_ids"].to_pylist()]
    column = table.schema.get_field_index("prompt_tokens")
    pq.write_table(table.set_column(column, "prompt_tokens", [lengths]), data.path / "train.parquet")
    context = Context(tmp_path / "w")
    with pytest.raises(DataError, match="no example with a token to learn"):
        tune.run(TuneConfig(), {**inputs, "dataset": data}, context)
    assert context.lines[0].startswith("3 training examples have no token to learn")
