"""Configs of the steps *replay* and *collect*, which look at the store as a whole. Light to import."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from lfm_tasks.config import Config

Address = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class ReplayConfig(Config):
    tolerance: float = Field(
        1e-4,
        ge=0,
        lt=1,
        description="Largest relative difference of a tensor, of a number in a table or of a metric that still counts as the same.",
        json_schema_extra={"section": "Replay"},
    )
