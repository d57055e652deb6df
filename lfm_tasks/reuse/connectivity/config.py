"""Config of the step *connect*. Light to import."""

from __future__ import annotations

from pydantic import Field

from lfm_tasks.config import Config


class ConnectConfig(Config):
    points: int = Field(
        11, ge=3, le=201, description="Models on the way that are measured, both ends included.", json_schema_extra={"section": "Path"}
    )
    bezier_steps: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Steps that the middle of a quadratic Bezier curve is trained for on the train split; 0: only the straight line.",
        json_schema_extra={"section": "Curve", "unit": "steps"},
    )
    learning_rate: float = Field(
        1e-3, gt=0, le=10, description="Learning rate of Adam for the curve.", json_schema_extra={"section": "Curve"}
    )
    samples: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Most rows of the validation split that every point is measured on, and of the train split that statistics of "
        "batch normalisation are taken from.",
        json_schema_extra={"section": "Path", "unit": "rows"},
    )
    batch_size: int = Field(
        16, ge=1, le=4096, description="Rows of a forward pass.", json_schema_extra={"section": "Machine", "unit": "rows"}
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the curve's rows and places.", json_schema_extra={"section": "Curve"})
