"""Config of the step *ensemble* and the options of its methods. Light to import.

An option of one name has one meaning and one default in every method: the form shows it once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lfm_tasks.config import Config, MethodChoice
from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.config import EvaluateConfig

MAX_MODELS = 64
Option = bool | int | float | str | list[float]
FIT_SAMPLES = Field(
    0,
    ge=0,
    le=10_000_000,
    description="Most samples of the validation split that are fitted on, the first by sample id; 0 takes all.",
    json_schema_extra={"unit": "samples"},
)
AGGREGATE = Field("wins", description="What a candidate is ranked by: how many others it beats, or the sum of its margins over them.")
COMPARISONS = Field(
    "all", description="Who is compared: all with all, or the best so far with the next, which is one less than there are candidates."
)


class EnsembleConfig(EvaluateConfig, MethodChoice):
    step = "ensemble"

    method: str = Field(
        "probability_mean",
        description="How the models' answers are combined; `lfm methods` lists them.",
        json_schema_extra={"section": "Method"},
    )
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"weights": [2, 1]}.', json_schema_extra={"section": "Method"}
    )
    backend: Literal["builtin"] = Field(
        "builtin",
        description="Who measures: the built-in tasks, whose answers can be combined.",
        json_schema_extra={"section": "Evaluation", "labels": {"builtin": "Built in"}, "advanced": True},
    )


class NoOptions(Config):
    """The method has no options."""


class WeightedOptions(Config):
    weights: list[float] = Field([], max_length=MAX_MODELS, description="A weight for each model, in their order; none gives each 1.")

    @field_validator("weights")
    @classmethod
    def _are_shares(cls, weights: list[float]) -> list[float]:
        if weights and (min(weights) < 0 or sum(weights) <= 0):
            raise ConfigError(f"weights: {weights} are no shares. Give numbers from 0 up, at least one of them above 0.")
        return weights

    def shares(self, models: int) -> list[float]:
        """The weights divided by their sum. Raises :class:`ConfigError` where there is not one for each model."""
        if self.weights and len(self.weights) != models:
            raise ConfigError(f"weights: {len(self.weights)} were given for {models} models. Give one for each, in their order.")
        weights = self.weights or [1.0] * models
        return [weight / sum(weights) for weight in weights]


class TemperatureScaledConfig(WeightedOptions):
    combine: Literal["probability_mean", "logit_mean"] = Field(
        "probability_mean", description="How the members are combined once each has its temperature."
    )
    fit_samples: int = FIT_SAMPLES


class StackingConfig(Config):
    penalty: float = Field(
        1.0,
        ge=1e-6,
        le=1e9,
        description="Ridge penalty on how far the regression goes from the mean of logits; divided by the number of samples.",
    )
    fit_samples: int = FIT_SAMPLES


class RankedOptions(Config):
    aggregate: Literal["wins", "sum"] = AGGREGATE
    comparisons: Literal["all", "bubble"] = COMPARISONS


class MinimumBayesRiskConfig(RankedOptions):
    similarity: Literal["chrf", "token_f1", "exact"] = Field(
        "chrf",
        description="How like two answers are: chrF, F1 of their words, or 1 for equal answers, which makes it a vote. "
        "With answer_marks likeness is of what is read behind them: a vote is self-consistency (Wang et al. 2022, arXiv 2203.11171).",
    )


class MemberLikelihoodConfig(RankedOptions):
    per_token: bool = Field(
        True, description="Divide an answer's log-likelihood by its number of tokens, so that short answers have no head start."
    )
