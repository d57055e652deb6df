"""Config of the step *trace_facts*. Light to import."""

from __future__ import annotations

from pydantic import Field

from lfm_tasks.config import Config


class TraceFactsConfig(Config):
    max_facts: int = Field(
        20,
        ge=1,
        le=10_000,
        description="Most facts, the first that the model knows.",
        json_schema_extra={"section": "Facts", "unit": "facts"},
    )
    samples: int = Field(
        10, ge=1, le=1000, description="Draws of the noise for each fact.", json_schema_extra={"section": "Noise", "unit": "draws"}
    )
    noise: float = Field(
        3.0,
        ge=0,
        le=100,
        description="Size of the noise on the subject's tokens, in standard deviations of such tokens' embeddings.",
        json_schema_extra={"section": "Noise"},
    )
    window: int = Field(
        10,
        ge=1,
        le=1000,
        description="Layers whose MLPs, or attentions, are restored together around each layer.",
        json_schema_extra={"section": "Restoring", "unit": "layers"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the noise.", json_schema_extra={"section": "Noise"})
