"""Rows that the student writes itself: which they are, what is learned from them, and that stopping changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lfm_tasks.distillation import distill
from lfm_tasks.distillation.sequences import replay
from lfm_tasks.errors import AttemptKilled, ConfigError
from lfm_tasks.models.generating import stop_tokens
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.training import report
from tests.distilled import config, decoders, given, prepared, recorded
from tests.mixed import files
from tests.tuned import Context, write_dataset

OWN = {"alpha": 1.0, "temperature": 1.0, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return decoders(tmp_path_factory.mktemp("decoders"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


def first_step(training):
    """What the first step learns from."""
    rows, examples = training.objective.rows(training.train, training.plan.examples(0), 0)
    assert list(examples) == list(range(len(rows)))
    return training.objective.step, [training.train.take(np.array([index])) for index in training.plan.examples(0)]


def test_rows_keep_their_prompts_and_what_the_student_wrote_ends_with_its_stop_token(toys, tmp_path):
    training = prepared(toys, tmp_path / "w", on_policy=1.0, **OWN | {"max_new_tokens": 40})
    step, given_rows = first_step(training)
    stop = stop_tokens(training.base, open_tokenizer(toys["student"].path))
    assert step.written.all()
    ended = 0
    for row, (tokens, first, before, sampler) in enumerate(
        zip(step.rows.tokens, step.rows.first, given_rows, step.log_sampler, strict=True)
    ):
        assert tokens[:first].tolist() == before.tokens[0][: int(before.first[0])].tolist()
        assert step.rows.sample_ids[row] == before.sample_ids[0]
        answer = tokens[first:]
        assert len(sampler) == len(answer) and not np.isin(answer[:-1], stop).any()
        ended += answer[-1] in stop
        assert answer[-1] in stop or len(answer) == 40
    assert ended


def test_a_share_of_the_rows_is_written_and_the_others_are_as_given(toys, tmp_path):
    training = prepared(toys, tmp_path / "w", on_policy=0.5, batch_size=16, **OWN)
    step, given_rows = first_step(training)
    assert 2 <= step.written.sum() <= 14
    for tokens, before, written in zip(step.rows.tokens, given_rows, step.written, strict=True):
        assert written or tokens.tolist() == before.tokens[0].tolist()


def test_texts_depend_on_row_and_step_alone(toys, tmp_path):
    one, other = (prepared(toys, tmp_path / str(size), on_policy=1.0, batch_size=size, **OWN) for size in (8, 16))
    (small, _), (large, _) = first_step(one), first_step(other)
    found = dict(zip(large.rows.sample_ids, large.rows.tokens, strict=True))
    for key, tokens in zip(small.rows.sample_ids, small.rows.tokens, strict=True):
        assert tokens.tolist() == found[key].tolist()
    later, _ = one.objective.rows(one.train, one.plan.examples(0), 1)
    assert any(a.tolist() != b.tolist() for a, b in zip(later.tokens, small.rows.tokens, strict=True))


def test_of_running_text_the_beginning_is_the_prompt(toys, tmp_path):
    texts = toys | {"dataset": write_dataset(tmp_path / "data", toys["student"].path, "text", rows=8)}
    settings = config(on_policy=1.0, prompt_tokens=3, **OWN)
    training = distill.prepare(settings, open_causal_lm(toys["student"]), given(texts), "tokens", Context(tmp_path / "w"))
    step, given_rows = first_step(training)
    for tokens, first, before in zip(step.rows.tokens, step.rows.first, given_rows, strict=True):
        assert first == min(3, len(before.tokens[0]) // 2)
        assert tokens[:first].tolist() == before.tokens[0][:first].tolist()


@pytest.mark.parametrize("method", ["forward_kl", "minillm"])
def test_how_a_step_is_cut_into_passes_changes_no_gradient(toys, tmp_path, method):
    found = []
    for name, settings in {"whole": {}, "cut": {"micro_batch_size": 3, "packing": False}}.items():
        training = prepared(toys, tmp_path / name, method=method, on_policy=0.7, max_steps=1, **OWN | {"alpha": 0.8} | settings)
        training.run()
        found.append((training.progress.history[0]["loss"], [p.grad.clone() for p in training.parameters.values() if p.grad is not None]))
    (loss, gradients), (other_loss, others) = found
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(gradients, others, strict=True))


def test_the_count_is_that_of_the_tokens_that_are_learned_not_of_the_rows_that_they_replaced(toys, tmp_path):
    """A stale count, taken before the texts are written, scales the loss by whatever lengths the data set has."""
    training = prepared(toys, tmp_path / "w", method="reverse_kl", on_policy=1.0, **OWN)
    step, _ = first_step(training)
    teacher, student = open_causal_lm(toys["teacher"]), open_causal_lm(toys["student"])
    total = count = 0
    for tokens, first in zip(step.rows.tokens, step.rows.first, strict=True):
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            q, p = (model(ids).logits[0, first - 1 : -1].double().log_softmax(-1) for model in (student, teacher))
        total, count = total + (q.exp() * (q - p)).sum(), count + len(tokens) - first
    training.config = training.config.model_copy(update={"max_steps": 1})
    training.run()
    assert training.progress.history[0]["loss"] == pytest.approx(float(total / count), rel=1e-4)


def test_no_label_is_learned_where_the_student_wrote(toys, tmp_path):
    """With all rows its own, alpha only scales."""
    losses = {
        alpha: prepared(toys, tmp_path / str(alpha), on_policy=1.0, max_steps=1, **OWN | {"alpha": alpha}).run().history[0]["loss"]
        for alpha in (1.0, 0.5)
    }
    assert losses[0.5] == pytest.approx(0.5 * losses[1.0], rel=1e-5)


def test_texts_are_used_again_and_fewer_are_new(toys, tmp_path):
    training = prepared(toys, tmp_path / "w", on_policy=1.0, replay_size=100, max_steps=8, batch_size=16, **OWN)
    writing, kept = training.objective.setting.writing, []
    seen: dict[str, list[int]] = {}
    for step in range(8):
        rows = writing.step(training.train, list(range(16)), step).rows
        texts = dict(zip(rows.sample_ids, (tokens.tolist() for tokens in rows.tokens), strict=True))
        kept.append(sum(seen.get(key) == tokens for key, tokens in texts.items()))
        seen = texts
    assert kept[0] == 0 and sum(kept[1:4]) < sum(kept[5:8]) and kept[7] >= 10


def test_the_adaptive_share_begins_at_nought_and_follows_validation(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "RISE", 0.1)
    training = prepared(toys, tmp_path / "w", on_policy_schedule="adaptive", **OWN)
    writing = training.objective.setting.writing
    assert not writing.step(training.train, list(range(8)), 0).written.any()
    for loss in (1.0, 1.2, 1.4):
        training.objective.validated(loss)
    assert writing.share == pytest.approx(0.2)


@pytest.mark.parametrize("more", [{}, {"teacher_share": 0.2, "method": "minillm", "on_policy": 1.0, "on_policy_schedule": "constant"}])
def test_stopped_and_resumed_with_texts_kept_is_never_stopped(toys, tmp_path, more):
    values = OWN | {"method": "skew_kl", "on_policy": 0.6, "on_policy_schedule": "adaptive", "replay_size": 5, "evaluate_every": 1} | more
    settings = config(**values, max_steps=4, checkpoint_every=1)
    whole = distill.run(settings, given(toys), Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="its checkpoint is kept"):
        distill.run(settings, given(toys), Context(tmp_path / "again", stop_at=2))
    resumed = distill.run(settings, given(toys), Context(tmp_path / "again"))
    assert files(resumed.outputs["model"].path) == files(whole.outputs["model"].path)


def test_what_cannot_be_is_refused(toys, tmp_path):
    signals = recorded(toys, tmp_path / "signals")
    for values, inputs, message in (
        ({"on_policy": 0.5}, given(toys, signals_0=signals), "signals are of given texts"),
        ({"on_policy": 0.5, "alpha": 0.0}, given(toys), "alpha=0 asks nobody"),
        (
            {"on_policy": 0.5, "teacher_share": 0.2},
            given(toys, teachers_0=toys["teacher"], teachers_1=toys["teacher"]),
            "2 teachers cannot",
        ),
        ({"method": "minillm"}, given(toys), "minillm with on_policy=0"),
        ({"method": "minillm", "on_policy": 1.0, "temperature": 2.0}, given(toys), "minillm with temperature=2"),
        ({"method": "minillm", "on_policy": 1.0, "draw_top_p": 0.9}, given(toys), "minillm with draw_top_p=0.9"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepared(toys, tmp_path / "w", inputs=inputs, **OWN | values)
