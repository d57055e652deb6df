"""The step statistics: Gram matrices beside hidden states, Fisher information beside plain autograd, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from lfm_tasks.errors import AttemptKilled, ConfigError, DataError, IncompatibleModels, InvalidInput
from lfm_tasks.models.layer_inputs import input_products, linear_layers
from lfm_tasks.models.opening import open_causal_lm, open_classifier
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.models.statistics import Statistics, read_statistics
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.adding import added
from lfm_tasks.statistics.adding import run as add_statistics
from lfm_tasks.statistics.config import AddStatisticsConfig, StatisticsConfig
from lfm_tasks.step import Input
from tests.mixed import files
from tests.toys import make_tokenizer
from tests.tuned import LABELS, Context, bert_input, llama_input, model_input, write_dataset

QUERY, KEY, UP = (f"bert.encoder.layer.1.{name}.weight" for name in ("attention.self.query", "attention.self.key", "intermediate.dense"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp("classifier")
    model = bert_input(root / "bert", labels=LABELS)
    return {"model": model, "dataset": write_dataset(root / "rows", model.path, "classification")}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp("decoder")
    model = llama_input(root / "llama")
    return {"model": model, "dataset": write_dataset(root / "rows", model.path, "instruction", rows=4)}


def gathered(inputs: dict[str, Input], work, estimator: str = "", **values) -> Statistics:
    chosen = {"method": "fisher_information", "options": {"estimator": estimator}} if estimator else {"method": "gram"}
    path = gather.run(StatisticsConfig(**chosen, **values), inputs, Context(work)).outputs["statistics"].path
    return read_statistics(Input("statistics", "statistics", "9" * 64, path))


@pytest.mark.parametrize("estimator", ["", "true", "sampled", "empirical", "sum_batch"])
@pytest.mark.parametrize("stopped", [3, 6, 12])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(classifier, tmp_path, estimator, stopped):
    values = {"method": "fisher_information", "options": {"estimator": estimator}} if estimator else {}
    config = StatisticsConfig(**values, batch_size=3)

    class Stopping(Context):
        def report(self, done, total, metrics=None):
            super().report(done, total, metrics)
            if done >= stopped:
                raise AttemptKilled("Stopped on request.")

    whole = gather.run(config, classifier, Context(tmp_path / "whole"))
    with pytest.raises(AttemptKilled, match=r"Stopped on request. \d+ of 12 rows are kept; the same job goes on from there"):
        gather.run(config, classifier, Stopping(tmp_path / "again"))
    context = Context(tmp_path / "again")
    resumed = gather.run(config, classifier, context)
    assert any(line.startswith("Resumed: ") for line in context.lines) and all(done > stopped for done, _, _ in context.reports)
    assert files(whole.outputs["statistics"].path) == files(resumed.outputs["statistics"].path)


def test_a_gram_matrix_is_that_of_the_tokens_without_padding(classifier, tmp_path):
    found = gathered(classifier, tmp_path / "work", batch_size=5)
    model, rows = open_classifier(classifier["model"]), read_rows(classifier["dataset"].path, "train")
    inputs = []
    for ids in rows.input_ids:
        with torch.no_grad():
            inputs.append(model(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states[1][0].double())
    tokens = torch.cat(inputs)
    torch.testing.assert_close(found.read(QUERY).double(), tokens.T @ tokens / len(tokens), atol=1e-6, rtol=1e-5)
    assert found.tensors[QUERY] == {"stored_as": QUERY, "input_axis": 1, "tokens": len(tokens)}
    assert found.tensors["classifier.weight"]["tokens"] == len(rows) == found.description["rows"]
    assert found.description["tokens"] == len(tokens)


def test_layers_with_one_input_have_one_matrix_on_disk(classifier, tmp_path):
    found = gathered(classifier, tmp_path / "work")
    assert found.tensors[KEY]["stored_as"] == QUERY
    assert found.tensors[UP]["stored_as"] == UP
    assert len({entry["stored_as"] for entry in found.tensors.values()}) == 2 * 4 + 2
    assert len(found.tensors) == 2 * 6 + 2


def test_the_size_of_batches_changes_nothing(classifier, tmp_path):
    one, many = (gathered(classifier, tmp_path / str(size), batch_size=size) for size in (1, 12))
    assert one.tensors == many.tensors
    for name in one.tensors:
        torch.testing.assert_close(one.read(name), many.read(name), atol=1e-6, rtol=1e-5)


def test_statistics_of_parts_of_the_rows_add_up(classifier, tmp_path):
    """Weighted by tokens (Gram) or rows (Fisher)."""
    for estimator, unit in (("", "tokens"), ("true", "rows")):
        whole = gathered(classifier, tmp_path / f"{unit}-whole", estimator, max_rows=8)
        first = gathered(classifier, tmp_path / f"{unit}-first", estimator, max_rows=3)
        rest = _without_the_first(classifier, tmp_path / f"{unit}-rows", 3, 8)
        second = gathered(rest, tmp_path / f"{unit}-second", estimator)
        shares = [part.description[unit] for part in (first, second)]
        assert sum(shares) == whole.description[unit]
        expected = sum(share * part.read(UP) for share, part in zip(shares, (first, second), strict=True)) / sum(shares)
        torch.testing.assert_close(whole.read(UP), expected, atol=1e-7, rtol=1e-4)


def _without_the_first(inputs, directory, start, stop):
    directory.mkdir()
    table = pq.read_table(inputs["dataset"].path / "train.parquet").sort_by("sample_id").slice(start, stop - start)
    pq.write_table(table, directory / "train.parquet")
    (directory / "dataset.json").write_bytes((inputs["dataset"].path / "dataset.json").read_bytes())
    return inputs | {"dataset": Input("rest", "dataset", "8" * 64, directory)}


def test_the_true_fisher_is_the_expectation_over_the_classes(classifier, tmp_path):
    found = gathered(classifier, tmp_path / "work", "true", max_rows=4)
    model, rows = open_classifier(classifier["model"]).double(), read_rows(classifier["dataset"].path, "train", 4)
    parameters = dict(model.named_parameters())
    expected = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for ids in rows.input_ids:
        for label in range(3):
            log_p = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)[label]
            for name, gradient in zip(expected, torch.autograd.grad(log_p, list(parameters.values())), strict=True):
                expected[name] += log_p.exp().item() * gradient.square() / 4
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found.read(name).double(), tensor, atol=1e-9, rtol=2e-3)


def test_drawn_labels_are_right_on_average_and_keyed(classifier, tmp_path):
    exact = gathered(classifier, tmp_path / "true", "true", max_rows=3).read(UP)
    drawn = [gathered(classifier, tmp_path / f"s{seed}", "sampled", max_rows=3, seed=seed).read(UP) for seed in range(40)]
    assert torch.equal(drawn[1], gathered(classifier, tmp_path / "again", "sampled", max_rows=3, seed=1, batch_size=2).read(UP))
    traces = torch.stack([one.sum() for one in drawn])
    error = traces.std() / len(drawn) ** 0.5
    assert abs(traces.mean() - exact.sum()) < 4 * error
    assert error < 0.2 * exact.sum()


def test_the_empirical_fisher_of_an_instruction_is_of_its_answer(decoder, tmp_path):
    found = gathered(decoder, tmp_path / "work", "empirical")
    model, rows = open_causal_lm(decoder["model"]), read_rows(decoder["dataset"].path, "train")
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
    expected = torch.zeros_like(weight)
    for ids, prompt in zip(rows.input_ids, rows.columns["prompt_tokens"], strict=True):
        tokens = torch.from_numpy(ids)[None]
        labels = tokens.clone()
        labels[:, :prompt] = -100
        loss = model(tokens, labels=labels).loss * (tokens.shape[1] - prompt)
        expected += torch.autograd.grad(loss, weight)[0].square() / len(rows)
    torch.testing.assert_close(found.read("model.layers.1.mlp.up_proj.weight"), expected, atol=1e-9, rtol=1e-3)
    assert "lm_head.weight" not in found.tensors and "model.embed_tokens.weight" in found.tensors


def test_classes_of_a_vocabulary_are_too_many_to_go_over(decoder, tmp_path):
    for estimator in ("true", "sum_batch"):
        with pytest.raises(ConfigError, match=f"estimator={estimator} goes over all classes.*task instruction.*sampled or empirical"):
            gathered(decoder, tmp_path / "work", estimator)


def test_a_tied_head_has_no_matrix_and_gpt2_has_its_inputs_on_the_first_axis(decoder, tmp_path):
    assert not {"lm_head.weight", "model.embed_tokens.weight"} & gathered(decoder, tmp_path / "llama").tensors.keys()
    directory = tmp_path / "gpt2"
    size = json.loads((decoder["model"].path / "config.json").read_text())["vocab_size"]
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)).save_pretrained(directory)
    make_tokenizer(directory)
    found = gathered({"model": model_input(directory), "dataset": decoder["dataset"]}, tmp_path / "work")
    entry = found.tensors["transformer.h.0.mlp.c_proj.weight"]
    assert (entry["input_axis"], found.shape("transformer.h.0.mlp.c_proj.weight")) == (0, (128, 128))


def test_hooks_go_whatever_happens(classifier):
    model = open_classifier(classifier["model"])
    with pytest.raises(RuntimeError, match="stop"), input_products(linear_layers(model)):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_that_share_their_input_only_sometimes_are_refused():
    class Switching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x, same):
            return self.one(x) + self.two(x if same else x + 1)

    model = Switching()
    with torch.no_grad(), input_products(linear_layers(model)):
        model(torch.ones(3, 2), True)
        with pytest.raises(IncompatibleModels, match="two.weight has the input of one.weight for some rows and another for others"):
            model(torch.ones(3, 2), False)


def test_a_model_that_was_not_tuned_for_the_rows_is_refused(classifier, tmp_path):
    with pytest.raises(IncompatibleModels, match="has no trained classifier.*Give the tuned model"):
        gathered(classifier | {"model": bert_input(tmp_path / "bare")}, tmp_path / "work")
    with pytest.raises(IncompatibleModels, match="tells the classes a, b apart"):
        gathered(classifier | {"model": bert_input(tmp_path / "other", labels=["a", "b"])}, tmp_path / "work")


def test_only_a_model_without_foreign_names_is_taken(classifier, tmp_path):
    bert = bert_input(tmp_path / "bert", labels=LABELS)
    path = bert.path / "model.safetensors"
    save_file(load_file(path) | {"extra.weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(IncompatibleModels, match="names a tensor extra.weight that transformers has no place for"):
        gathered(classifier | {"model": bert}, tmp_path / "work")


def test_a_stop_is_heard(classifier, tmp_path):
    with pytest.raises(AttemptKilled):
        gather.run(StatisticsConfig(), classifier, _Stopping(tmp_path / "work"))


class _Stopping(Context):
    def report(self, done, total, metrics=None):
        raise AttemptKilled("Stopped on request.")


def test_the_held_out_rows_are_no_choice():
    with pytest.raises(ValueError, match="'train' or 'validation'"):
        StatisticsConfig(split="test")


def test_what_is_no_statistics_says_so(classifier):
    with pytest.raises(InvalidInput, match="rows has no statistics.json: it is no statistics"):
        read_statistics(replace(classifier["dataset"], kind="statistics"))


def moments(inputs, work, **values) -> Statistics:
    options = {"layers": values.pop("layers", [0, 1]), "drop_first": values.pop("drop_first", True)}
    path = gather.run(StatisticsConfig(method="key_moments", options=options, **values), inputs, Context(work)).outputs["statistics"].path
    return read_statistics(Input(f"moments of {work.name}", "statistics", "9" * 64, path))


def dense(inputs, layer: int, first: int, rows: int = 0) -> tuple[torch.Tensor, int]:
    """Two passes: all keys, row by row without a batch, then one product."""
    model, keys = open_causal_lm(inputs["model"]).double(), []
    with (
        torch.no_grad(),
        model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(lambda _, given: keys.append(given[0][0, first:])),
    ):
        for ids in read_rows(inputs["dataset"].path, "train", rows).input_ids:
            model(torch.from_numpy(ids)[None])
    every = torch.cat(keys)
    return every.T @ every, len(every)


@pytest.mark.parametrize("drop_first", [True, False])
def test_key_moments_are_those_of_all_keys_at_once(decoder, tmp_path, drop_first):
    for batch_size in (1, 3):
        found = moments(decoder, tmp_path / f"b{batch_size}", batch_size=batch_size, drop_first=drop_first)
        for layer in (0, 1):
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            expected, tokens = dense(decoder, layer, int(drop_first))
            assert found.read(name).dtype == torch.float64
            torch.testing.assert_close(found.read(name), expected, atol=1e-9, rtol=1e-4)
            assert found.tensors[name] == {"stored_as": name, "input_axis": 1, "tokens": tokens, "layer": layer}


def test_many_layers_in_one_pass_are_single_passes_and_the_rest_is_not_run(decoder, tmp_path, monkeypatch):
    both = moments(decoder, tmp_path / "both")
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    entered, forward = [], LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, *args, **kw: (entered.append(self), forward(self, *args, **kw))[1])
    one = moments(decoder, tmp_path / "one", layers=[0])
    assert len(set(map(id, entered))) == 1
    assert torch.equal(one.read("model.layers.0.mlp.down_proj.weight"), both.read("model.layers.0.mlp.down_proj.weight"))


def test_key_moments_of_parts_add_up(decoder, tmp_path):
    whole = moments(decoder, tmp_path / "whole")
    parts = [moments(decoder, tmp_path / f"part{shard}", shards=3, shard=shard) for shard in range(3)]
    inputs = {f"statistics.{place}": Input(part.reference, "statistics", "9" * 64, part.path) for place, part in enumerate(parts)}
    outcome = add_statistics(AddStatisticsConfig(), inputs, Context(tmp_path / "sum"))
    found = read_statistics(Input("sum", "statistics", "9" * 64, outcome.outputs["statistics"].path))
    for name in whole.tensors:
        torch.testing.assert_close(found.read(name), whole.read(name), atol=1e-12, rtol=1e-6)
    assert found.description == whole.description
    first = parts[0]
    with pytest.raises(IncompatibleModels, match="moments of other has options.*Gather the parts of one data set"):
        added([first, moments(decoder, tmp_path / "other", drop_first=False)])


def test_key_moments_stopped_and_resumed_are_those_never_stopped(decoder, tmp_path):
    class Stopping(Context):
        def report(self, done, total, metrics=None):
            if done >= 2:
                raise AttemptKilled("Stopped on request.")

    config, whole = StatisticsConfig(method="key_moments", batch_size=1), moments(decoder, tmp_path / "whole", layers=[], batch_size=1)
    with pytest.raises(AttemptKilled, match="of 4 rows are kept"):
        gather.run(config, decoder, Stopping(tmp_path / "again"))
    context = Context(tmp_path / "again")
    resumed = gather.run(config, decoder, context).outputs["statistics"].path
    assert any(line.startswith("Resumed: 2 of 4") for line in context.lines)
    assert files(whole.path) == files(resumed)


def test_means_and_shards_that_are_none_are_refused(decoder, tmp_path):
    gram = gathered(decoder, tmp_path / "gram")
    with pytest.raises(ConfigError, match="statistics is of the kind gram, a mean. Sums can be added: key_moments"):
        added([gram, gram])
    with pytest.raises(ConfigError, match="shard 2: with shards=2 it is 0 to 1"):
        StatisticsConfig(shards=2, shard=2)
    with pytest.raises(DataError, match="shard 4 of 5: there are 4 rows. Take fewer shards"):
        moments(decoder, tmp_path / "many", shards=5, shard=4)


def test_few_tokens_for_keys_are_a_warning(decoder, tmp_path):
    context = Context(tmp_path / "work")
    gather.run(StatisticsConfig(method="key_moments"), decoder, context)
    assert any("keys of width 64: fewer than ten a dimension" in line for line in context.lines)
    with pytest.raises(ConfigError, match="layer 7: the model has the layers 0 to 1"):
        moments(decoder, tmp_path / "deep", layers=[7])
