"""Let lm-evaluation-harness ask the questions: the tasks shipped in ``lm_eval_tasks/``, on our prepared rows.

Its answers become the same per-sample table as those of the built-in tasks, so metrics, report and gate do not change. The
package is optional. Only task files of this package are read, never one that a config names.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.answers import labelled_columns, scored, softmax, written_columns
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.task import Subject, Task
from lfm_tasks.models.memories.prompting import rewrite
from lfm_tasks.models.prepared import Rows

TASK_FILES = Path(__file__).parent / "lm_eval_tasks"
TASK_OF = {"choice": "lfm_choice", "generation": "lfm_generation", "text": "lfm_perplexity", "general": "lfm_perplexity"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
Document = dict[str, Any]


class Harness:
    """A built-in task's questions, asked by the harness."""

    def __init__(self, inner: Task) -> None:
        if find_spec("lm_eval") is None:
            raise ConfigError(
                "backend 'lm_eval' needs the package lm-eval, which is not installed. Run `pip install 'lfm-tasks[lm-eval]'`, or use "
                "backend 'builtin'."
            )
        self._inner, self.needs = inner, inner.needs

    def group(self, rows: Rows) -> str:
        return self._inner.group(rows)

    def check(self, rows: Rows) -> None:
        group = self.group(rows)
        if group not in TASK_OF:
            raise ConfigError(f"backend 'lm_eval' has no task for '{group}'; it has {', '.join(TASK_OF)}. Use backend 'builtin'.")
        self._inner.check(rows)

    def score(self, subject: Subject, rows: Rows, config: EvaluateConfig, progress: Callable[[int], None]) -> pa.Table:
        group = self.group(rows)
        asked = rows.take([i for i, label in enumerate(rows.columns["label"]) if label >= 0]) if group == "choice" else rows
        responses = ask(TASK_OF[group], documents(group, asked), subject, config)
        progress(len(rows))
        return scored(group, asked, columns(group, asked, responses, subject, config))


def documents(group: str, rows: Rows) -> list[Document]:
    """The rows in the form that the group's task file reads."""
    if group == "choice":
        pairs = zip(rows.columns["prompt"], rows.columns["label"], strict=True)
        return [{"prompt": prompt, "completions": rows.completions, "label": label} for prompt, label in pairs]
    if group == "generation":
        pairs = zip(rows.columns["prompt"], rows.columns["completion"], strict=True)
        return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    return [{"text": text} for text in rows.columns["text"]]


def task_config(name: str, data: Path, config: EvaluateConfig) -> dict[str, Any]:
    """The content of a shipped task file, reading ``data``."""
    task = yaml.safe_load((TASK_FILES / f"{name}.yaml").read_text())
    task["dataset_kwargs"] = {"data_files": {"test": str(data)}}
    if "generation_kwargs" in task:
        task["generation_kwargs"] |= {"max_gen_toks": config.max_new_tokens, "until": []}
    return task


def ask(name: str, asked: list[Document], subject: Subject, config: EvaluateConfig) -> list[Any]:
    """The harness's filtered responses, in the order of ``asked``."""
    with tempfile.TemporaryDirectory() as directory, _environment(OFFLINE | {"HF_DATASETS_CACHE": directory}):
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        asked = [one | {"prompt": rewrite(subject.model, one["prompt"])} if "prompt" in one else one for one in asked]
        data = Path(directory) / "test.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in asked))
        longest = max(len(json.dumps(document)) for document in asked)
        model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=max(1, min(64, 4 * config.batch_tokens // longest)))
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[task_config(name, data, config)],
            bootstrap_iters=0,
            log_samples=True,
            random_seed=config.seed,
        )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


def columns(group: str, rows: Rows, responses: list[Any], subject: Subject, config: EvaluateConfig) -> dict[str, Any]:
    """The columns of the per-sample table that follow from the responses."""
    if group == "choice":
        likelihoods = np.array([[float(answer[0]) for answer in response] for response in responses])
        lengths = np.array([len(subject.tokenizer.encode(text, add_special_tokens=False)) for text in rows.completions])
        target = np.array(rows.columns["label"])
        probabilities = softmax(likelihoods / lengths if config.length_normalised else likelihoods)
        picked = likelihoods[np.arange(len(rows)), target]
        return labelled_columns(rows.labels, target, probabilities) | {"nll": -picked, "tokens": lengths[target]}
    if group == "generation":
        return written_columns([str(response[0]) for response in responses], rows.columns["completion"], config.answer_marks)
    texts = rows.columns["text"]
    return {
        "nll": np.array([-float(np.ravel(response)[0]) for response in responses]),
        "tokens": np.array([len(subject.tokenizer.encode(text, add_special_tokens=False)) for text in texts]),
        "bytes": np.array([len(text.encode()) for text in texts]),
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
