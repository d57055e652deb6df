"""Every card of the step tune, on a toy decoder and a toy classifier: the same laws for each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from lfm_tasks.catalogue import methods_of
from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels
from lfm_tasks.models.opening import fresh_modules, open_causal_lm, open_classifier, open_model
from lfm_tasks.step import Input
from lfm_tasks.training import report
from lfm_tasks.tuning import tune
from lfm_tasks.tuning.config import TuneConfig
from tests.toys import make_tokenizer
from tests.tuned import LABELS, Context, bert_input, llama_input, model_input, write_dataset

CASES = [(card, task) for card in methods_of("tune") for task in card.tasks]
NEEDED = {("bitfit", "causal_lm"): {"norms": True}}
"""Options without which a method refuses the toy of that task: a Llama has no biases."""
WITH_DROPOUT = {name: {"dropout": 0.2} for name in ("lora", "dora", "rslora")}
IDS = torch.tensor([[5, 6, 7, 8, 9]])

cases = pytest.mark.parametrize(("card", "task"), CASES, ids=[f"{card.name}-{task}" for card, task in CASES])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, dict[str, Input]]:
    root = tmp_path_factory.mktemp("conformance")
    llama, bert = llama_input(root / "llama"), bert_input(root / "bert")
    _switch_dropout_on(root / "bert")
    return {
        "causal_lm": {"model": llama, "dataset": write_dataset(root / "instruction", llama.path, "instruction")},
        "classification": {"model": bert, "dataset": write_dataset(root / "labels", bert.path, "classification")},
    }


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than tuning a toy."""
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


def _switch_dropout_on(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.1}))


def opened(given: Input, task: str):
    return open_causal_lm(given) if task == "causal_lm" else open_classifier(given, LABELS, seed=0)


def config_for(card, task, **values) -> TuneConfig:
    options = NEEDED.get((card.name, task), {}) | values.pop("options", {})
    return TuneConfig(method=card.name, options=options, batch_size=4, learning_rate=1e-2, **values)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@cases
def test_a_fresh_method_is_the_base(inputs, card, task):
    config = config_for(card, task)
    base = opened(inputs[task]["model"], task)
    expected = logits(base)
    torch.testing.assert_close(logits(card.function.apply(base, config.method_config(), 0)), expected, atol=1e-5, rtol=1e-5)


@cases
def test_only_what_the_method_declares_changes(inputs, tmp_path, card, task):
    config = config_for(card, task, max_steps=3)
    model = opened(inputs[task]["model"], task)
    objective = "labels" if task == "classification" else "completion"
    training = tune.prepare(config, model, inputs[task]["dataset"], objective, Context(tmp_path / "work"))
    before = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    training.run()
    declared = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    changed = {name for name, parameter in training.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and changed <= declared
    if task == "classification":
        assert any("classifier" in name for name in changed)


@cases
def test_what_is_saved_is_what_was_trained_and_merging_changes_nothing(inputs, tmp_path, card, task):
    given = inputs[task]
    outcome = tune.run(config_for(card, task, max_steps=3), given, Context(tmp_path / "work"))
    merged = Input("merged", "model", "e" * 64, outcome.outputs["model"].path)
    expected = logits(open_model(merged))
    assert not torch.allclose(expected, logits(opened(given["model"], task)), atol=1e-3)
    assert ("adapter" in outcome.outputs) == card.function.adapter
    if "adapter" in outcome.outputs:
        adapter = Input("adapter", "adapter", "f" * 64, outcome.outputs["adapter"].path, base=given["model"])
        opened_adapter = open_model(adapter)
        torch.testing.assert_close(logits(opened_adapter), expected, atol=1e-4, rtol=1e-4)
        assert fresh_modules(opened_adapter) == []
        described = json.loads((adapter.path / "lfm_adapter.json").read_text())
        assert described["base"] == {"kind": "model", "sha256": given["model"].sha256}
        assert (described["method"], described["task"]) == (card.name, task)
    assert max(value for name, value in outcome.metrics.items() if name.startswith("reload_difference")) < 1e-4


@cases
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(inputs, tmp_path, card, task):
    options = WITH_DROPOUT.get(card.name, {})
    config = config_for(
        card, task, options=options, max_steps=5, evaluate_every=2, early_stopping_patience=3, micro_batch_size=2, pack_length=40
    )
    whole = tune.run(config, inputs[task], Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match="its checkpoint is kept"):
        tune.run(config, inputs[task], Context(tmp_path / "again", stop_at=8))
    resumed_context = Context(tmp_path / "again")
    resumed = tune.run(config, inputs[task], resumed_context)
    assert any(line.startswith("Resumed from the checkpoint of step") for line in resumed_context.lines)
    for kind, output in whole.outputs.items():
        assert digests(output.path) == digests(resumed.outputs[kind].path)
    assert whole.figures[1].read_text() == resumed.figures[1].read_text()


def digests(directory: Path) -> dict[str, str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@cases
def test_the_card_says_what_it_is(card, task):
    assert {"weights", "gradients"} <= set(card.access)
    assert "arXiv" in card.paper and card.preconditions and card.cost and card.title
    config = TuneConfig(method=card.name).method_config()
    assert type(config) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {card.name}: Unknown option 'nonsense'"):
        TuneConfig(method=card.name, options={"nonsense": 1})


def test_bitfit_without_biases_is_refused(inputs):
    given = inputs["causal_lm"]["model"]
    method = next(card for card in methods_of("tune") if card.name == "bitfit").function
    with pytest.raises(IncompatibleModels, match="LlamaForCausalLM has none. Set the option norms=true"):
        method.apply(open_causal_lm(given), TuneConfig(method="bitfit").method_config(), 0)


def test_a_module_that_the_model_lacks_is_refused_with_those_there_are(inputs):
    config = TuneConfig(options={"target_modules": ["query"]}).method_config()
    method = next(card for card in methods_of("tune") if card.name == "lora").function
    with pytest.raises(ConfigError, match="no linear layer 'query'. It has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        method.apply(open_causal_lm(inputs["causal_lm"]["model"]), config, 0)


@pytest.mark.parametrize("method", ["lora", "dora", "bitfit", "full"])
def test_gpt2_has_biases_and_transposed_linear_layers(inputs, tmp_path, method):
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = tmp_path / "gpt2"
    size = json.loads((inputs["causal_lm"]["model"].path / "config.json").read_text())["vocab_size"]
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)).save_pretrained(directory)
    make_tokenizer(directory)
    given = {"model": model_input(directory), "dataset": inputs["causal_lm"]["dataset"]}
    outcome = tune.run(TuneConfig(method=method, max_steps=2, batch_size=4, learning_rate=1e-2), given, Context(tmp_path / "work"))
    assert outcome.summary["packed"]
    assert outcome.metrics["reload_difference_model"] < 1e-4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_decoder_becomes_a_classifier_with_a_head_of_its_own(inputs, tmp_path, method):
    given = {"model": inputs["causal_lm"]["model"], "dataset": inputs["classification"]["dataset"]}
    outcome = tune.run(TuneConfig(method=method, max_steps=2, batch_size=4, learning_rate=1e-2), given, Context(tmp_path / "work"))
    opened_again = open_model(Input("merged", "model", "e" * 64, outcome.outputs["model"].path))
    assert opened_again.config.id2label == dict(enumerate(LABELS))
    if method == "lora":
        adapter = open_model(Input("adapter", "adapter", "f" * 64, outcome.outputs["adapter"].path, base=given["model"]))
        torch.testing.assert_close(logits(adapter), logits(opened_again), atol=1e-5, rtol=1e-4)
