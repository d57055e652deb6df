"""The step *distill*: what is averaged over what, several teachers, recorded ones, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lfm_tasks.config import parse_config
from lfm_tasks.distillation import distill
from lfm_tasks.distillation.config import DistillConfig
from lfm_tasks.distillation.divergences import forward_kl, log_probabilities
from lfm_tasks.distillation.objective import weights
from lfm_tasks.distillation.signals import TopK, Whole
from lfm_tasks.distillation.teachers import LogitTeacher, OpenTeacher, grant, open_teacher
from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels
from lfm_tasks.models import heads
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.prepared import read_description
from lfm_tasks.training import report
from lfm_tasks.training.batches import padded_batch
from lfm_tasks.tuning import tune
from lfm_tasks.tuning.config import TuneConfig
from tests.distilled import config, decoders, encoders, given, loud, prepared, recorded, step_gradients
from tests.mixed import files
from tests.toys import make_bert, make_llama, make_tokenizer
from tests.tuned import LABELS, Context, model_input

ONE_STEP = {"max_steps": 1, "max_grad_norm": 0, "alpha": 0.7}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return decoders(tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return encoders(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than distilling a toy."""
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


def close(one, other, tolerance=1e-6):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize(
    "cut", [{"packing": True}, {"packing": True, "pack_length": 40}, {"micro_batch_size": 4}, {"micro_batch_size": 1}], ids=str
)
def test_how_a_step_is_cut_changes_neither_loss_nor_gradient(toys, tmp_path, cut):
    """1 x 8, 2 x 4, 8 x 1, packed, padded. DistillKit, and TRL once, average micro-batches of different lengths equally."""
    values = ONE_STEP | {"packing": False}
    whole = step_gradients(prepared(toys, tmp_path / "one", **values))
    close(step_gradients(prepared(toys, tmp_path / "other", **values | cut)), whole)


def test_loss_and_gradient_are_those_of_the_formula_averaged_over_the_tokens_of_the_step(toys, tmp_path):
    """Each row alone, without padding, by the models' own logits; 2 of TRL's counts were of other tokens than those learned from."""
    training = prepared(toys, tmp_path / "w", **ONE_STEP)
    student, teacher = open_causal_lm(toys["student"]), open_causal_lm(toys["teacher"])
    total, count = 0.0, 0
    for index in training.plan.examples(0):
        ids, first = torch.from_numpy(training.train.tokens[index]), int(training.train.first[index])
        z, t = (model(input_ids=ids[None]).logits[0, first - 1 : -1] for model in (student, teacher))
        kl = forward_kl(log_probabilities(z, 2.0), log_probabilities(t.detach(), 2.0))
        total = total + 0.7 * 4 * kl.sum() + 0.3 * functional.cross_entropy(z, ids[first:], reduction="sum")
        count += len(ids) - first
    (total / count).backward()
    expected = {name: parameter.grad for name, parameter in student.named_parameters()}
    close(step_gradients(training), (float(total) / count, expected))


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_padding_and_its_ids_change_nothing(toys, labelled, tmp_path, task):
    """TRL's MiniLLM builds its mask from the ids, so that padding enters the loss."""
    given_toys = toys if task == "causal_lm" else labelled
    training = prepared(given_toys, tmp_path / "w", task, packing=False, alpha=1.0)
    labels = task == "classification"
    values = []
    for pad in (0, 7):
        batch = padded_batch(training.train, [0, 3, 5], pad, labels=labels)
        values.append(training.objective.loss_sum(training.model, batch))
    rows = [training.objective.loss_sum(training.model, padded_batch(training.train, [i], 0, labels=labels)) for i in (5, 0, 3)]
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(values[0], torch.stack(rows).sum(), atol=1e-4, rtol=1e-5)
    if task == "causal_lm":
        batch = padded_batch(training.train, [0, 3, 5], 0, labels=False)
        longer = replace(batch, **{name: functional.pad(getattr(batch, name), (0, 3)) for name in ("input_ids", "positions")})
        torch.testing.assert_close(training.objective.loss_sum(training.model, longer), values[0], atol=1e-4, rtol=1e-5)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(toys, tmp_path):
    same = {**toys, "student": toys["teacher"]}
    loss, gradients = step_gradients(prepared(same, tmp_path / "w", **ONE_STEP | {"alpha": 1.0}))
    assert loss < 1e-5 and max(float(gradient.abs().max()) for gradient in gradients.values()) < 1e-4


