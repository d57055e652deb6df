"""Configs of a local model that writes, and of the step *write_rationales*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.names import AnswerMark


def _section(name: str, **extra: Any) -> dict[str, Any]:
    return {"section": name, **extra}


class _LocalConfig(Config):
    chat: bool = Field(False, description="Ask through the teacher's chat template.")
    batch_tokens: int = Field(
        8192, ge=16, le=4_194_304, description="Most tokens of a forward pass.", json_schema_extra={"unit": "tokens", "cache": False}
    )


class BeamConfig(_LocalConfig):
    num_beams: int = Field(5, ge=1, le=256, description="Hypotheses that are kept at each token.")
    keep: int = Field(1, ge=1, le=256, description="How many of the best texts become rows.")
    choose: Literal["likeliest", "closest"] = Field(
        "likeliest",
        description="Which of the num_beams texts are the best: closest: to the right answer, by chrF (interpolation).",
    )
    length_penalty: float = Field(
        0.0, ge=0, le=4, description="A text's log-probability is divided by its length to this power; 0 seeks the likeliest text."
    )

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> BeamConfig:
        if self.keep > self.num_beams:
            raise ValueError(f"keep={self.keep} is more than num_beams={self.num_beams}; raise num_beams")
        return self


class SamplesConfig(_LocalConfig):
    samples: int = Field(1, ge=1, le=64, description="Texts for each prompt.")
    temperature: float = Field(1.0, gt=0, le=10, description="Temperature of sampling.")


class WriteRationalesConfig(MethodChoice):
    step = "write_rationales"

    method: str = Field(
        "step_by_step", description="What the student learns; `lfm methods` lists it.", json_schema_extra=_section("Method")
    )
    options: dict[str, Any] = Field({}, description="Options of the method.", json_schema_extra=_section("Method"))
    answer_marks: list[AnswerMark] = Field(
        ["answer:", "answer is", "####"],
        min_length=1,
        max_length=16,
        description="Texts, any case, the last of which comes before the answer; before it is the rationale.",
        json_schema_extra=_section("Reading"),
    )
    require_reference: bool = Field(
        True,
        description="Keep rows whose answer is the row's right one; off keeps rows without one, and those that differ.",
        json_schema_extra=_section("Filter"),
    )
    check_arithmetic: bool = Field(
        True, description="Drop rationales with an equation that does not hold.", json_schema_extra=_section("Filter")
    )
    leakage: Literal["drop", "keep"] = Field(
        "drop",
        description="What becomes of rationales that begin with the answer, or hold nothing else.",
        json_schema_extra=_section("Filter", labels={"drop": "Drop", "keep": "Keep"}),
    )


class StepByStepConfig(Config):
    """α is the share that the step *prepare* gives the part ``predict``."""

    explain_prompt: str = Field(
        "Explain. {prompt}",
        max_length=4000,
        description="Prompt of the part explain; {prompt} stands for the question's own, which the part predict keeps.",
    )

    @model_validator(mode="after")
    def _asks_for_something_else(self) -> StepByStepConfig:
        if "{prompt}" not in self.explain_prompt:
            raise ValueError(f"explain_prompt {self.explain_prompt!r} does not hold {{prompt}}; write it where the question is to stand")
        if not self.explain_prompt.replace("{prompt}", "").strip():
            raise ValueError(
                "explain_prompt is the prompt of the part predict, whose completion is the label; write something beside {prompt}"
            )
        return self


class ChainOfThoughtConfig(Config):
    closing: str = Field(
        "\nAnswer: {answer}", min_length=8, max_length=200, description="What ends the completion; {answer} stands for the label."
    )

    @model_validator(mode="after")
    def _says_the_answer(self) -> ChainOfThoughtConfig:
        if "{answer}" not in self.closing:
            raise ValueError(f"closing {self.closing!r} does not hold {{answer}}; write it where the label is to stand")
        return self
