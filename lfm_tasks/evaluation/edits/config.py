"""Config of the step *evaluate_edits*. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError

PROMPT = "{}"


class EvaluateEditsConfig(Config):
    mode: Literal["evaluate", "known"] = Field(
        "evaluate",
        description="Measure all that is asked about the facts; or give back the facts whose present answer (target_true) the model gives.",
        json_schema_extra={"section": "Evaluation", "labels": {"evaluate": "Measure", "known": "Find the facts that the model knows"}},
    )
    unknown: Literal["leave_out", "keep", "refuse"] = Field(
        "leave_out",
        description="What becomes of facts whose present answer the model does not give, where the known ones are asked for.",
        json_schema_extra={
            "section": "Evaluation",
            "labels": {"leave_out": "Leave them out", "keep": "Hand them on with the others", "refuse": "Fail"},
        },
    )
    max_facts: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Most facts, the first; 0 takes all. Of known facts the first so many known ones.",
        json_schema_extra={"section": "Evaluation", "unit": "facts"},
    )
    max_new_tokens: int = Field(
        0,
        ge=0,
        le=512,
        description="Free-running answers: longest; 0 takes two more than the longest answer that is asked for.",
        json_schema_extra={"section": "Evaluation", "unit": "tokens", "advanced": True},
    )
    chat: bool = Field(
        False,
        description="Ask by the model's chat template: the prompt is the user's message, the answer begins the assistant's; for models "
        "that were tuned to follow instructions.",
        json_schema_extra={"section": "Evaluation"},
    )
    chat_message: str = Field(
        PROMPT,
        min_length=2,
        max_length=2000,
        description='The user\'s message by the chat template; {} stands for the prompt, e.g. "Complete by a name alone: {}".',
        json_schema_extra={"section": "Evaluation", "advanced": True},
    )
    fluency_facts: int = Field(
        10,
        ge=0,
        le=10_000_000,
        description="Facts about whose subjects text is generated, to see whether it is still text; 0 generates none.",
        json_schema_extra={"section": "Evaluation", "unit": "facts"},
    )
    fluency_tokens: int = Field(
        60,
        ge=8,
        le=1024,
        description="Length of that text.",
        json_schema_extra={"section": "Evaluation", "unit": "tokens", "advanced": True},
    )
    split: Literal["test", "validation"] = Field(
        "test", description="Split of the general text.", json_schema_extra={"section": "Evaluation", "advanced": True}
    )
    confidence_level: float = Field(
        0.95, ge=0.5, le=0.999, description="Level of the intervals.", json_schema_extra={"section": "Statistics"}
    )
    bootstrap_samples: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="Resamples behind each interval; the questions about one fact are drawn together.",
        json_schema_extra={"section": "Statistics", "unit": "resamples"},
    )
    batch_tokens: int = Field(
        1024,
        ge=8,
        le=1_048_576,
        description="Tokens of a batch; a longer sample has one of its own.",
        json_schema_extra={"section": "Machine", "unit": "tokens"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the resampling and of the text.", json_schema_extra={"section": "Machine"})

    @field_validator("chat_message")
    @classmethod
    def _holds_the_prompt(cls, message: str) -> str:
        if message.count(PROMPT) != 1:
            raise ConfigError(f"chat_message {message!r} has {message.count(PROMPT)} places for the prompt. Write {PROMPT} once.")
        return message

    @property
    def protocol(self) -> str:
        """By what the model is asked."""
        return "chat template" if self.chat else "plain text"
