"""Configs of the steps *replay* and *collect*, which look at the store as a whole. Light to import."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from lfm_tasks.config import Config

Address = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class CollectConfig(Config):
    keep_days: float = Field(
        30.0,
        ge=0,
        le=3650,
        description="What was made or used in the last so many days is kept, whether or not anything in use was made from it.",
        json_schema_extra={"section": "Collection", "unit": "days"},
    )
    delete: list[Address] = Field(
        [],
        max_length=10_000,
        description="Addresses to delete. Without any, the step says what could be deleted and deletes nothing.",
        json_schema_extra={"section": "Collection"},
    )


class ReplayConfig(Config):
    tolerance: float = Field(
        1e-4,
        ge=0,
        lt=1,
        description="Largest relative difference of a tensor, of a number in a table or of a metric that still counts as the same.",
        json_schema_extra={"section": "Replay"},
    )
