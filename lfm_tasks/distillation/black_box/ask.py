"""The step *ask_teacher*: prompts in, rows that a student can be tuned on out. Equal answers give equal bytes.

An API need not answer the same twice. The step is cached all the same: a hit is on record as a hit, names the answers that were
paid for, and costs nothing; whoever wants others changes ``revision``, or a seed, and has a job of another name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lfm_tasks.catalogue import METHODS
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.distillation.black_box.questions import Question, read_questions
from lfm_tasks.distillation.black_box.signals import Told, write_signals
from lfm_tasks.distillation.texts.answers import Asked, bounds, make_rows
from lfm_tasks.distillation.texts.files import write_rows
from lfm_tasks.errors import DataError
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: AskTeacherConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Write ``rows.jsonl`` and ``teacher.json``; and signals, where log-probabilities came along.

    Raises :class:`DataError` where no answer can be used, and what the method raises.
    """
    questions, read = read_questions(config, inputs["data"].path)
    context.log(f"{len(questions)} questions of {read['read']} rows ({read['blank']} blank, {read['asked_before']} asked before).")
    asked: Asked = METHODS[config.method].function(questions, config, inputs, context)
    rows, dropped = make_rows(questions, asked, config.stop)
    if not rows:
        raise DataError(
            f"None of the answers to {len(questions)} questions can be used: {dropped['empty']} are empty, the others did not come "
            f"({asked.spent or 'see the log'}). Look at the templates, at stop and at the budget."
        )
    described = {"format": 1, "teacher": asked.teacher, "decoding": asked.decoding, "spent": asked.spent, "rows": len(rows)}
    directory = context.workdir / "dataset"
    write_rows(rows, directory, "teacher.json", described | read | {"dropped": dropped})
    outputs = {"dataset": Output("dataset", directory)} | _signals(questions, asked, rows, config, context)
    counts = read | dict(asked.counts) | dropped | {"rows": len(rows)}
    context.log(f"{len(rows)} rows; dropped: {dropped['empty']} empty, {dropped['duplicates']} written twice.")
    summary = {"teacher": asked.teacher, "spent": asked.spent, **counts}
    return Outcome(outputs, {f"asked/{name}": float(value) for name, value in counts.items()}, summary)


def _signals(
    questions: list[Question], asked: Asked, rows: list[dict[str, Any]], config: AskTeacherConfig, context: StepContext
) -> dict[str, Output]:
    kept = {row["request_sha256"] for row in rows}
    pairs = ((one, question) for question, answers in zip(questions, asked.answers, strict=True) for one in answers)
    answered = [
        Told(one.request_sha256, question.prompt, one.text, *bounds(one.text, question.asked, config.stop), one.places)
        for one, question in pairs
        if one.places and one.request_sha256 in kept
    ]
    if not answered:
        return {}
    directory = context.workdir / "signals"
    write_signals(answered, directory, {"teacher": asked.teacher, "decoding": json.loads(json.dumps(asked.decoding))})
    return {"signals": Output("signals", directory)}
