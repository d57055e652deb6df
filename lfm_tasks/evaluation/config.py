"""Config of the step *evaluate*. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError
from lfm_tasks.names import AnswerMark

TaskName = Literal["choice", "classification", "image_classification", "generation", "perplexity"]


class EvaluateConfig(Config):
    tasks: list[TaskName] = Field(
        [],
        max_length=5,
        description="What to measure; empty follows the data set: choice for instructions with fixed completions, generation for other "
        "instructions, classification for labelled text or images, perplexity for plain text.",
        json_schema_extra={
            "section": "Evaluation",
            "labels": {
                "choice": "Log-likelihood choice",
                "classification": "Classification",
                "image_classification": "Classification of images",
                "generation": "Generation, exact match",
                "perplexity": "Perplexity",
            },
        },
    )
    split: Literal["test", "validation"] = Field(
        "test", description="Held-out split to measure on.", json_schema_extra={"section": "Evaluation"}
    )
    max_samples: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Most samples per task, the first by sample id; 0 takes all.",
        json_schema_extra={"section": "Evaluation", "unit": "samples"},
    )
    length_normalised: bool = Field(
        False,
        description="Choice: divide each completion's log-likelihood by its number of tokens.",
        json_schema_extra={"section": "Evaluation", "advanced": True},
    )
    max_new_tokens: int = Field(
        64,
        ge=1,
        le=4096,
        description="Generation: longest answer.",
        json_schema_extra={"section": "Evaluation", "unit": "tokens", "advanced": True},
    )
    answer_marks: list[AnswerMark] = Field(
        [],
        max_length=16,
        description="Generation: texts, any case, the last of which comes before the answer, on one line; without any of them the first "
        "line is the answer. Empty compares the whole text.",
        json_schema_extra={"section": "Evaluation", "advanced": True},
    )
    backend: Literal["builtin", "lm_eval"] = Field(
        "builtin",
        description="Who measures: the built-in tasks, or lm-evaluation-harness, which is an optional package.",
        json_schema_extra={
            "section": "Evaluation",
            "labels": {"builtin": "Built in", "lm_eval": "lm-evaluation-harness"},
            "advanced": True,
        },
    )
    confidence_level: float = Field(
        0.95, ge=0.5, le=0.999, description="Level of the intervals.", json_schema_extra={"section": "Statistics"}
    )
    bootstrap_samples: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="Resamples behind each interval.",
        json_schema_extra={"section": "Statistics", "unit": "resamples"},
    )
    calibration_bins: int = Field(
        10, ge=2, le=100, description="Bins of the calibration error.", json_schema_extra={"section": "Statistics", "unit": "bins"}
    )
    batch_tokens: int = Field(
        1024,
        ge=8,
        le=1_048_576,
        description="Tokens of a packed row; a longer sample has a row of its own.",
        json_schema_extra={"section": "Machine", "unit": "tokens"},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the resampling and of an untrained head.", json_schema_extra={"section": "Machine"}
    )

    @model_validator(mode="after")
    def _names_tasks_once(self) -> EvaluateConfig:
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks names a task twice: {', '.join(self.tasks)}. Name each once.")
        return self
