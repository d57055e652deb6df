"""Options of the tuning methods. Light to import."""

from __future__ import annotations

from pydantic import Field

from lfm_tasks.config import Config


class FullConfig(Config):
    """Full fine-tuning has one option."""

    freeze_embeddings: bool = Field(False, description="Leave the input and output embeddings as they are.")


class LoraConfig(Config):
    rank: int = Field(8, ge=1, le=1024, description="Rank r of the update BA.")
    alpha: float = Field(16.0, gt=0, le=65536, description="Numerator of the scaling: alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the update.")
    target_modules: list[str] = Field(
        ["all-linear"],
        min_length=1,
        max_length=64,
        description="Names of the linear layers to adapt; 'all-linear' means every one but the head.",
    )


class DoraConfig(LoraConfig):
    pass


class RsLoraConfig(LoraConfig):
    alpha: float = Field(16.0, gt=0, le=65536, description="Numerator of the scaling: alpha / sqrt(r).")


class BitFitConfig(Config):
    norms: bool = Field(False, description="Also train the gains of normalisation layers.")
