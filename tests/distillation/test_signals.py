"""Recorded teachers: exact at every stored temperature, without bias where sampled, and refused for other rows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm_tasks.config import parse_config
from lfm_tasks.distillation import recording
from lfm_tasks.distillation.config import RecordSignalsConfig
from lfm_tasks.distillation.divergences import forward_kl, jsd, log_probabilities, reverse_kl, total_variation
from lfm_tasks.distillation.recording import Recording
from lfm_tasks.distillation.signals import Sampled, TopK, Whole
from lfm_tasks.distillation.stored import Recorded, digest_of, open_signals, places
from lfm_tasks.distillation.teachers import open_teacher
from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.models.prepared import read_description
from lfm_tasks.training.batches import packed_batch, padded_batch
from lfm_tasks.training.split import read_split, with_targets
from tests.distilled import OBJECTIVES, decoders, encoders, given, prepared, recorded
from tests.mixed import files
from tests.tuned import LABELS, Context, StoppingAt, write_dataset

TEMPERATURES = [1.0, 2.0, 4.0]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return decoders(tmp_path_factory.mktemp("signals"))


def split_of(toys, objective="completion"):
    return with_targets(read_split(toys["dataset"].path, "train", objective), objective)[0]


def answer(toys, signals, temperature, examples=(3, 0, 14)):
    """What was recorded of a few rows, and what the teacher itself says of them."""
    split = split_of(toys)
    batch = padded_batch(split, list(examples), 0, labels=False)
    told = Recorded(open_signals(signals), places(split, labels=False), CPU).ask(batch, temperature)
    teacher = open_teacher(toys["teacher"], read_description(toys["dataset"].path), [], ("logits",), CPU)
    return told, teacher.ask(batch, temperature)[slice(None)], batch


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_that_says_the_same_has_a_loss_of_0_at_every_stored_temperature(toys, tmp_path, temperature):
    """With the tail renormalised, or spread evenly as DistillKit does, a perfect student has a loss of 0.4 to 1.9 nats there."""
    signals = recorded(toys, tmp_path / "s", temperatures=TEMPERATURES, top=8)
    told, whole, batch = answer(toys, signals, temperature)
    assert isinstance(told, TopK)
    for kernel in (forward_kl, reverse_kl, total_variation, lambda q, p: jsd(q, p, 0.3)):
        assert told.distance(whole.log_p, batch.targets, lambda q, p, _, k=kernel: k(q, p)).abs().max() < 2e-5
    renormalised = log_probabilities(told.log_p)
    exact = whole.log_p.gather(-1, told.ids)
    assert (renormalised - exact).abs().max() > 0.1
    torch.testing.assert_close(told.log_p, exact, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_all_classes_kept_are_the_teacher_itself(toys, tmp_path, temperature):
    signals = recorded(toys, tmp_path / "s", temperatures=TEMPERATURES, top=1_000)
    told, whole, _ = answer(toys, signals, temperature)
    assert isinstance(told, Whole)
    torch.testing.assert_close(told.log_p, whole.log_p, atol=2e-6, rtol=1e-5)


def test_a_bucket_for_the_tail_is_a_lower_bound_that_grows_with_k(toys, tmp_path):
    _, whole, batch = answer(toys, recorded(toys, tmp_path / "s1", top=1), 1.0)
    student = log_probabilities(torch.randn(whole.log_p.shape, generator=torch.Generator().manual_seed(0)))
    full = forward_kl(student, whole.log_p)
    before = torch.zeros_like(full)
    for top in (1, 4, 16, 64):
        told, _, _ = answer(toys, recorded(toys, tmp_path / f"s{top}", top=top), 1.0)
        bound = told.distance(student, batch.targets, lambda q, p, _: forward_kl(q, p))
        assert (bound <= full + 1e-5).all() and (bound >= before - 1e-5).all()
        before = bound
    assert (told.log_tail <= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("top", [0, 4])
def test_samples_are_without_bias(top, temperature):
    """Of one place of 30 tokens, 20,000 recordings of 5 samples each: the mean lies within 4 standard errors of the exact KL."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (log_probabilities(2 * torch.randn(1, 30, generator=generator)) for _ in range(2))
    one = Recording.__new__(Recording)
    one.config, one.labels = RecordSignalsConfig(top=top, samples=5, temperatures=[temperature]), False
    kept = one._kept(log_p.expand(20_000, -1), [generator] * 20_000)
    at_t = kept["log_p"] / temperature - kept["lse"]
    weights = at_t.exp()
    weights[:, top:] = (at_t[:, top:] - kept["log_proposal"]).exp() / 5
    told = Sampled(kept["ids"].long(), weights, kept["entropy"][:, 0])
    at_q = log_probabilities(log_q, temperature)
    values = told.distance(at_q.expand(20_000, -1), torch.zeros(20_000, dtype=torch.long), forward_kl)
    exact = forward_kl(at_q, log_probabilities(log_p, temperature))
    assert abs(values.mean() - exact).item() < 4 * values.std().item() / np.sqrt(20_000)
    assert values.std() > 10 * abs(values.mean() - exact)


