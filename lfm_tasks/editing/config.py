"""Configs of the steps *edit* and *revise_edits*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config, MethodChoice, parse_config
from lfm_tasks.editing.guards_config import CHECKS, GuardOptions
from lfm_tasks.errors import ConfigError

Option = bool | int | float | str | list[int] | list[float] | list[str]


class EditConfig(MethodChoice):
    step = "edit"

    method: str = Field("memit", description="Edit method; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"layers": [3, 4]}.', json_schema_extra={"section": "Method"}
    )
    round_size: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Facts that are written at once; each round edits what the one before left. 0: as many as the method can.",
        json_schema_extra={"section": "Rounds", "unit": "facts"},
    )
    guard: Literal["off", "warn", "fail"] = Field(
        "fail",
        description="What is done with a round that misses a limit: nothing is measured; it is said and the round stays; the round is "
        "taken back, the facts at fault are looked for by halving, and the others are written.",
        json_schema_extra={"section": "Guards", "labels": {"off": "Off", "warn": "Warn", "fail": "Take back"}},
    )
    guards: dict[str, Option] = Field(
        {},
        description='Limits, and checks that are off or only warn, e.g. {"retention": 0.95, "off": ["locality"]}.',
        json_schema_extra={"section": "Guards"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is drawn at random.", json_schema_extra={"section": "Rounds"})
    prune: bool = Field(
        False,
        description="After the last round, cap the singular values of all changes together at those of the unedited weights (PRUNE).",
        json_schema_extra={"section": "Rounds"},
    )
    save_merged: bool = Field(
        False, description="Also save the model with the edits in its weights.", json_schema_extra={"section": "Result"}
    )
    save_lora: bool = Field(
        False, description="Also save the edits as a LoRA adapter that peft opens.", json_schema_extra={"section": "Result"}
    )

    @model_validator(mode="after")
    def _known_guards(self) -> EditConfig:
        self.guard_options()
        return self

    def guard_options(self) -> GuardOptions:
        """With ``guard`` warn every check only warns. Raises :class:`ConfigError` that names the options of the guards."""
        options = parse_config(GuardOptions, self.guards, where="guards")
        return options if self.guard == "fail" else options.model_copy(update={"warn": list(CHECKS)})

    def cache_fields(self) -> dict[str, Any]:
        return {**super().cache_fields(), "guards": self.guard_options().cache_fields()}


class ReviseEditsConfig(Config):
    forget: list[str] = Field([], max_length=10_000, description="Ids of facts to take out of the edits.")
    keep_rounds: int = Field(
        -1,
        ge=-1,
        le=1_000_000,
        description="Rounds, the first, that stay exactly as they were; those behind are taken out. -1 keeps all.",
        json_schema_extra={"unit": "rounds"},
    )

    @model_validator(mode="after")
    def _one(self) -> ReviseEditsConfig:
        if self.forget and self.keep_rounds >= 0:
            raise ConfigError(
                f"forget={self.forget!r} and keep_rounds={self.keep_rounds}: name facts to forget, or rounds to keep, not both."
            )
        return self
