"""Texts of a local teacher: beam search against all sequences of a toy model, samples against their probabilities."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lfm_tasks.config import parse_config
from lfm_tasks.distillation.black_box.ask import run
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.distillation.sampling import Draw, Drawing
from lfm_tasks.distillation.texts.sequences import CHUNK, closest
from lfm_tasks.errors import AttemptKilled, ConfigError
from lfm_tasks.models.generating import generate
from lfm_tasks.step import Input
from tests.distillation.conftest import numbered, rows_of, write
from tests.tuned import Context, StoppingAt, llama_input

VOCABULARY, LENGTH, STOP = 5, 4, [0, 3]
PROMPTS = [np.array([1, 2, 4]), np.array([4]), np.array([2, 2])]


@pytest.fixture(scope="module")
def toy() -> LlamaForCausalLM:
    """A decoder of five tokens, two of which end a text; sharp enough that texts differ in probability."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.7
    )
    torch.manual_seed(3)
    return LlamaForCausalLM(config).eval()


def texts() -> list[tuple[int, ...]]:
    """All texts of at most ``LENGTH`` tokens: those that a stop token ends, and those that the length cuts off."""
    going = [token for token in range(VOCABULARY) if token not in STOP]
    ended = [(*head, end) for n in range(LENGTH) for head in itertools.product(going, repeat=n) for end in STOP]
    return ended + list(itertools.product(going, repeat=LENGTH))


@torch.inference_mode()
def log_probability(model, prompt: np.ndarray, text: tuple[int, ...]) -> float:
    tokens = torch.tensor([*prompt, *text])
    logits = model(tokens[None]).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(text))


@pytest.fixture(scope="module")
def enumerated(toy) -> list[dict[tuple[int, ...], float]]:
    found = [{text: log_probability(toy, prompt, text) for text in texts()} for prompt in PROMPTS]
    for one in found:
        assert sum(map(np.exp, one.values())) == pytest.approx(1, abs=1e-6)
    return found


def without_stop(text: tuple[int, ...]) -> list[int]:
    return [token for token in text if token not in STOP]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all_sequences(toy, enumerated, penalty, batch_tokens):
    found = generate(toy, PROMPTS, LENGTH, STOP, batch_tokens, beams=80, keep=3, length_penalty=penalty)
    for place, all_texts in enumerate(enumerated):
        score = {text: value / len(text) ** penalty for text, value in all_texts.items()}
        best = sorted(score, key=score.get, reverse=True)[:3]
        assert [one.tolist() for one in found[3 * place : 3 * place + 3]] == [without_stop(text) for text in best]


def test_a_beam_of_one_is_greedy_and_can_be_worse(toy, enumerated):
    greedy = generate(toy, PROMPTS, LENGTH, STOP, 10_000)
    best = [without_stop(max(one, key=one.get)) for one in enumerated]
    assert [one.tolist() for one in greedy] != best


def test_samples_come_as_often_as_they_are_probable_and_do_not_depend_on_the_batch(toy, enumerated):
    count, temperature = 3000, 0.8
    seeds = list(range(count))

    def draw(batch_tokens: int, places: list[int]) -> list[tuple[int, ...]]:
        made = generate(
            toy,
            [PROMPTS[0]] * len(places),
            2,
            [],
            batch_tokens,
            processors=lambda batch: [Draw(Drawing(temperature), [np.random.default_rng(seeds[places[i]]) for i in batch])],
        )
        return [tuple(one.tolist()) for one in made]

    drawn = draw(10**6, seeds)
    assert draw(16, seeds[:40]) == drawn[:40]
    with torch.inference_mode():
        first = (toy(torch.tensor(PROMPTS[0])[None]).logits[0, -1].double() / temperature).softmax(-1)
        for token in range(VOCABULARY):
            then = (toy(torch.tensor([*PROMPTS[0], token])[None]).logits[0, -1].double() / temperature).softmax(-1)
            for other in range(VOCABULARY):
                p = float(first[token] * then[other])
                assert abs(drawn.count((token, other)) / count - p) <= 4 * (p * (1 - p) / count) ** 0.5 + 1e-9


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Input:
    return llama_input(tmp_path_factory.mktemp("teacher") / "model", vocabulary=300)