def test_what_is_drawn_for_a_row_depends_on_seed_and_row_alone(toys, tmp_path):
    one, other = (recorded(toys, tmp_path / name, top=2, samples=3, **cut) for name, cut in (("a", {}), ("b", {"batch_size": 1})))
    a, b = (answer(toys, signals, 2.0)[0] for signals in (one, other))
    assert torch.equal(a.ids, b.ids)
    torch.testing.assert_close(a.weights, b.weights, rtol=1e-4, atol=1e-6)
    assert not torch.equal(a.ids, answer(toys, recorded(toys, tmp_path / "c", top=2, samples=3, seed=1), 2.0)[0].ids)


def test_rows_are_found_in_whatever_order_and_packing_they_are_asked_for(toys, tmp_path):
    """EasyDistill reads cached logits in the file's order while its sampler shuffles."""
    signals = recorded(toys, tmp_path / "s", rows_per_part=3, top=5)
    split, examples = split_of(toys), [13, 2, 7]
    source = Recorded(open_signals(signals), places(split, labels=False), CPU)
    packed, padded = source.ask(packed_batch(split, examples), 1.0), source.ask(padded_batch(split, examples, 0, labels=False), 1.0)
    assert torch.equal(packed.ids, padded.ids) and torch.equal(packed.log_p, padded.log_p)
    alone = [source.ask(padded_batch(split, [example], 0, labels=False), 1.0).ids for example in examples]
    assert torch.equal(torch.cat(alone), packed.ids)
    told, whole, _ = answer(toys, signals, 1.0, examples)
    assert torch.equal(told.ids, whole.log_p.topk(5).indices)


