"""Config of the step *edit*. Light to import."""

from __future__ import annotations

from pydantic import Field

from lfm_tasks.config import MethodChoice

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
