"""The step cut_student: which layers and units a student is made of, on every kind of model."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lfm_tasks.config import parse_config
from lfm_tasks.distillation import cut as step
from lfm_tasks.distillation.config import CutStudentConfig
from lfm_tasks.distillation.cut import evenly, kept_units
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.opening import open_model
from lfm_tasks.step import Input
from tests.toys import make_bert, make_llama, make_tokenizer
from tests.tuned import LABELS, Context, model_input

IDS = torch.tensor([[5, 6, 7, 90, 33]])
MAKERS = {
    "llama": lambda path: make_llama(path, layers=4),
    "bert": lambda path: make_bert(path, layers=4, labels=LABELS),
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    for name, make in MAKERS.items():
        make(root / name)
    tokenizer = make_tokenizer(root / "gpt2")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(root / "gpt2")
    return {name: model_input(root / name) for name in (*MAKERS, "gpt2")}


def cut(teacher, work, **values):
    outcome = step.run(parse_config(CutStudentConfig, values), {"teacher": teacher}, Context(work))
    return outcome, open_model(Input("student", "model", "a" * 64, outcome.outputs["model"].path))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_layers_that_stay_compute_what_the_teacher_does_without_the_others(teachers, tmp_path, name):
    outcome, student = cut(teachers[name], tmp_path / "w", layers=[0, 3])
    teacher = open_model(teachers[name])
    (layers,) = [one for one in teacher.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == 4]
    for middle in (1, 2):
        layers[middle].forward = lambda hidden_states, *_, **__: hidden_states
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-6, rtol=1e-6)
    assert outcome.summary["layers"] == [0, 3]


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_a_cut_that_keeps_everything_is_the_teacher(teachers, tmp_path, name):
    _, student = cut(teachers[name], tmp_path / "w", depth=4)
    assert torch.equal(logits(student), logits(open_model(teachers[name])))


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("llama", {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}),
        ("bert", {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}),
        ("bert", {"intermediate_size": 24}),
    ],
)
def test_a_narrower_student_has_the_teachers_units(teachers, tmp_path, name, width):
    outcome, student = cut(teachers[name], tmp_path / "w", depth=2, width=width)
    config = json.loads((outcome.outputs["model"].path / "config.json").read_text())
    assert {key: config[key] for key in width} == width and config["num_hidden_layers"] == 2
    teacher = open_model(teachers[name])
    rows = kept_units(32, width.get("hidden_size", 32), 32, width.get("hidden_size", 32), 8)
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight[:, rows])
    assert logits(student).isfinite().all() and outcome.metrics["share_of_parameters"] < 0.9
    if name == "bert":
        assert student.config.id2label == dict(enumerate(LABELS))


def test_half_of_the_layers_stay_where_nothing_else_is_asked(teachers, tmp_path):
    assert cut(teachers["llama"], tmp_path / "w")[0].summary["layers"] == [0, 3]


def test_units_are_chosen_by_the_lengths_alone_whole_heads_first():
    assert evenly(12, 4) == [0, 4, 7, 11] and evenly(6, 6) == list(range(6)) and evenly(5, 1) == [0]
    assert kept_units(32, 16, 32, 16, 8).tolist() == [*range(8), *range(24, 32)]
    assert kept_units(96, 48, 32, 16, 8).tolist() == [start + unit for start in (0, 32, 64) for unit in [*range(8), *range(24, 32)]]
    assert kept_units(7, 3, 32, 16, 8).tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"depth": 2, "layers": [0]}, ConfigError, "depth=2 and layers=.0. exclude one another"),
        ({"depth": 9}, ConfigError, "llama has 4 layers"),
        ({"layers": [4]}, ConfigError, "llama has 4 layers, numbered from 0"),
        ({"width": {"hidden_size": 64}}, ConfigError, "hidden_size of llama is 32, and 64 is no cut of it"),
        ({"width": {"depth": 1}}, ConfigError, "width"),
        ({"width": {"num_key_value_heads": 1, "hidden_size": 15, "num_attention_heads": 2}}, IncompatibleModels, "has these sizes"),
    ],
)
def test_what_cannot_be_cut_is_named(teachers, tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        cut(teachers["llama"], tmp_path / "w", **values)
