"""Likelihood, classification and generation against the plain way of computing them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lfm_tasks.evaluation.answers import normalise
from lfm_tasks.evaluation.classification import class_logits
from lfm_tasks.evaluation.likelihood import continuation, log_probabilities
from lfm_tasks.models.generating import batches, generate, stop_tokens
from lfm_tasks.models.tokenizers import open_tokenizer
from tests.toys import make_bert, make_llama

GENERATOR = np.random.default_rng(1)
TEXTS = [GENERATOR.integers(3, 250, size=length) for length in (2, 17, 5, 40, 5, 1)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="module")
def llama(directory: Path):
    return make_llama(directory)


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_log_probabilities_equal_those_of_one_text_at_a_time(llama, batch_tokens: int):
    done = []
    found = log_probabilities(llama, [continuation(text, 1) for text in TEXTS], batch_tokens, done.append)
    assert sum(done) == len(TEXTS)
    for text, answer in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            logged = llama(torch.tensor(text)[None]).logits[0].double().log_softmax(-1).numpy()
        assert answer == pytest.approx(logged[np.arange(len(text) - 1), text[1:]], abs=1e-4)
        assert len(answer) == len(text) - 1


def test_batches_hold_every_index_once_longest_first_within_the_budget():
    lengths = [3, 50, 7, 7, 1, 12, 200]
    groups = list(batches(lengths, 60))
    assert sorted(index for group in groups for index in group) == list(range(7))
    assert [lengths[group[0]] for group in groups] == sorted((lengths[group[0]] for group in groups), reverse=True)
    assert all(len(group) == 1 or max(lengths[i] for i in group) * len(group) <= 60 for group in groups)


def test_padding_changes_no_class_logit(tmp_path: Path):
    bert = make_bert(tmp_path, labels=["a", "b", "c"])
    found = class_logits(bert, TEXTS, 4096)
    for text, row in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            assert row == pytest.approx(bert(torch.tensor(text)[None]).logits[0].numpy(), abs=1e-5)


def greedy(model, prompt: np.ndarray, steps: int, stop: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(steps):
        with torch.inference_mode():
            best = int(model(torch.tensor(tokens)[None]).logits[0, -1].argmax())
        if best in stop:
            break
        tokens.append(best)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_generation_takes_the_likeliest_token_each_time_and_ends_at_a_stop_token(llama, batch_tokens: int):
    free = [greedy(llama, text, 12, []) for text in TEXTS]
    stop = [free[1][3]]
    llama.generation_config.temperature, llama.generation_config.do_sample = 5.0, True
    found = generate(llama, TEXTS, 12, stop, batch_tokens)
    assert [answer.tolist() for answer in found] == [greedy(llama, text, 12, stop) for text in TEXTS]
    assert len(found[1]) <= 3


def test_an_answer_stops_at_the_models_and_the_tokenizers_end(llama, directory: Path):
    llama.generation_config.eos_token_id = [2, 77]
    assert stop_tokens(llama, open_tokenizer(directory)) == [2, 77]


@pytest.mark.parametrize(
    ("answer", "target"),
    [(" Sport.", "sport"), ("New  York\n", "new york"), ("ﬁnal", "final"), ('"Yes!"', "yes"), ("STRASSE", "straße")],
)
def test_answers_are_compared_without_case_spaces_and_outer_punctuation(answer: str, target: str):
    assert normalise(answer) == normalise(target)


def test_different_answers_stay_different():
    assert normalise("3.5") != normalise("35")
    assert normalise("") != normalise("sport")