def test_halves_are_smaller_and_say_so(toys, tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        signals = recorded(toys, tmp_path / dtype, dtype=dtype, top=16, temperatures=[1.0])
        description = json.loads((signals.path / "signals.json").read_text())
        assert (description["dtype"], description["kept"]) == (dtype, 16)
        sizes[dtype] = description["bytes_per_target"]
        told, whole, _ = answer(toys, signals, 1.0)
        torch.testing.assert_close(told.log_p, whole.log_p.gather(-1, told.ids), atol=1e-2, rtol=1e-3)
    assert sizes["float32"] - sizes["float16"] == pytest.approx(32, abs=0.5)
    assert description["bytes_per_target_dense"] == 4 * 400 > 10 * sizes["float16"]


@pytest.mark.parametrize("stop", [1, 3])
def test_killed_while_recording_it_goes_on_without_a_row_twice(toys, tmp_path, stop):
    values = {"rows_per_part": 4, "top": 3, "samples": 2, "checkpoint_every": 1}
    whole = recorded(toys, tmp_path / "whole", **values)
    inputs = {"teacher": toys["teacher"], "dataset": toys["dataset"]}
    with pytest.raises(AttemptKilled, match=f"{stop} of 4 parts are kept"):
        recording.run(RecordSignalsConfig(**values), inputs, StoppingAt(tmp_path / "again", stop))
    context = Context(tmp_path / "again")
    outcome = recording.run(RecordSignalsConfig(**values), inputs, context)
    assert context.lines == [f"Resumed after {stop} of 4 parts."]
    assert files(outcome.outputs["signals"].path) == files(whole.path)


def test_checkpoints_come_the_more_seldom_the_more_parts_there_are(toys, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(Recording, "_keep", lambda self, done: kept.append(done))
    monkeypatch.setattr(Recording, "_record", lambda self, rows: {})
    context = Context(tmp_path / "w")
    one = Recording(RecordSignalsConfig(rows_per_part=1, checkpoint_every=2), None, split_of(toys), False, context, CPU)
    one.run()
    assert kept == [2, 4, 6, 8, 10, 12, 15] and one.parts == 16


def test_a_stop_within_a_part_keeps_those_before_it(toys, tmp_path):
    inputs = {"teacher": toys["teacher"], "dataset": toys["dataset"]}
    values = RecordSignalsConfig(rows_per_part=4, batch_size=2)
    with pytest.raises(AttemptKilled, match="1 of 4 parts are kept"):
        recording.run(values, inputs, Context(tmp_path / "again", stop_at=3))
    context = Context(tmp_path / "again")
    recording.run(values, inputs, context)
    assert context.lines == ["Resumed after 1 of 4 parts."]


def test_signals_of_other_tokens_are_refused(toys, tmp_path):
    """DistillKit has a teacher score the student's ids; EasyDistill takes whatever row is next."""
    signals = recorded(toys, tmp_path / "s")
    other = {**toys, "dataset": write_dataset(tmp_path / "other", toys["student"].path, "instruction", rows=16, seed=1)}
    with pytest.raises(IncompatibleModels, match="was recorded on the rows .* these are .* on other tokens is no signal"):
        prepared(other, tmp_path / "w", inputs=given(other, signals_0=signals))
    with pytest.raises(IncompatibleModels, match="was recorded on the rows"):
        open_signals(signals).check(split_of(toys, "tokens"), read_description(toys["dataset"].path)["tokenizer_sha256"], [], 2.0)
    with pytest.raises(IncompatibleModels, match="is of the tokenizer"):
        open_signals(signals).check(split_of(toys), "0" * 64, [], 2.0)
    with pytest.raises(ConfigError, match="temperature=3: .* is exact at 1, 2. Take one of these"):
        prepared(toys, tmp_path / "w", inputs=given(toys, signals_0=signals), temperature=3.0)
    with pytest.raises(InvalidInput, match=r"has no signals.json"):
        open_signals(replace(signals, path=tmp_path))


def test_the_digest_is_of_ids_tokens_and_targets(toys):
    split = split_of(toys)
    assert digest_of(split) == digest_of(split_of(toys))
    assert digest_of(split) != digest_of(replace(split, first=split.first - 1))
    assert digest_of(split) != digest_of(split.take(np.arange(len(split))[::-1]))


def test_of_a_classifier_every_class_is_kept(tmp_path):
    toys = encoders(tmp_path)
    signals = recorded(toys, tmp_path / "s", top=1)
    described = json.loads((signals.path / "signals.json").read_text())
    assert (described["form"], described["labels"], described["kept"]) == ("whole", LABELS, 3)
    live, told = (
        [entry["loss"] for entry in prepared(toys, tmp_path / name, "classification", inputs=inputs, max_steps=2).run().history[:2]]
        for name, inputs in (("a", given(toys)), ("b", given(toys, signals_0=signals)))
    )
    assert told == pytest.approx(live, rel=1e-5)
    assert OBJECTIVES["classification"] == described["objective"]


def test_nothing_to_keep_is_refused():
    with pytest.raises(ConfigError, match="top=0 and samples=0 keep nothing"):
        parse_config(RecordSignalsConfig, {"top": 0})
