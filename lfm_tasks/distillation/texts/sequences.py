"""Sequence-level distillation from a local teacher: its likeliest texts by beam search, or samples of it (arXiv 1606.07947).

The student is then tuned on the texts: cross-entropy to one sequence stands for that to the teacher's distribution over all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.config import canonical_json
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.distillation.black_box.questions import Question
from lfm_tasks.distillation.sampling import Draw, Drawing
from lfm_tasks.distillation.texts.answers import Answer, Asked
from lfm_tasks.distillation.texts.config import BeamConfig, SamplesConfig
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.metrics.chrf import chrf
from lfm_tasks.models.generating import Tokens, generate, stop_tokens
from lfm_tasks.models.opening import model_directory, open_causal_lm
from lfm_tasks.models.tokenizers import chat_prompt, open_tokenizer, special_frame
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input, StepContext

CHUNK = 64
"""Questions between two checkpoints."""
KEPT = "texts.json"


def ask_by_beam(questions: list[Question], config: AskTeacherConfig, inputs: Mapping[str, Input], context: StepContext) -> Asked:
    """The likeliest texts (exact where no better one ever left the ``num_beams`` best), or of those the closest to the right answer.

    Raises :class:`ConfigError` where they are to be close to right answers that the rows do not have.
    """
    options: BeamConfig = config.method_config()

    def write(writer: _Writer, some: list[Question]) -> list[list[str]]:
        keep = options.num_beams if options.choose == "closest" else options.keep
        found = writer.write(some, beams=options.num_beams, keep=keep, length_penalty=options.length_penalty)
        if options.choose == "likeliest":
            return found
        return [closest(texts, one.reference)[: options.keep] for one, texts in zip(some, found, strict=True)]

    decoding = {"method": "beam", "num_beams": options.num_beams, "length_penalty": options.length_penalty, "choose": options.choose}
    if options.choose == "closest" and any(question.reference is None for question in questions):
        raise ConfigError("choose=closest needs the right answers. Give prepared data with labels or completions, or reference_column.")
    return _ask(questions, config, options, inputs, context, write, decoding)


def ask_by_sampling(questions: list[Question], config: AskTeacherConfig, inputs: Mapping[str, Input], context: StepContext) -> Asked:
    """Samples, each of a seed of its own, keyed by what is asked and its number."""
    options: SamplesConfig = config.method_config()

    def write(writer: _Writer, some: list[Question]) -> list[list[str]]:
        repeated = [question for question in some for _ in range(options.samples)]
        seeds = [derive_seed(config.seed, "sample", question.asked, i) for question in some for i in range(options.samples)]

        def keyed(batch: list[int]) -> LogitsProcessorList:
            return LogitsProcessorList([Draw(Drawing(options.temperature), [np.random.default_rng(seeds[i]) for i in batch])])

        texts = [text for (text,) in writer.write(repeated, processors=keyed)]
        return [texts[start : start + options.samples] for start in range(0, len(texts), options.samples)]

    decoding = {"method": "samples", "temperature": options.temperature, "seed": config.seed}
    return _ask(questions, config, options, inputs, context, write, decoding)


def closest(texts: list[str], reference: str) -> list[str]:
    """``texts``, likeliest first, in order of their closeness to ``reference``; of equally close ones the likelier comes first.

    Kim and Rush measure it by smoothed BLEU, of which a short answer has too few words: here by chrF.
    """
    return sorted(texts, key=lambda text: -chrf(text, reference))


class _Writer:
    """A teacher with its tokenizer, at one length and budget of tokens."""

    def __init__(self, teacher: Input, config: AskTeacherConfig, options: BeamConfig | SamplesConfig) -> None:
        self.model: PreTrainedModel = open_causal_lm(teacher).to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: PreTrainedTokenizerBase = open_tokenizer(model_directory(teacher))
        self._config, self._options = config, options
        if options.chat and not self.tokenizer.chat_template:
            raise DataError(f"{teacher.reference} has no chat template. Set chat to false, or take a teacher that was tuned to chat.")

    def write(self, questions: list[Question], keep: int = 1, **how) -> list[list[str]]:
        """``keep`` texts to each question; ``how`` as :func:`generate` takes it."""
        stop = stop_tokens(self.model, self.tokenizer)
        prompts = [self._ids(question.asked) for question in questions]
        made = generate(self.model, prompts, self._config.max_new_tokens, stop, self._options.batch_tokens, keep=keep, **how)
        texts = [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
        return [texts[start : start + keep] for start in range(0, len(texts), keep)]

    def _ids(self, asked: str) -> Tokens:
        prefix = [] if self._options.chat else special_frame(self.tokenizer)[0]
        if self._options.chat:
            asked = chat_prompt(self.tokenizer, asked, self._config.system_prompt)
        return np.array(prefix + self.tokenizer(asked, add_special_tokens=False, verbose=False).input_ids, dtype=np.int64)


def _ask(
    questions: list[Question],
    config: AskTeacherConfig,
    options: BeamConfig | SamplesConfig,
    inputs: Mapping[str, Input],
    context: StepContext,
    write: Callable[[_Writer, list[Question]], list[list[str]]],
    decoding: dict[str, object],
) -> Asked:
    if "teacher" not in inputs:
        raise ConfigError(f"The method {config.method} asks a local model; give it as the input 'teacher'.")
    teacher = inputs["teacher"]
    writer, texts = _Writer(teacher, config, options), _kept(context)
    while len(texts) < len(questions):
        texts += write(writer, questions[len(texts) : len(texts) + CHUNK])
        written = json.dumps(texts)
        context.checkpoints.save(len(texts), lambda path, written=written: (path / KEPT).write_text(written))
        context.report(len(texts), len(questions))
    decoding = decoding | {"max_new_tokens": config.max_new_tokens, "stop": config.stop, "chat": options.chat}
    name = f"sha256:{teacher.sha256}"
    answers = [
        [Answer(text, _key(name, decoding, config.system_prompt, question.asked, i)) for i, text in enumerate(group)]
        for question, group in zip(questions, texts, strict=True)
    ]
    return Asked(answers, name, decoding, {"answered": sum(map(len, texts))})


def _key(*what: object) -> str:
    return hashlib.sha256(canonical_json(list(what))).hexdigest()


def _kept(context: StepContext) -> list[list[str]]:
    latest: Path | None = context.checkpoints.latest()
    return [] if latest is None else json.loads((latest / KEPT).read_text())