def test_slices_of_any_size_give_the_same_and_no_more_logits_exist_than_a_slice_has(toys, tmp_path, monkeypatch):
    whole = step_gradients(prepared(toys, tmp_path / "one", **ONE_STEP))
    sliced = prepared(toys, tmp_path / "other", **ONE_STEP)
    sliced.validation = sliced.validation.take([])
    monkeypatch.setattr(heads, "CHUNK_NUMBERS", 400 * 5)
    seen = []
    for model in (sliced.base, sliced.objective.teachers[0]._model):
        model.get_output_embeddings().register_forward_hook(lambda _, given, output: seen.append(output.shape))
    close(step_gradients(sliced), whole)
    rows = [shape[-2] for shape in seen if shape[-1] == 400]
    assert rows.count(5) >= 6 and max(rows) == 5


def test_without_a_teacher_it_is_tuning(toys, labelled, tmp_path):
    values = {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-2}
    for task, one in (("causal_lm", toys), ("classification", labelled)):
        student = {"student": one["student"], "dataset": one["dataset"]}
        ours = distill.run(DistillConfig(alpha=0.0, **values), student, Context(tmp_path / f"{task}-distill"))
        tuned = tune.run(
            TuneConfig(method="full", **values), {"model": one["student"], "dataset": one["dataset"]}, Context(tmp_path / f"{task}-tune")
        )
        assert files(ours.outputs["model"].path) == files(tuned.outputs["model"].path)
        assert ours.summary["teachers"] == []


def test_recorded_signals_are_as_good_as_the_teacher(toys, tmp_path):
    signals = recorded(toys, tmp_path / "s", top=1_000)
    values = {"max_steps": 4, "alpha": 0.9}
    live = prepared(toys, tmp_path / "a", **values).run().history
    told = prepared(toys, tmp_path / "b", inputs=given(toys, signals_0=signals), **values).run().history
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in (live, told)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("combine", ["mean", "confidence", "instance"])
def test_several_teachers_are_weighted_as_their_formula_says(combine):
    generator = torch.Generator().manual_seed(0)
    log_p = [log_probabilities(scale * torch.randn(6, 5, generator=generator, dtype=torch.float64)) for scale in (1.0, 3.0, 0.2)]
    targets = torch.arange(6) % 5
    found = weights([Whole(one) for one in log_p], targets, combine)
    p = torch.stack(log_p).exp()
    ce = -torch.stack([one.gather(-1, targets[:, None])[:, 0] for one in log_p])
    expected = {
        "mean": torch.full((3, 1), 1 / 3, dtype=torch.float32),
        "confidence": torch.softmax((p * p.log()).sum(-1), 0),
        "instance": 0.5 * (1 - ce.exp() / ce.exp().sum(0)),
    }[combine]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(0), torch.ones_like(found[0]))
    top = [TopK(one.topk(2).indices, one.topk(2).values) for one in log_p]
    assert weights(top, targets, combine).sum(0).allclose(torch.ones(1, dtype=torch.float64).to(weights(top, targets, combine).dtype))


def test_a_teacher_twice_is_the_teacher_and_signals_may_stand_beside_it(toys, tmp_path):
    one = step_gradients(prepared(toys, tmp_path / "one", **ONE_STEP))
    signals = recorded(toys, tmp_path / "s", top=1_000)
    for combine in ("mean", "confidence", "instance"):
        twice = given(toys, teachers_0=toys["teacher"], signals_0=signals)
        close(step_gradients(prepared(toys, tmp_path / combine, inputs=twice, combine=combine, **ONE_STEP)), one, tolerance=1e-5)


