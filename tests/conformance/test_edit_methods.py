"""Every card of the step edit, on a toy decoder: the same laws for each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.editing.hyper.config import TrainEditorConfig
from lfm_tasks.errors import ConfigError
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.installing import installed
from lfm_tasks.models.memories.prompting import rewrite
from tests.hyper_toys import with_editor
from tests.located import FACTS, edit, editing_of, key_moments, make, opened, same, state, with_edit

TRAINING = (Fact("june", "June", "In {}", "rates", paraphrases=("It is June, so",)), Fact("fox", "the fox", "Over {}", "jumps"))
NAMES = [card.name for card in methods_of("edit")]
CHEAP = {"steps": 8, "prefixes": 1}
methods = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make(tmp_path_factory.mktemp("toy"), "llama")


@pytest.fixture(scope="module")
def model(directory):
    """Of which editors are trained once. Borrowed: a test that writes into it takes another."""
    return opened(directory)


@pytest.fixture
def editing(directory, model, name, tmp_path):
    """With the editor that the method needs."""
    editing = editing_of(directory, tmp_path / "work")
    editing = replace(editing, editor=with_editor(name, replace(editing, model=model, decoder=Decoder(model))).editor)
    return replace(editing, statistics=key_moments(tmp_path / "moments", editing.decoder), training=TRAINING)


def cheap(name: str) -> dict:
    return {key: value for key, value in CHEAP.items() if key in METHODS[name].config_class.model_fields}


@methods
def test_the_model_is_borrowed_and_the_same_comes_out_again(name, editing):
    before = state(editing.model)
    first, again = (edit(name, editing, **cheap(name)) for _ in range(2))
    assert same(editing.model, before)
    assert first.changes or first.state
    for one, other in zip(first.changes, again.changes, strict=True):
        assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)
    assert first.state.keys() == again.state.keys() and all(torch.equal(first.state[key], again.state[key]) for key in first.state)


@methods
def test_a_change_is_low_rank_and_of_weights_that_the_model_has(name, editing):
    weights = dict(editing.model.named_parameters())
    for change in edit(name, editing, **cheap(name)).changes:
        assert change.stored.shape == weights[change.name].shape and change.left.dtype == torch.float32
        assert bool(change.stored.isfinite().all())


@methods
def test_each_fact_has_its_figures(name, editing):
    facts = FACTS[: METHODS[name].function.most]
    made = edit(name, editing, facts, **cheap(name))
    assert len(made.facts) == len(facts)
    assert all(isinstance(value, float) for one in (*made.facts, made.figures) for value in one.values())


@methods
def test_the_target_becomes_likelier(name, editing):
    """One fact whose prompt ends with its subject, so that what is written there is read at once."""
    fact = Fact("day", "Monday", "On {}", "film")
    tokens, prompt = (editing.tokenizer(text)["input_ids"] for text in (f"{fact.text} {fact.target_new}", fact.text))

    def nll():
        with torch.no_grad():
            log_p = editing.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        return -sum(float(log_p[place - 1, tokens[place]]) for place in range(len(prompt), len(tokens))) / (len(tokens) - len(prompt))

    before, made = nll(), edit(name, editing, [fact])
    if not METHODS[name].function.memory:
        with_edit(editing, made)
        assert nll() < before - 0.5
        return
    memory = Memory(name, METHODS[name].config_class().model_dump(), made.state)
    with installed(editing.model, memory, editing.tokenizer) as model:
        told = rewrite(model, fact.text)
        assert nll() < before - 0.5 or (told.endswith(fact.text) and f"{fact.text} {fact.target_new}" in told)


def test_every_editor_is_one_that_a_method_edits_by():
    ways = {card.name: card for card in methods_of("train_editor")}
    assert set(ways) == {METHODS[name].needs for name in NAMES} - {"", "key_moments"}
    for name, card in ways.items():
        assert card.title and card.preconditions and card.cost and "arXiv" in card.paper
        assert type(TrainEditorConfig(method=name).method_config()) is card.config_class


@methods
def test_the_card_says_what_it_is(name):
    card = METHODS[name]
    assert card.area == "editing" and card.title and card.preconditions and card.cost and "arXiv" in card.paper
    assert type(EditConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        EditConfig(method=name, options={"nonsense": 1})
