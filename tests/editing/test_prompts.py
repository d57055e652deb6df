"""In-context memories: what stands before a prompt, word for word, and when nothing does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lfm_tasks.editing.memory.prompts import demonstration, told
from lfm_tasks.errors import DataError
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.generation import prompts_of
from lfm_tasks.evaluation.likelihood import continuation, log_probabilities
from lfm_tasks.evaluation.perplexity import Perplexity
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.installing import forget, install, installed
from lfm_tasks.models.memories.prompting import embed, rewrite, rewrite_ids
from lfm_tasks.models.prepared import Rows
from tests.editing_toys import FACTS, PROBE, TRAINING, editing, fact, logits, remembered, toy

NAMES = ("ike", "ice", "mem_prompt", "serac")
names = pytest.mark.parametrize("name", NAMES)
ANY = {"threshold": -1.0}
FOLLOWS = {
    "ice": "New Fact: The topic of the election is sport\nPrompt: Say: the election is",
    "mem_prompt": "The topic of the election is sport.\nSay: the election is",
    "serac": "The topic of the election is sport. Say: the election is",
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", FOLLOWS)
def test_a_fact_stands_before_a_prompt_of_its_subject_word_for_word(decoder, tmp_path, name):
    with installed(decoder[0], remembered(name, editing(*decoder, tmp_path), **ANY), decoder[1]) as model:
        assert rewrite(model, "Say: the election is") == FOLLOWS[name]
        assert rewrite(model, "Say: THE ELECTION is").startswith(FOLLOWS[name][:20])


def test_ike_shows_demonstrations_with_the_nearest_last(decoder, tmp_path):
    model, tokenizer = decoder
    memory = remembered("ike", editing(model, tokenizer, tmp_path), demonstrations=3, **ANY)
    layer, centre = int(memory.tensors["layer"]), memory.tensors["centre"]
    mine, *others = embed(model, tokenizer, [FACTS[0].text, *(one.text for one in TRAINING)], layer, centre)
    nearest = sorted(range(len(TRAINING)), key=lambda place: -float(others[place] @ mine))[:3]
    shown = [demonstration(TRAINING[place], kind) for place, kind in zip(nearest, ("update", "retain", "retain"), strict=True)]
    with installed(model, memory, tokenizer):
        assert rewrite(model, "the election is") == "".join(reversed(shown)) + FOLLOWS["ice"].replace("Say: ", "")


def test_a_demonstration_is_a_copy_an_update_or_what_stays():
    one = TRAINING[0]
    told_first = "New Fact: a new phone was shown at the fair\nPrompt: "
    assert demonstration(one, "copy") == told_first + "a new phone was shown at the fair\n\n"
    assert demonstration(one, "update") == told_first + "On Monday a new phone was at the fair\n\n"
    assert demonstration(one, "retain") == told_first + "The quick brown fox jumps over the lazy dog\n\n"
    assert demonstration(fact("x", "y"), "retain") == demonstration(fact("x", "y"), "copy")


def test_braces_in_a_fact_are_text():
    assert told("New Fact: {prompt} {target}\n", fact("{target}", "{prompt}")) == "New Fact: The topic of {target} is {prompt}\n"


@names
def test_a_memory_of_nothing_answers_as_the_base(decoder, tmp_path, name):
    model, tokenizer = decoder
    memory = remembered(name, editing(*decoder, tmp_path), FACTS[:1], **ANY)
    base = logits(model, tokenizer, FACTS[0].text)
    with installed(model, forget(memory, FACTS[0].id), tokenizer):
        assert rewrite(model, FACTS[0].text) == FACTS[0].text
        assert torch.equal(logits(model, tokenizer, rewrite(model, FACTS[0].text)), base)
    assert rewrite(model, FACTS[0].text) == FACTS[0].text, "without a memory, too"


@names
def test_a_prompt_of_another_subject_or_another_matter_stays(decoder, tmp_path, name):
    model, tokenizer = decoder
    with installed(model, remembered(name, editing(*decoder, tmp_path), **ANY), tokenizer):
        assert rewrite(model, PROBE) == PROBE
    with installed(model, remembered(name, editing(*decoder, tmp_path), threshold=0.999), tokenizer):
        assert rewrite(model, "the election is held in May") == "the election is held in May"
        assert rewrite(model, FACTS[0].text) != FACTS[0].text
    with installed(model, remembered(name, editing(*decoder, tmp_path), scope="likeness", **ANY), tokenizer):
        assert rewrite(model, PROBE) != PROBE


@names
@pytest.mark.parametrize("gone", [0, 2, 3])
def test_any_fact_can_be_taken_out(decoder, tmp_path, name, gone):
    model, tokenizer = decoder
    memory = forget(remembered(name, editing(*decoder, tmp_path), most=1, **ANY), FACTS[gone].id)
    with installed(model, memory, tokenizer):
        assert [rewrite(model, one.text) == one.text for one in FACTS] == [place == gone for place in range(len(FACTS))]


def test_the_likest_facts_come_last_and_no_more_than_asked_for(decoder, tmp_path):
    model, tokenizer = decoder
    with installed(model, remembered("mem_prompt", editing(*decoder, tmp_path), scope="likeness", most=2, **ANY), tokenizer):
        lines = rewrite(model, FACTS[1].text).splitlines()
        assert len(lines) == 3 and lines[1] == "The topic of a striker is tech news." and lines[2] == FACTS[1].text


def test_of_tokens_those_of_the_prefix_come_after_the_first_special_one(decoder, tmp_path):
    model, tokenizer = decoder
    ids = np.array([tokenizer.bos_token_id, *tokenizer(FACTS[0].text)["input_ids"]])
    assert rewrite_ids(model, ids) is ids
    with installed(model, remembered("serac", editing(*decoder, tmp_path), **ANY), tokenizer):
        found = rewrite_ids(model, ids)
        assert found[0] == ids[0] and np.array_equal(found[-len(ids) + 1 :], ids[1:]) and (found[1:] != ids[0]).all()
        assert tokenizer.decode(found[1:]) == rewrite(model, FACTS[0].text)


def test_demonstrations_without_room_are_left_out_the_farthest_first(decoder, tmp_path):
    model, tokenizer = decoder
    memory = remembered("ike", editing(*decoder, tmp_path), demonstrations=4, **ANY)
    filled = "the election " + "fox " * 110
    with installed(model, memory, tokenizer):
        whole, cut = rewrite(model, "the election"), rewrite(model, filled)
        assert whole.count("New Fact") == 5 and 0 < cut.count("New Fact") < 5 and cut.startswith(whole[whole.index(cut[:60]) :][:60])
        assert "New Fact: The topic of the election is sport" in cut
        assert rewrite(model, "the election " * 400) == "the election " * 400


def test_a_state_is_the_mean_without_the_first_token_whose_state_is_abnormal(decoder):
    model, tokenizer = decoder
    (found,) = embed(model, tokenizer, [PROBE], 1)
    with torch.no_grad():
        states = model(torch.tensor([tokenizer(PROBE)["input_ids"]]), output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(found, states[1:].mean(0))


def test_ike_without_training_facts_says_what_to_do(decoder, tmp_path):
    given = editing(*decoder, tmp_path)
    bare = type(given)(given.model, given.tokenizer, given.decoder, 0, given.context)
    with pytest.raises(DataError, match="taken from the training facts, and there are none. Give training facts, or demonstrations 0"):
        remembered("ike", bare)
    assert isinstance(remembered("ike", bare, demonstrations=0), Memory)


def test_a_model_has_one_memory_at_a_time_and_then_none(decoder, tmp_path):
    model, tokenizer = decoder
    install(model, remembered("ice", editing(*decoder, tmp_path)), tokenizer).remove()
    assert not hasattr(model, "prompt_memory")


def test_evaluation_asks_for_the_prompt_that_stands_in(decoder, tmp_path):
    """Teacher-forced and free-running alike: the completion follows the rewritten prompt."""
    model, tokenizer = decoder
    ids = [np.array(tokenizer(text)["input_ids"]) for text in (FACTS[0].text, PROBE)]
    ends = [np.array(tokenizer(text)["input_ids"]) for text in (" sport", " as markets fell")]
    whole = [np.concatenate(both) for both in zip(ids, ends, strict=True)]
    rows = Rows({"task": "instruction"}, ["a", "b"], whole, {"prompt_tokens": [len(one) for one in ids]})
    subject, config = Subject(model, tokenizer), EvaluateConfig(max_new_tokens=4)
    base = Perplexity().ask(subject, rows, config, lambda done: None)
    with installed(model, remembered("serac", editing(*decoder, tmp_path), **ANY), tokenizer):
        asked = prompts_of(model, rows)
        assert np.array_equal(asked[0], rewrite_ids(model, ids[0])) and len(asked[0]) > len(ids[0]) and np.array_equal(asked[1], ids[1])
        found = Perplexity().ask(subject, rows, config, lambda done: None)
    by_hand = log_probabilities(model, [continuation(np.concatenate([asked[0], ends[0]]), len(asked[0]))], 512)
    np.testing.assert_allclose(found.log_probabilities[0], by_hand[0], atol=1e-5)
    np.testing.assert_allclose(found.log_probabilities[1], base.log_probabilities[1], atol=1e-5)
    assert abs(found.log_probabilities[0] - base.log_probabilities[0]).max() > 1e-3
