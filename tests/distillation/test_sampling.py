"""Sequences drawn from a student, against its own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from lfm_tasks.distillation.sampling import Continuing, Draw, Drawing, within
from lfm_tasks.models.generating import generate
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.step import Input
from tests.toys import make_llama

STOP = [2]
PROMPTS = [np.array([5, 6, 7]), np.array([9]), np.array([11, 12, 13, 14, 15])]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        make_llama(root / str(seed), seed=seed, vocabulary=300)
    return [open_causal_lm(Input("m", "model", "", root / str(seed))) for seed in (0, 1)]


def draw(models, prompts, drawing: Drawing, tokens: int = 6, batch_tokens: int = 10_000, seed: int = 0):
    """(tokens, log-probabilities) of each prompt, the stop token with them."""
    found = {}
    processors = []

    def make(batch: list[int]) -> LogitsProcessorList:
        teacher = Continuing(models[1], [len(prompts[i]) for i in batch], 300) if drawing.teacher_share else None
        processors.append((batch, Draw(drawing, [np.random.default_rng([seed, *prompts[i]]) for i in batch], teacher)))
        return LogitsProcessorList([processors[-1][1]])

    written = generate(models[0], prompts, tokens, STOP, batch_tokens, processors=make)
    for batch, processor in processors:
        drawn, logs = torch.stack(processor.tokens, 1), torch.stack(processor.log_probabilities, 1)
        for row, index in enumerate(batch):
            length = min(len(written[index]) + 1, drawn.shape[1])
            assert (drawn[row, : len(written[index])].numpy() == written[index]).all()
            found[index] = (drawn[row, :length], logs[row, :length])
    return [found[index] for index in range(len(prompts))]


def right(models, prompt, tokens, drawing: Drawing) -> torch.Tensor:
    """Log-probabilities of ``tokens`` after ``prompt``, by a whole pass of each model."""
    ids = torch.cat([torch.from_numpy(prompt), tokens])[None]
    with torch.no_grad():
        q, p = (torch.softmax(model(ids).logits[0, len(prompt) - 1 : -1].double() / drawing.temperature, -1) for model in models)
    mixed = drawing.teacher_share * p + (1 - drawing.teacher_share) * q
    return within(mixed.log(), drawing.top_p).gather(-1, tokens[:, None])[:, 0]


@pytest.mark.parametrize(
    "drawing", [Drawing(), Drawing(temperature=0.7, top_p=0.9), Drawing(teacher_share=0.2), Drawing(teacher_share=1.0)]
)
def test_what_is_drawn_has_the_log_probability_that_is_told(models, drawing):
    for prompt, (tokens, logs) in zip(PROMPTS, draw(models, PROMPTS, drawing), strict=True):
        assert torch.allclose(logs.double(), right(models, prompt, tokens, drawing), atol=1e-4)


def test_a_row_is_drawn_alike_alone_and_among_others(models):
    drawing = Drawing(teacher_share=0.3)
    together, alone = draw(models, PROMPTS, drawing), draw(models, PROMPTS, drawing, batch_tokens=1)
    for (one, _), (other, _) in zip(together, alone, strict=True):
        assert one.tolist() == other.tolist()


def test_first_tokens_are_drawn_as_often_as_the_student_says(models):
    count, prompt = 3000, np.array([5, 6])
    processor = Draw(Drawing(temperature=0.5), [np.random.default_rng(row) for row in range(count)])
    with torch.no_grad():
        logits = 8 * models[0](torch.from_numpy(prompt)[None]).logits[:, -1]
    processor(torch.from_numpy(prompt).expand(count, 2), logits.expand(count, -1))
    expected = torch.softmax(logits[0].double() / 0.5, -1)
    counted = torch.bincount(processor.tokens[0], minlength=len(expected)) / count
    error = (expected * (1 - expected) / count).sqrt()
    common = expected * count > 10
    assert common.sum() > 10
    assert ((counted - expected).abs() <= 5 * error)[common].all()


def test_of_top_p_the_fewest_likeliest_tokens_are_kept():
    log_p = torch.tensor([[0.5, 0.1, 0.3, 0.1]], dtype=torch.float64).log()
    assert torch.allclose(within(log_p, 0.6).exp(), torch.tensor([[0.625, 0, 0.375, 0]], dtype=torch.float64), atol=1e-12)
    assert within(log_p, 1.0) is log_p
