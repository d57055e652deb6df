"""What a teacher is asked: a question for each row of a prepared or a raw data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lfm_tasks.config import canonical_json
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.errors import ConfigError, DataError, unknown_name
from lfm_tasks.models.prepared import read_rows as read_prepared
from lfm_tasks.rows.reading import read_rows
from lfm_tasks.rows.templates import columns_of, fill

Values = dict[str, str]


@dataclass(frozen=True)
class Question:
    """``prompt`` is the student's, ``asked`` what the teacher reads, ``reference`` the right answer where the data have one."""

    prompt: str
    asked: str
    reference: str | None = None

    @property
    def order(self) -> str:
        return hashlib.sha256(canonical_json([self.prompt, self.asked])).hexdigest()


def read_questions(config: AskTeacherConfig, directory: Path) -> tuple[list[Question], dict[str, int]]:
    """Questions in an order that their content alone decides, each once, and how many rows were read, blank or asked before.

    Raises :class:`DataError` where no row is left, and :class:`ConfigError` for a column that prepared data do not have.
    """
    prepared = (directory / "dataset.json").is_file()
    rows = list(_prepared_rows(config, directory) if prepared else _raw_rows(config, directory))
    found: dict[tuple[str, str], Question] = {}
    for values, reference in rows:
        if all(value.strip() for value in values.values()):
            prompt = fill(config.prompt_template, values)
            question = Question(prompt, fill(config.teacher_template, values | {"prompt": prompt}), reference)
            found.setdefault((question.prompt, question.asked), question)
    if not found:
        raise DataError(f"All {len(rows)} rows are blank in one of the columns that the question is made of. Check the templates.")
    blank = sum(not all(value.strip() for value in values.values()) for values, _ in rows)
    questions = sorted(found.values(), key=lambda question: question.order)[: config.max_questions]
    return questions, {"read": len(rows), "blank": blank, "asked_before": len(rows) - blank - len(found), "questions": len(questions)}


def _columns(config: AskTeacherConfig) -> list[str]:
    """Of the rows; in the teacher's template {prompt} is the student's prompt."""
    own = [name for name in columns_of(config.teacher_template) if name != "prompt"]
    return list(dict.fromkeys([*columns_of(config.prompt_template), *own]))


def _prepared_rows(config: AskTeacherConfig, directory: Path) -> Iterator[tuple[Values, str | None]]:
    rows = read_prepared(directory, config.split)
    prompts = rows.columns["prompt" if rows.task == "instruction" else "text"]
    if rows.task == "instruction":
        references = [text.strip() for text in rows.columns["completion"]]
    else:
        references = [rows.labels[label] for label in rows.columns["label"]] if rows.task == "classification" else [None] * len(rows)
    for prompt, reference in zip(prompts, references, strict=True):
        there = {"prompt": prompt, "text": prompt, **({} if reference is None else {"reference": reference})}
        for name in _columns(config):
            if name not in there:
                raise ConfigError(unknown_name("column of prepared data", name, there))
        yield {name: there[name] for name in _columns(config)}, reference


def _raw_rows(config: AskTeacherConfig, directory: Path) -> Iterator[tuple[Values, str | None]]:
    columns = _columns(config)
    extra = [config.reference_column] if config.reference_column else []
    for row in read_rows(directory, [*columns, *extra]):
        values = {name: value or "" for name, value in zip(columns, row.values, strict=False)}
        yield values, row.values[-1] if extra else None
