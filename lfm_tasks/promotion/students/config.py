"""Config of the step *judge_student*. Light to import."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lfm_tasks.config import Config
from lfm_tasks.names import METRIC_PATTERN


def _in(section: str, **extra: Any) -> dict[str, Any]:
    return {"section": section, **extra}


class JudgeStudentConfig(Config):
    primary_metric: str = Field(
        "auto",
        pattern=rf"^auto$|{METRIC_PATTERN}",
        description="Metric of which the student shall keep its share; auto: as the gate chooses.",
        json_schema_extra=_in("Quality"),
    )
    min_retained: float = Field(
        0.9,
        ge=0,
        le=2,
        description="Least share of the teacher's metric: accuracy over accuracy, or the teacher's perplexity over the student's.",
        json_schema_extra=_in("Quality"),
    )
    certain: bool = Field(False, description="Ask it of the whole interval, not of the value alone.", json_schema_extra=_in("Quality"))
    min_speedup: float = Field(
        1.0, ge=0, le=1000, description="Least speed of the student as a multiple of the teacher's.", json_schema_extra=_in("Speed")
    )
    rows: int = Field(
        32, ge=1, le=100_000, description="Rows of the data set that both are timed on.", json_schema_extra=_in("Speed", unit="rows")
    )
    batch_size: int = Field(8, ge=1, le=4096, description="Rows of a forward pass.", json_schema_extra=_in("Speed", unit="rows"))
    repeats: int = Field(
        5, ge=1, le=1000, description="Times that each passes over them, in turn.", json_schema_extra=_in("Speed", unit="passes")
    )
    confidence_level: float = Field(0.95, ge=0.5, le=0.999, description="Level of the intervals.", json_schema_extra=_in("Statistics"))
    bootstrap_samples: int = Field(
        2000, ge=100, le=100_000, description="Resamples of the paired bootstrap.", json_schema_extra=_in("Statistics", unit="resamples")
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the resampling.", json_schema_extra=_in("Statistics"))
