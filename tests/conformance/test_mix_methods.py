"""Every card of the step mix, on toys: the same laws for each."""

from __future__ import annotations

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.models.opening import open_causal_lm, open_with_head
from lfm_tasks.reuse.mixtures.config import MixConfig
from tests.mixed import CLASSES, IDS, decoders, encoders, files, given, mixed, result
from tests.prepared import write_instructions, write_labelled

NAMES = [card.name for card in methods_of("mix")]
DECODERS = {"upcycle"}
methods = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """{decoders?: (base and experts, rows of each task)}"""
    root = tmp_path_factory.mktemp("toys")
    encoding, decoding = encoders(root / "encoders"), decoders(root / "decoders")
    labelled = [write_labelled(root / f"rows{len(labels)}", encoding[0], labels=labels) for labels in CLASSES]
    prompts = [write_instructions(root / f"prompts{count}", decoding[0], count) for count in (5, 9)]
    return {False: (encoding, labelled), True: (decoding, prompts)}


def made(name, models, rows, work):
    options = {"steps": 3, "batch_size": 4, "rank": 4, "gate_rank": 2}
    options = {key: value for key, value in options.items() if key in METHODS[name].config_class.model_fields}
    data = rows if METHODS[name].function.data == "required" else ()
    return mixed(models, work, data, method=name, split="validation", options=options)


@methods
def test_models_are_borrowed_and_the_same_comes_out_again(name, toys, tmp_path):
    models, rows = toys[name in DECODERS]
    before = [files(model) for model in models]
    first, again = (made(name, models, rows, tmp_path / work) for work in ("a", "b"))
    assert [files(model) for model in models] == before
    assert files(result(first).path) == files(result(again).path)
    assert first.metrics["extra_parameters"] > 0 and first.metrics["extra_parameter_ratio"] > 0


@methods
def test_experts_that_are_the_base_answer_as_it_does(name, toys, tmp_path):
    models, rows = toys[name in DECODERS]
    mixture = result(made(name, [models[0]] * 3, rows, tmp_path / "work")) if name in DECODERS or name == "smile" else None
    if name in DECODERS:
        found, expected = open_causal_lm(mixture)(IDS).logits, open_causal_lm(given(models[0]))(IDS).logits
    elif mixture:
        found, expected = (open_with_head(one, given(models[1]))(IDS).logits for one in (mixture, given(models[0])))
    else:
        mixture = result(made(name, [models[1]] * 3, [rows[0]] * 2, tmp_path / "work"))
        found, expected = (open_with_head(one, given(models[1]))(IDS).logits for one in (mixture, given(models[1])))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@methods
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    assert card.area == "reuse" and card.title and card.preconditions and card.cost and any(one.isdigit() for one in card.paper)
    assert type(MixConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        MixConfig(method=name, options={"nonsense": 1})


def test_an_option_of_one_name_is_one_option():
    """The form shows it once, with one description and one default for all methods that take it."""
    seen: dict[str, tuple] = {}
    for name in NAMES:
        for option, field in METHODS[name].config_class.model_fields.items():
            assert seen.setdefault(option, (field.description, field.default)) == (field.description, field.default), (name, option)
