"""Config of the step *compare*. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config
from lfm_tasks.names import METRIC_PATTERN

MAX_CELLS = 4096


class Subject(Config):
    """A model, or several used together, that was measured on the tasks."""

    name: str = Field(min_length=1, max_length=200, description="What it is called in the table.")
    role: Literal["base", "expert", "result"] = Field("result", description="Where it comes from.")
    expert_of: str = Field("", max_length=200, description="Task that it was tuned for; its value there is what others are divided by.")
    cpu_seconds: float | None = Field(None, ge=0, description="CPU time that making it took, once its sources were there.")
    peak_memory_bytes: float | None = Field(None, ge=0, description="Largest resident memory while it was made.")
    extra_parameters: int = Field(0, ge=0, description="Parameters beyond those of one source model.")
    validation: float | None = Field(None, description="Its score on validation rows, where it was chosen by them.")


class Cell(Config):
    subject: str = Field(description="Name of the subject.")
    task: str = Field(min_length=1, max_length=200, description="Task that it was measured on.")


class CompareConfig(Config):
    metric: str = Field(
        "auto",
        pattern=rf"^auto$|{METRIC_PATTERN}",
        description="Metric of the table; higher must be better. auto: accuracy of choice or classification, else exact match.",
        json_schema_extra={"section": "Table"},
    )
    subjects: list[Subject] = Field(
        [],
        max_length=512,
        description="Who was measured, in the order of the table.",
        json_schema_extra={"section": "Table", "advanced": True},
    )
    cells: list[Cell] = Field(
        [],
        max_length=MAX_CELLS,
        description="Whose report on which task each report is, in the order of the reports.",
        json_schema_extra={"section": "Table", "advanced": True},
    )
