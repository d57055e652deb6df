"""Options of the distillation methods. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError


class PlainConfig(Config):
    """A method without options of its own."""


class JsdConfig(Config):
    beta: float = Field(0.5, ge=0, le=1, description="Share of the teacher in the mixture that both are compared with.")
    normalised: bool = Field(
        False, description="Divide by beta (1 - beta), so that the loss goes to forward KL at 0 and to reverse KL at 1 without a jump."
    )

    @model_validator(mode="after")
    def _is_no_limit(self) -> JsdConfig:
        if self.beta in (0.0, 1.0) and not self.normalised:
            raise ConfigError(f"beta={self.beta:g} makes the divergence 0 everywhere. Set normalised=true for its limit, or take a KL.")
        return self


class SkewConfig(Config):
    skew: float = Field(0.1, gt=0, lt=1, description="Share of the first distribution that is mixed into the second.")


class DecoupledConfig(Config):
    target_weight: float = Field(1.0, ge=0, le=100, description="Weight of (target, all others).")
    other_weight: float = Field(8.0, ge=0, le=100, description="Weight of the distribution among the others.")


class PolicyConfig(Config):
    weights: Literal["sequence", "token"] = Field(
        "sequence",
        description="Weight of a token whose text the student as it is now did not draw: the ratio of all tokens before it, without bias; "
        "or its own ratio, bounded and biased.",
    )
    length_normalised: bool = Field(
        False, description="Divide what is to come by its number of tokens: another objective, which favours no length."
    )


class ChunkConfig(Config):
    chunk_temperature: float = Field(
        100.0,
        gt=0,
        le=1e6,
        description="Likelihoods p of chunks are compared as p ** (1 / T); the larger T, the more unlikely chunks count.",
    )


class DistConfig(Config):
    inter: float = Field(1.0, ge=0, le=100, description="Weight of the correlation of each row's classes.")
    intra: float = Field(1.0, ge=0, le=100, description="Weight of the correlation of each class over the rows of a step.")


class HiddenConfig(Config):
    """Options of every method that looks inside."""

    prediction: float = Field(
        0.0, ge=0, le=100, description="Weight, beside the method's own loss, of forward KL between what the two say; 0 leaves it out."
    )


class TinyBertConfig(HiddenConfig):
    prediction: float = Field(1.0, ge=0, le=100, description="Weight of forward KL between what the two say; 0 leaves it out.")
    hidden: float = Field(1.0, ge=0, le=100, description="Weight of the embeddings' and the layers' hidden states.")
    attention: float = Field(1.0, ge=0, le=100, description="Weight of the attention scores; they need equal numbers of heads.")


class MiniLmConfig(HiddenConfig):
    teacher_layer: int = Field(-1, ge=-10_000, lt=10_000, description="Layer of the teacher, from 0; -1 is the last.")


class MiniLmV2Config(MiniLmConfig):
    relation_heads: int = Field(
        0, ge=0, le=1024, description="Heads that queries, keys and values are cut into anew; 0: as many as the student has."
    )


class ActivationsConfig(HiddenConfig):
    modules: list[str] = Field(
        [],
        max_length=256,
        description='Modules whose outputs are compared, by their paths, "student=teacher", e.g. ["model.layers.1=model.layers.5"]; '
        "empty: the embeddings and every layer, evenly.",
    )
    distance: Literal["mse", "cosine"] = Field("mse", description="Mean squared difference, or 1 - cosine, of each place.")
