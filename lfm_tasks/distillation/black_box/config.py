"""Configs of the step *ask_teacher* and of an API as its teacher. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.rows.templates import columns_of, without_template_language

FIXED = (
    "model",
    "messages",
    "prompt",
    "stream",
    "n",
    "stop",
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
)
CONNECTION_KEY = "LFM_TEACHER_API_KEY"
"""Environment variable in which the operator hands on the password of the connection that the config names."""
Parameter = str | int | float | bool


def _section(name: str, **extra: Any) -> dict[str, Any]:
    return {"section": name, **extra}


class AskTeacherConfig(MethodChoice):
    step = "ask_teacher"

    method: str = Field("beam", description="How the teacher answers; `lfm methods` lists the ways.", json_schema_extra=_section("Method"))
    options: dict[str, Any] = Field({}, description='Options of the method, e.g. {"num_beams": 5}.', json_schema_extra=_section("Method"))
    prompt_template: str = Field(
        "{prompt}",
        min_length=1,
        max_length=4000,
        description="The student's prompt; {column} stands for the row's value. Prepared data have the columns prompt and reference.",
        json_schema_extra=_section("Questions"),
    )
    teacher_template: str = Field(
        "{prompt}",
        min_length=1,
        max_length=8000,
        description="What the teacher is asked: {prompt} is the student's prompt, {column} the row's value.",
        json_schema_extra=_section("Questions"),
    )
    system_prompt: str = Field(
        "", max_length=4000, description="System message of a chat; empty for none.", json_schema_extra=_section("Questions")
    )
    reference_column: str = Field(
        "",
        max_length=128,
        description="Column of raw data with the right answer, which goes along; prepared data bring their own.",
        json_schema_extra=_section("Questions"),
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="Split of prepared data whose prompts are asked.", json_schema_extra=_section("Questions")
    )
    max_questions: int | None = Field(
        None, ge=1, le=100_000_000, description="Ask at most so many prompts; empty for all.", json_schema_extra=_section("Questions")
    )
    max_new_tokens: int = Field(256, ge=1, le=131_072, description="Longest answer.", json_schema_extra=_section("Answers", unit="tokens"))
    stop: list[str] = Field(
        [],
        max_length=16,
        description="Texts that end an answer, beside the teacher's own end of sequence; left out.",
        json_schema_extra=_section("Answers"),
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of samples and of waiting times.", json_schema_extra=_section("Answers"))

    @field_validator("prompt_template", "teacher_template", "system_prompt")
    @classmethod
    def _no_template_language(cls, value: str) -> str:
        return without_template_language(value)

    @model_validator(mode="after")
    def _asks_something(self) -> AskTeacherConfig:
        for name in ("prompt_template", "teacher_template"):
            if not columns_of(getattr(self, name)):
                raise ValueError(f"{name} names no column, so every question would be the same; write {{column}} in it")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty text, which would end every answer at once; remove it")
        return self


class BlackBoxConfig(Config):
    endpoint: str = Field(
        min_length=8,
        max_length=512,
        pattern=r"^https?://[^\s@?#]+$",
        description="Base URL of an OpenAI-compatible API, e.g. https://api.example.com/v1; below a prefix in LFM_TEACHER_ENDPOINTS.",
    )
    model: str = Field(min_length=1, max_length=256, description="Model, as the API names it.")
    revision: str = Field(
        "", max_length=128, description="What tells this model from others of its name, e.g. a date; change it to ask anew."
    )
    api: Literal["chat", "completions"] = Field(
        "chat",
        description="Which of the two calls is used.",
        json_schema_extra={"labels": {"chat": "/chat/completions", "completions": "/completions"}},
    )
    key_variable: str = Field(
        "",
        pattern=r"^([A-Z][A-Z0-9_]{0,50}_API_KEY)?$",
        description="Environment variable that holds the key, named …_API_KEY; empty for none.",
        json_schema_extra={"cache": False},
    )
    key_connection: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_.-]{1,200})?$",
        description="Airflow connection whose password is the key and whose host is the endpoint's; empty for none.",
        json_schema_extra={"cache": False},
    )
    temperature: float = Field(0.0, ge=0, le=2, description="Temperature of sampling; 0 for the likeliest answer.")
    samples: int = Field(1, ge=1, le=64, description="Answers to each prompt, each a request of its own.")
    parameters: dict[str, Parameter] = Field(
        {}, max_length=32, description='Further parameters of the call, e.g. {"top_p": 0.95, "seed": 7}; a seed counts up over samples.'
    )
    top_logprobs: int = Field(0, ge=0, le=20, description="Log-probabilities of so many tokens at each place, as signals; 0 for none.")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="How the API calls the longest answer.", json_schema_extra={"advanced": True}
    )
    concurrency: int = Field(4, ge=1, le=256, description="Questions that are open at the same time.", json_schema_extra={"cache": False})
    requests_per_minute: float = Field(
        0.0, ge=0, le=1e6, description="Highest rate of requests; 0 for none.", json_schema_extra={"cache": False}
    )
    burst: int = Field(
        1, ge=1, le=10_000, description="Requests that may be sent at once within that rate.", json_schema_extra={"cache": False}
    )
    timeout: float = Field(
        120.0, gt=0, le=3600, description="Longest wait for one answer.", json_schema_extra={"unit": "s", "cache": False}
    )
    retries: int = Field(5, ge=0, le=100, description="How often a failed request is repeated.", json_schema_extra={"cache": False})
    first_wait: float = Field(
        1.0,
        ge=0,
        le=600,
        description="Wait before the first repetition; it doubles each time.",
        json_schema_extra={"unit": "s", "cache": False},
    )
    longest_wait: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="Longest such wait; a Retry-After beyond it is a failure.",
        json_schema_extra={"unit": "s", "cache": False},
    )
    max_requests: int = Field(0, ge=0, description="Budget of the whole data set, repetitions included; 0 for none.")
    max_tokens: int = Field(
        0, ge=0, description="Budget of the whole data set, prompts and answers; 0 for none.", json_schema_extra={"unit": "tokens"}
    )
    when_spent: Literal["keep", "fail"] = Field(
        "keep",
        description="What a spent budget means.",
        json_schema_extra={"labels": {"keep": "End with the answers that there are", "fail": "Fail"}},
    )
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of questions that may stay without an answer; with more the step fails.")

    @field_validator("parameters")
    @classmethod
    def _free_parameters(cls, value: dict[str, Parameter]) -> dict[str, Parameter]:
        if taken := [name for name in value if name in FIXED]:
            raise ValueError(f"{taken[0]!r} is set by an option of its own or not at all; leave it out")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> BlackBoxConfig:
        if self.key_variable and self.key_connection:
            raise ValueError("key_variable and key_connection exclude one another; leave one of them empty")
        return self