def test_two_teachers_are_the_mean_of_their_losses(toys, tmp_path):
    other = loud(model_input(_written(make_llama, tmp_path / "other", seed=5)))
    losses = [
        step_gradients(prepared(toys, tmp_path / f"w{place}", inputs=given(toys, **teachers), **ONE_STEP))[0]
        for place, teachers in enumerate(
            [{"teachers_0": toys["teacher"]}, {"teachers_0": other}, {"teachers_0": toys["teacher"], "teachers_1": other}]
        )
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_a_teachers_classes_are_found_by_their_names(labelled, tmp_path):
    """In another order, and with one more: the columns of the data set's classes are taken, whatever their places."""
    other = loud(model_input(_written(make_bert, tmp_path / "other", labels=["weather", *reversed(LABELS)], seed=1)))
    tensors, theirs = load_file(labelled["teacher"].path / "model.safetensors"), load_file(other.path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        theirs[name][1:] = tensors[name].flip(0)
    head = {name: theirs[name] for name in ("classifier.weight", "classifier.bias")}
    save_file(tensors | head, other.path / "model.safetensors", {"format": "pt"})
    plain = step_gradients(prepared(labelled, tmp_path / "a", "classification", **ONE_STEP))
    inputs = given(labelled, teachers_0=other)
    close(step_gradients(prepared(labelled, tmp_path / "b", "classification", inputs=inputs, **ONE_STEP)), plain)
    few = model_input(_written(make_bert, tmp_path / "few", labels=LABELS[:2]))
    with pytest.raises(IncompatibleModels, match="tells business, sport apart, and not tech"):
        prepared(labelled, tmp_path / "c", "classification", inputs=given(labelled, teachers_0=few))


def test_columns_that_the_tokenizer_has_no_token_for_are_cut_from_the_teacher(toys, tmp_path):
    """Two models of one tokenizer, whose embeddings are padded to 400 and to 410 rows."""
    wide = tmp_path / "wide"
    model = open_causal_lm(toys["teacher"])
    model.resize_token_embeddings(410, mean_resizing=False)
    model.save_pretrained(wide)
    make_tokenizer(wide)
    plain = step_gradients(prepared(toys, tmp_path / "a", **ONE_STEP))
    close(step_gradients(prepared(toys, tmp_path / "b", inputs=given(toys, teachers_0=model_input(wide)), **ONE_STEP)), plain)
    student = {**toys, "student": model_input(wide)}
    loss, _ = step_gradients(prepared(student, tmp_path / "c", **ONE_STEP | {"alpha": 1.0}))
    assert 0 < loss < 1


def test_a_teacher_with_another_tokenizer_is_refused(toys, tmp_path):
    other = model_input(_written(make_llama, tmp_path / "other", vocabulary=390))
    with pytest.raises(IncompatibleModels, match="its logits are of other tokens. Take a teacher with the student's tokenizer"):
        prepared(toys, tmp_path / "w", inputs=given(toys, teachers_0=other))


def test_a_method_is_handed_what_its_card_declares_and_no_more(toys):
    model = open_causal_lm(toys["teacher"])
    asked, opened = grant(model, ("logits",), None, 400), grant(model, ("logits", "activations"), None, 400)
    assert type(asked) is LogitTeacher and not hasattr(asked, "model")
    assert type(opened) is OpenTeacher and opened.model is model


def test_a_teacher_stays_as_it_is(labelled, tmp_path):
    before = files(labelled["teacher"].path)
    training = prepared(labelled, tmp_path / "w", "classification", max_steps=2)
    teacher = training.objective.teachers[0]._model
    training.run()
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters()) and files(labelled["teacher"].path) == before


def test_bfloat16_and_checkpointed_activations_distil_alike(toys, tmp_path):
    plain = step_gradients(prepared(toys, tmp_path / "a", **ONE_STEP))
    close(step_gradients(prepared(toys, tmp_path / "b", gradient_checkpointing=True, **ONE_STEP)), plain)
    half = step_gradients(prepared(toys, tmp_path / "c", precision="bfloat16", **ONE_STEP))
    assert half[0] != plain[0] and half[0] == pytest.approx(plain[0], rel=5e-2)


def test_a_whole_step_is_one_pass_for_a_method_that_compares_rows(labelled, tmp_path):
    values = ONE_STEP | {"method": "dist"}
    one = step_gradients(prepared(labelled, tmp_path / "a", "classification", **values))
    close(step_gradients(prepared(labelled, tmp_path / "b", "classification", micro_batch_size=1, **values)), one)


def test_stopped_and_resumed_is_never_stopped(toys, tmp_path):
    values = {"max_steps": 4, "checkpoint_every": 2}
    whole = distill.run(config(**values), given(toys), Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="its checkpoint is kept"):
        distill.run(config(**values), given(toys), Context(tmp_path / "again", stop_at=3))
    resumed = distill.run(config(**values), given(toys), Context(tmp_path / "again"))
    assert files(resumed.outputs["model"].path) == files(whole.outputs["model"].path)
    assert whole.metrics["reload_difference_model"] < 1e-5 and whole.metrics["cpu_seconds"] > 0
    assert whole.summary["teachers"] == ["teacher"]
    assert json.loads(whole.figures[1].read_text())[-1]["step"] == 4


def test_distillation_brings_the_student_nearer_to_the_teacher_than_its_labels_do(labelled, tmp_path):
    """Three seeds, the same steps: agreement with the teacher's distribution on rows that neither was trained on."""
    description = read_description(labelled["dataset"].path)
    teacher = open_teacher(labelled["teacher"], description, LABELS, ("logits",), torch.device("cpu"))
    distances = {0.0: [], 1.0: []}
    for alpha, found in distances.items():
        for seed in range(3):
            training = prepared(labelled, tmp_path / f"{alpha}-{seed}", "classification", alpha=alpha, seed=seed, max_steps=15)
            training.run()
            batch = padded_batch(training.validation, range(len(training.validation)), 0, labels=True)
            with torch.no_grad():
                log_q = log_probabilities(training.model(**batch.inputs).logits, 2.0)
            found.append(forward_kl(log_q, teacher.ask(batch, 2.0)[slice(None)].log_p).mean().item())
    assert max(distances[1.0]) < min(distances[0.0]) / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "kl"}, "Unknown method 'kl'"),
        ({"method": "jsd", "options": {"beta": 1.0}}, "beta=1 makes the divergence 0 everywhere. Set normalised=true"),
        ({"method": "skew_kl", "options": {"beta": 1.0}}, "options of skew_kl: Unknown option 'beta'. Allowed: skew"),
        ({"temperature": 0}, "temperature: .*greater than 0"),
        ({"alpha": 1.5}, "alpha: .*less than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(DistillConfig, values)


def test_what_does_not_fit_the_inputs_is_named(toys, tmp_path):
    student = {"student": toys["student"], "dataset": toys["dataset"]}
    with pytest.raises(ConfigError, match="alpha=0.5: no teacher was given. Give teachers or signals, or set alpha=0"):
        distill.prepare(config(), open_causal_lm(toys["student"]), student, "completion", Context(tmp_path / "w"))
    top, samples = (recorded(toys, tmp_path / name, **values) for name, values in (("t", {}), ("s", {"samples": 4})))
    for method, signals in (("decoupled", top), ("logit_mse", top), ("reverse_kl", samples)):
        with pytest.raises(ConfigError, match=f"{method} needs .*whole.* signals; .* Give the teacher itself"):
            prepared(toys, tmp_path / "w", inputs=given(toys, signals_0=signals), method=method)
    with pytest.raises(ConfigError, match="combine=instance asks how likely"):
        prepared(toys, tmp_path / "w", inputs=given(toys, signals_0=samples), combine="instance")


def _written(make, directory, **options):
    make(directory, **options)
    return directory


def test_shares_of_the_loss_are_not_for_it(toys, tmp_path):
    """*prepare* gives rows parts where it is told of them, and *tune* alone heeds them."""
    shutil.copytree(toys["dataset"].path, tmp_path / "data")
    table = pq.read_table(tmp_path / "data" / "train.parquet")
    pq.write_table(table.append_column("part", pa.array([0] * table.num_rows)), tmp_path / "data" / "train.parquet")
    description = read_description(tmp_path / "data") | {"parts": {"all": 1.0}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="which the step distill does not take"):
        prepared(toys | {"dataset": replace(toys["dataset"], path=tmp_path / "data")}, tmp_path / "w")
