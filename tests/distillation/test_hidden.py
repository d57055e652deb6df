"""What is compared inside two models: against transformers' own attention, einsum, least squares; padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lfm_tasks.distillation import distill, inside
from lfm_tasks.distillation.methods.hidden import teacher_layer
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.attention import attended, can_observe, observable
from lfm_tasks.models.opening import open_causal_lm, open_classifier
from lfm_tasks.training.batches import padded_batch
from tests.distilled import decoders, encoders, given, loud, prepared, recorded, step_gradients
from tests.toys import make_tokenizer
from tests.tuned import LABELS, llama_input, model_input, write_dataset

METHODS = ("tinybert", "minilm", "minilm_v2", "activations")
TASKS = ("causal_lm", "classification")
IDS = torch.tensor([[5, 6, 7, 90, 33], [8, 9, 11, 0, 0]])
VALID = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return {"causal_lm": decoders(tmp_path_factory.mktemp("decoders")), "classification": encoders(tmp_path_factory.mktemp("encoders"))}


def opened(toys, task, who="teacher"):
    return open_causal_lm(toys[task][who]) if task == "causal_lm" else open_classifier(toys[task][who], LABELS)


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_transformers_own_attention(toys, task):
    """Grouped queries in the decoder; padding in the encoder."""
    model = opened(toys, task)
    inputs = {"input_ids": IDS, "attention_mask": VALID.long()}
    with torch.no_grad(), observable(model):
        expected_logits = model(**inputs).logits
        with attended(model) as seen:
            model(**inputs)
    assert [one.query.shape[1] == one.key.shape[1] == one.value.shape[1] == 4 for one in seen] == [True, True]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    where = VALID if task == "causal_lm" else slice(None)
    torch.testing.assert_close(output.logits[where], expected_logits[where], atol=1e-4, rtol=1e-4)
    allowed = inside.allowed_keys(VALID, causal=task == "causal_lm")
    for one, theirs in zip(seen, output.attentions, strict=True):
        ours = torch.softmax(inside.scores(one).masked_fill(~allowed, -torch.inf), -1)
        torch.testing.assert_close(ours.transpose(1, 2)[VALID], theirs.transpose(1, 2)[VALID], atol=1e-5, rtol=1e-4)


def test_nothing_is_seen_outside_of_the_block_or_of_another_model(toys):
    model, other = opened(toys, "causal_lm"), opened(toys, "causal_lm", "student")
    with torch.no_grad(), observable(model), observable(other):
        with attended(model) as seen:
            other(input_ids=IDS)
        model(input_ids=IDS)
    assert seen == [] and model.config._attn_implementation == "sdpa" and can_observe(model)


@pytest.mark.parametrize("heads", [0, 2, 8])
def test_relations_are_the_papers(heads):
    states = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    vectors = states.transpose(1, 2).reshape(2, 5, heads or 4, -1)
    expected = torch.einsum("bqhd,bkhd->bhqk", vectors, vectors) / vectors.shape[-1] ** 0.5
    torch.testing.assert_close(inside.relation(states, heads), expected, rtol=1e-12, atol=1e-12)


def test_rows_of_scores_are_compared_over_the_allowed_keys_alone():
    a, b = (torch.randn(2, 3, 5, 5, dtype=torch.float64) for _ in range(2))
    allowed = inside.allowed_keys(VALID, causal=True)
    kl, mse = inside.row_kl(a, b, allowed), inside.score_mse(a, b, allowed)
    for row, query in ((0, 0), (0, 3), (1, 2)):
        keys = slice(0, query + 1)
        q, p = (torch.softmax(one[row, :, query, keys], -1) for one in (a, b))
        torch.testing.assert_close(kl[row, query], (p * (p / q).log()).sum(-1).mean(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(mse[row, query], (a - b)[row, :, query, keys].square().mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_padding_its_ids_and_the_order_of_rows_change_nothing(toys, tmp_path, task, method):
    training = prepared(toys[task], tmp_path / "w", task, method=method, alpha=1.0)
    labels, objective = task == "classification", training.objective
    with torch.no_grad(), training._modes():

        def loss(examples, pad=0):
            return objective.loss_sum(training.model, padded_batch(training.train, examples, pad, labels=labels))

        together, alone = loss([0, 3, 5]), torch.stack([loss([example]) for example in (5, 0, 3)]).sum()
        torch.testing.assert_close(together, loss([3, 5, 0], pad=9), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_and_checkpointed_activations_change_no_gradient(toys, tmp_path, task, method):
    values = {"method": method, "max_steps": 1, "max_grad_norm": 0, "alpha": 0.8}
    whole = step_gradients(prepared(toys[task], tmp_path / "a", task, **values))
    for place, cut in enumerate(({"micro_batch_size": 1}, {"gradient_checkpointing": True})):
        loss, gradients = step_gradients(prepared(toys[task], tmp_path / f"b{place}", task, **values, **cut))
        assert loss == pytest.approx(whole[0], rel=1e-4)
        largest = max(float(one.abs().max()) for one in whole[1].values())
        for name, gradient in gradients.items():
            assert float((gradient - whole[1][name]).abs().max()) < 1e-4 * largest


def test_least_squares_are_where_the_distance_of_projected_states_is_least():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    rotation = nn.init.orthogonal_(torch.empty(9, 6, dtype=torch.float64), generator=generator)
    for teacher in (student @ rotation.T, student @ rotation.T + torch.randn(40, 9, generator=generator, dtype=torch.float64)):
        weight = torch.linalg.lstsq(student, teacher).solution.T.requires_grad_()
        (gradient,) = torch.autograd.grad(inside.state_mse(student @ weight.T, teacher).sum(), weight)
        assert gradient.abs().max() < 1e-12
    exact = torch.linalg.lstsq(student, student @ rotation.T).solution.T
    torch.testing.assert_close(exact, rotation, rtol=1e-10, atol=1e-10)
    assert inside.state_cosine(3 * student, student).abs().max() < 1e-12


@pytest.mark.parametrize(("method", "names"), [("tinybert", {"shared"}), ("activations", {"0", "1"}), ("minilm", set())])
def test_projections_train_with_the_student_and_are_kept_in_its_checkpoints_alone(toys, tmp_path, method, names):
    training = prepared(toys["causal_lm"], tmp_path / "w", method=method, checkpoint_every=2)
    before = {name: one.detach().clone() for name, one in training.objective.parameters().items()}
    assert before.keys() == {f"projection.{name}" for name in names}
    training.run()
    assert all(not torch.equal(one, before[name]) for name, one in training.objective.parameters().items())
    kept = load_file(training.context.checkpoints.latest() / "parameters.safetensors")
    assert before.keys() <= kept.keys() and not before.keys() & training.model.state_dict().keys()
    difference = distill.save(training, toys["causal_lm"]["student"], [], tmp_path / "model")
    assert difference < 1e-4 and load_file(tmp_path / "model" / "model.safetensors").keys() <= training.model.state_dict().keys()


def test_layers_are_mapped_evenly_as_tinybert_does():
    assert [teacher_layer(m, 4, 12) for m in range(4)] == [2, 5, 8, 11] and [teacher_layer(m, 3, 3) for m in range(3)] == [0, 1, 2]


def test_any_module_is_found_by_its_path_and_no_hook_stays(toys, tmp_path):
    values = {"method": "activations", "alpha": 1.0, "max_steps": 1}
    pairs = ["model.layers.0.mlp=model.layers.1.mlp", "model.layers.0.self_attn=model.layers.0.self_attn"]
    training = prepared(toys["causal_lm"], tmp_path / "w", options={"modules": pairs, "distance": "cosine"}, **values)
    training.run()
    assert 0 < training.progress.history[0]["loss"] < 2
    models = (training.model, training.objective.teacher)
    assert not any(module._forward_hooks or module._forward_pre_hooks for model in models for module in model.modules())
    for modules, message in ((["mlp"], "'mlp' is no pair"), (["a=b"], "LlamaForCausalLM has no module 'a'. Its top ones: lm_head, model")):
        with pytest.raises(ConfigError, match=message):
            prepared(toys["causal_lm"], tmp_path / "w", options={"modules": modules}, **values)


def test_other_heads_are_compared_by_their_relations(toys, tmp_path):
    """A teacher of grouped queries with 4 heads, a student of 4 heads over a width of 24; MiniLM itself asks for equal heads."""
    teacher = loud(llama_input(tmp_path / "teacher", seed=1))
    directory = tmp_path / "student"
    tokenizer = make_tokenizer(directory)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(directory)
    one = {"teacher": teacher, "student": model_input(directory), "dataset": write_dataset(tmp_path / "data", directory, "instruction")}
    losses = [entry["loss"] for entry in prepared(one, tmp_path / "w", method="minilm_v2", alpha=1.0).run().history if "loss" in entry]
    assert losses[0] > losses[-1] > 0
    for method in ("minilm", "tinybert"):
        with pytest.raises(IncompatibleModels, match="the student has 2, the teacher 4. Take minilm_v2"):
            prepared(one, tmp_path / "w", method=method)
    loose = prepared(one, tmp_path / "w2", method="tinybert", options={"attention": 0.0}, max_steps=1)
    assert loose.run().history[0]["loss"] > 0
    with pytest.raises(ConfigError, match="relation_heads=5 does not divide a width of 16"):
        prepared(one, tmp_path / "w3", method="minilm_v2", options={"relation_heads": 5}).run()


def test_what_does_not_fit_is_named(toys, tmp_path):
    decoder = toys["causal_lm"]
    twice = given(decoder, teachers_0=decoder["teacher"], teachers_1=decoder["teacher"])
    with pytest.raises(ConfigError, match="minilm compares one student with one teacher"):
        prepared(decoder, tmp_path / "w", inputs=twice, method="minilm")
    with pytest.raises(ConfigError, match="minilm looks at a teacher's activations, which recorded signals do not hold"):
        prepared(decoder, tmp_path / "w", inputs=given(decoder, signals_0=recorded(decoder, tmp_path / "s")), method="minilm")
    with pytest.raises(ConfigError, match="teacher_layer=7: the teacher has the layers 0 to 1"):
        prepared(decoder, tmp_path / "w", method="minilm", options={"teacher_layer": 7}).run()
    baseline = prepared(decoder, tmp_path / "b", method="minilm", alpha=0.0, max_steps=1)
    assert baseline.run().history[0]["loss"] > 0
