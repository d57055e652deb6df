"""Options of the methods that locate a fact and write it there. Light to import.

No default is one of a model of some size: what depends on a model is a share of what is measured on it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config


class TargetOptions(Config):
    """How the value to be written is searched for."""

    steps: int = Field(20, ge=1, le=1000, description="Steps of the search for a fact's value, at the most.")
    learning_rate: float = Field(0.5, gt=0, le=10, description="Step size of Adam in that search.")
    enough: float = Field(0.05, ge=0, le=10, description="Loss (nats) of a fact below which its search ends.")
    clamp: float = Field(1.5, gt=0, le=100, description="Longest shift of a value, in lengths of the value without it.")
    kl: float = Field(
        0.0625, ge=0, le=100, description="Factor of the divergence of what follows '<subject> is' from what followed before."
    )
    decay: float = Field(0.5, ge=0, le=100, description="Factor of the shift's length over the square of the value's.")
    targets: Literal["current", "base"] = Field(
        "current",
        description="Model that values are searched for on: as the rounds before left it, or the base. Values of the base do not depend on "
        "other facts, so that a fact can be forgotten exactly.",
    )
    contexts: Literal["fixed", "sampled"] = Field(
        "fixed", description="Texts put before the prompt: fixed ones, or drawn from the model itself by the seed."
    )
    prefixes: int = Field(2, ge=0, le=8, description="How many such texts, beside the bare prompt.")
    prefix_tokens: int = Field(10, ge=1, le=64, description="Tokens that a sampled text has beside its opening.")
    anchor: bool = Field(
        False,
        description="Give every value the length that values had on average in the first round, so that lengths do not grow over rounds.",
    )


class LocatedOptions(TargetOptions):
    two_keys: bool = Field(
        True,
        description="Write a fact at two keys, the bare prompt's and that in context, where these are too unlike for one (cosine < 0.7).",
    )
    openings: bool = Field(
        True,
        description="Write a fact as well at the key that its subject has as the first words of a text, where that is unlike the others "
        "(cosine < 0.7): else what begins with the subject hardly knows of the edit. It costs half a percent of perplexity on short texts.",
    )
    averaging: Literal["equal", "halves"] = Field(
        "halves", description="Mean key over contexts: all the same, or half of it the bare prompt's."
    )
    covariance: Literal["statistics", "identity"] = Field(
        "statistics", description="What must stay: keys of general text, by the input 'statistics'; or every direction alike, without it."
    )


class RomeOptions(LocatedOptions):
    layer: int = Field(-1, ge=-1, lt=10_000, description="Layer of the decoder, from 0, that is edited; -1 takes an early one.")
    clamp: float = Field(4.0, gt=0, le=100, description="Longest shift of a value, in lengths of the value without it.")
    averaging: Literal["equal", "halves"] = Field(
        "equal", description="Mean key over contexts: all the same, or half of it the bare prompt's."
    )
    keys: Literal["contexts", "prompt"] = Field("contexts", description="Key of a fact: the mean over contexts, or the bare prompt's.")
    output: Literal["mean", "bare"] = Field(
        "mean", description="What the shift is added to at a mean key: the mean output, or that of the bare prompt as in R-ROME's code."
    )


class BatchOptions(LocatedOptions):
    layers: list[int] = Field(
        [], max_length=100, description="Layers of the decoder, from 0, that are edited, rising; none: five early ones."
    )
    ridge_share: float = Field(
        0.1, ge=0, le=100, description="Ridge as a share of the median strength q of the keys; a lone fact is written at 1 / (1 + share)."
    )
    ridge: float = Field(0.0, ge=0, le=1e12, description="The ridge itself, as papers give it (lambda, L2, mu); 0 takes the share.")
    remember: bool = Field(True, description="Keep the keys of each round, so that later rounds leave what they say as it is.")
    filter: Literal["none", "rect"] = Field(
        "none", description="What is done to each change: nothing, or RECT, which drops the entries that are small beside the weight's."
    )
    keep: float = Field(0.4, gt=0, le=1, description="Share of the entries that RECT keeps.")


class MemitOptions(BatchOptions):
    """As :class:`BatchOptions`."""


class EmmetOptions(BatchOptions):
    ridge_share: float = Field(
        1e-3, ge=0, le=100, description="Ridge as a share of the median strength q of the keys; a lone fact is written at 1 / (1 + share)."
    )


class PmetOptions(BatchOptions):
    kl: float = Field(1.0, ge=0, le=100, description="Factor of the divergence of what follows '<subject> is' from what followed before.")


class AlphaEditOptions(BatchOptions):
    energy: float = Field(
        0.1, gt=0, lt=1, description="Share of the keys' energy that the null space may hold: the most of the weakest directions."
    )
