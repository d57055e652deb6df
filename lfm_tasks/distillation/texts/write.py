"""The step *write_rationales*: a teacher's answers with reasons, made by *ask_teacher*, to rows that a student learns from."""

from __future__ import annotations

from collections.abc import Mapping

from lfm_tasks.catalogue import METHODS
from lfm_tasks.distillation.texts.config import WriteRationalesConfig
from lfm_tasks.distillation.texts.files import read_rows, write_rows
from lfm_tasks.distillation.texts.rationales import sift
from lfm_tasks.errors import DataError
from lfm_tasks.step import Input, Outcome, Output, StepContext

CARRIED = ("teacher", "model", "request_sha256")


def run(config: WriteRationalesConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """Write ``rows.jsonl`` (with the teacher's raw text) and ``rationales.json``. Raises :class:`DataError` where nothing is kept."""
    path = inputs["data"].path
    if not (path / "teacher.json").is_file():
        raise DataError("The data set has no teacher.json: these are not a teacher's answers. Make them by the step 'ask_teacher'.")
    answered = read_rows(path)
    filters = {"require": config.require_reference, "arithmetic": config.check_arithmetic, "leakage": config.leakage == "drop"}
    kept, dropped = sift(answered, config.answer_marks, **filters)
    if not kept:
        reasons = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dropped.items() if count)
        raise DataError(
            f"None of the {len(answered)} answers is kept: {reasons}. Look at answer_marks {config.answer_marks}, at the filters and at "
            "what the teacher was asked; a right answer to compare with comes from prepared data, or from reference_column."
        )
    method, options = METHODS[config.method].function, config.method_config()
    rows = []
    for row, rationale in kept:
        label = row["reference"] if config.require_reference else rationale.answer
        along = {name: row[name] for name in CARRIED} | {"raw": row.get("raw", row["completion"]), "answer": rationale.answer}
        rows += [one | along | {"reference": row["reference"]} for one in method(row["prompt"], rationale, label, options)]
    directory = context.workdir / "dataset"
    counts = {"answers": len(answered), "kept": len(kept), "rows": len(rows)} | dropped
    write_rows(rows, directory, "rationales.json", {"format": 1, "method": config.method, **counts})
    context.log(f"{len(kept)} of {len(answered)} rationales are kept; dropped: {dropped}.")
    metrics = {f"rationales/{name}": float(value) for name, value in counts.items()}
    return Outcome({"dataset": Output("dataset", directory)}, metrics, {"method": config.method, **counts})
