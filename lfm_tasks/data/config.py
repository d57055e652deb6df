"""Config of the step *prepare*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lfm_tasks.config import Config
from lfm_tasks.rows.templates import COLUMN, columns_of, without_template_language


def _section(name: str, **extra: Any) -> dict[str, Any]:
    return {"section": name, **extra}


class PrepareConfig(Config):
    task: Literal["instruction", "classification", "text"] = Field(
        "instruction",
        description="What the rows are for.",
        json_schema_extra=_section(
            "Rows",
            labels={
                "instruction": "Prompt and completion",
                "classification": "Text and label",
                "text": "Text alone",
            },
        ),
    )
    text_column: str = Field(
        "text", pattern=COLUMN, description="Column with the text (tasks classification and text).", json_schema_extra=_section("Rows")
    )
    label_column: str = Field(
        "label", pattern=COLUMN, description="Column with the label (classification, and choices).", json_schema_extra=_section("Rows")
    )
    prompt_template: str = Field(
        "Article: {text}\nTopic:",
        min_length=1,
        max_length=4000,
        description="Prompt of task instruction; {column} stands for the row's value.",
        json_schema_extra=_section("Prompt"),
    )
    completion_template: str = Field(
        " {label}",
        min_length=1,
        max_length=4000,
        description="Completion of task instruction; {column} stands for the row's value.",
        json_schema_extra=_section("Prompt"),
    )
    label_choices: bool = Field(
        True,
        description="The completions of all labels are the candidates that evaluation chooses among.",
        json_schema_extra=_section("Prompt"),
    )
    template: Literal["plain", "chat"] = Field(
        "plain",
        description="Whether the prompt stands as it is or goes through the model's chat template.",
        json_schema_extra=_section("Prompt", labels={"plain": "As it is", "chat": "The model's chat template"}),
    )
    system_prompt: str = Field(
        "", max_length=4000, description="System message of the chat template; empty for none.", json_schema_extra=_section("Prompt")
    )
    append_eos: bool = Field(
        True, description="End completions and texts with the end-of-sequence token.", json_schema_extra=_section("Prompt", advanced=True)
    )
    part_column: str = Field(
        "",
        max_length=128,
        description="Column that names the part of the loss to which a row counts (task instruction); empty for none. "
        "It may be used in the prompt, and does not tell inputs apart.",
        json_schema_extra=_section("Parts", advanced=True),
    )
    parts: dict[str, float] = Field(
        {},
        max_length=64,
        description='Share of the loss of each part, e.g. {"predict": 0.5, "explain": 0.5}.',
        json_schema_extra=_section("Parts", advanced=True),
    )
    max_length: int = Field(
        96,
        ge=8,
        le=8192,
        description="Longest example; instruction and classification cut the text, text goes on in the next block.",
        json_schema_extra=_section("Size", unit="tokens"),
    )
    max_train_samples: int | None = Field(
        None, ge=1, le=100_000_000, description="Keep at most so many training rows; empty for all.", json_schema_extra=_section("Size")
    )
    max_eval_samples: int | None = Field(
        200,
        ge=1,
        le=100_000_000,
        description="Keep at most so many rows in validation and in test each; empty for all.",
        json_schema_extra=_section("Size"),
    )
    split_by: Literal["hash", "column", "file"] = Field(
        "hash",
        description="How a row gets its split; a file's name says train, validation or test.",
        json_schema_extra=_section(
            "Splits",
            labels={"hash": "Hash of its text", "column": "A column of the data", "file": "Its file's name"},
        ),
    )
    split_column: str = Field(
        "split",
        pattern=COLUMN,
        description="Column that names the split, for split_by column.",
        json_schema_extra=_section("Splits"),
    )
    group_column: str = Field(
        "",
        max_length=128,
        description="Column whose equal values keep rows in one split, as equal prompts do, e.g. that of a document; empty for none.",
        json_schema_extra=_section("Splits", advanced=True),
    )
    validation_fraction: float = Field(
        0.1, ge=0, le=1, description="Share of rows for validation, where the data do not say.", json_schema_extra=_section("Splits")
    )
    test_fraction: float = Field(
        0.2, ge=0, le=1, description="Share of rows for the held-out test, where the data do not say.", json_schema_extra=_section("Splits")
    )
    leakage: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What to do when a given split holds text of a later one.",
        json_schema_extra=_section("Splits", labels={"refuse": "Refuse the data", "drop": "Drop the rows and count them"}),
    )
    deduplicate: bool = Field(True, description="Keep one of equal rows, case and white space aside.", json_schema_extra=_section("Splits"))
    seed: int = Field(0, ge=0, lt=2**31, description="Salt of the split and of the order of rows.", json_schema_extra=_section("Splits"))

    @field_validator("prompt_template", "completion_template", "system_prompt", "text_column", "label_column", "split_column")
    @classmethod
    def _no_template_language(cls, value: str) -> str:
        return without_template_language(value)

    @model_validator(mode="after")
    def _fits_together(self) -> PrepareConfig:
        if self.validation_fraction + self.test_fraction > 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} are more than 1 together; lower one"
            )
        if self.task == "instruction":
            for name in ("prompt_template", "completion_template"):
                if not columns_of(getattr(self, name)):
                    raise ValueError(f"{name} names no column, so every row would be the same; write {{column}} in it")
            others = set(columns_of(self.completion_template)) - {self.label_column}
            if self.label_choices and others:
                raise ValueError(
                    f"with label_choices the completion_template may name {{{self.label_column}}} only, not {', '.join(sorted(others))}; "
                    "switch label_choices off or change label_column"
                )
        self._check_parts()
        return self

    def _check_parts(self) -> None:
        if bool(self.part_column) != bool(self.parts):
            raise ValueError(f"part_column {self.part_column!r} and parts {self.parts} belong together; give both or neither")
        if self.parts and self.task != "instruction":
            raise ValueError(f"parts are for task instruction, not {self.task}; leave them empty")
        if self.parts and (min(self.parts.values()) <= 0 or abs(sum(self.parts.values()) - 1) > 1e-9):
            raise ValueError(f"the shares of parts {self.parts} are to be positive and 1 together; change them")

    @property
    def prompt_columns(self) -> list[str]:
        """Columns that the prompt is made of, in the order of their first use."""
        return columns_of(self.prompt_template)

    @property
    def input_columns(self) -> list[str]:
        """Columns that a model reads: rows whose values here are equal never lie in different splits."""
        if self.task == "instruction":
            return [column for column in self.prompt_columns if column != self.part_column]
        return [self.text_column]

    @property
    def columns(self) -> list[str]:
        """Every column that an example is made of."""
        outputs = {
            "instruction": [*columns_of(self.completion_template), *([self.label_column] if self.label_choices else [])],
            "classification": [self.label_column],
            "text": [],
        }
        beside = [column for column in (self.part_column, self.group_column) if column]
        return list(dict.fromkeys([*self.input_columns, *outputs[self.task], *beside]))

    @property
    def has_labels(self) -> bool:
        return self.task == "classification" or (self.task == "instruction" and self.label_choices)