def ask(teacher, tmp_path, count=4, context=None, **config):
    data = tmp_path / f"rows-{count}"
    if not data.exists():
        write(numbered(count), data)
    inputs = {"data": Input("raw", "dataset", "0" * 64, data), "teacher": teacher}
    parsed = parse_config(AskTeacherConfig, {"prompt_template": "{text}", "max_new_tokens": 4} | config)
    return run(parsed, inputs, context or Context(tmp_path / "work"))


@pytest.mark.parametrize(
    ("method", "options", "rows"),
    [
        ("beam", {"num_beams": 3}, 4),
        ("beam", {"num_beams": 3, "keep": 3}, 12),
        ("samples", {"samples": 2}, 8),
        ("samples", {"chat": True, "samples": 3}, 12),
    ],
)
def test_rows_of_a_local_teacher_name_it_and_how_it_wrote(teacher, tmp_path, method, options, rows):
    outcome = ask(teacher, tmp_path, method=method, options=options)
    found = rows_of(outcome)
    assert rows * 0.5 <= len(found) <= rows and {row["teacher"] for row in found} == {f"sha256:{teacher.sha256}"}
    assert all(row["decoding"]["method"] == method for row in found) and len({row["request_sha256"] for row in found}) == len(found)


def test_of_the_beams_the_closest_to_the_right_answer_is_taken(teacher, tmp_path):
    texts = ["the cup was won", "the cup is lost today", "a cup was won today", "the cup was won"]
    assert closest(texts, "a cup was won today")[0] == texts[2] and closest(texts, "zzz") == texts
    every = rows_of(ask(teacher, tmp_path, 1, method="beam", options={"num_beams": 6, "keep": 6}, reference_column="text"))
    one = rows_of(
        ask(
            teacher,
            tmp_path,
            1,
            Context(tmp_path / "w"),
            method="beam",
            options={"num_beams": 6, "choose": "closest"},
            reference_column="text",
        )
    )
    assert len(one) <= 1 and all(row["completion"] in {other["completion"] for other in every} for row in one)
    with pytest.raises(ConfigError, match="choose=closest needs the right answers"):
        ask(teacher, tmp_path, 1, Context(tmp_path / "v"), method="beam", options={"choose": "closest"})


def test_stopped_and_resumed_gives_the_same_rows(teacher, tmp_path):
    count, config = CHUNK + 6, {"method": "samples", "max_new_tokens": 2}
    whole = ask(teacher, tmp_path, count, Context(tmp_path / "whole"), **config)
    with pytest.raises(AttemptKilled):
        ask(teacher, tmp_path, count, StoppingAt(tmp_path / "again", CHUNK), **config)
    resumed_context = Context(tmp_path / "again")
    resumed = ask(teacher, tmp_path, count, resumed_context, **config)
    assert rows_of(resumed) == rows_of(whole) and [report[0] for report in resumed_context.reports] == [count]


def test_a_teacher_is_given_where_one_is_asked(teacher, tmp_path):
    with pytest.raises(ConfigError, match="method black_box asks an API"):
        ask(teacher, tmp_path, method="black_box", options={"endpoint": "http://127.0.0.1:9", "model": "m"})
    data = Input("raw", "dataset", "0" * 64, write(numbered(2), tmp_path / "few"))
    with pytest.raises(ConfigError, match="beam asks a local model; give it as the input 'teacher'"):
        run(parse_config(AskTeacherConfig, {"prompt_template": "{text}", "method": "beam"}), {"data": data}, Context(tmp_path / "w"))
