"""Options of the merge methods. Light to import.

An option of one name has one meaning and one default in every method: the form shows it once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError

MAX_MODELS = 64
Elect = Literal["sum", "weighted", "votes"]
Combine = Literal["mean", "count", "sum", "max"]
ScoreName = Literal["accuracy", "log_likelihood"]

WEIGHTS = Field([], max_length=MAX_MODELS, description="A weight for each model, in their order; none gives each 1.")
NORMALIZE = Field(True, description="Divide the weights by their sum.")
SCALE = Field(1.0, ge=-100, le=100, description="Factor of the merged task vector; negative values unlearn.")
DENSITY = Field(0.2, gt=0, le=1, description="Share of each task vector that is kept.")
ELECT = Field("sum", description="Whose sign wins: that of the sum of the task vectors, of their weighted sum, or of the majority.")
COMBINE = Field(
    "mean", description="How the task vectors of the winning sign are combined; mean divides by their weights, count by how many."
)
DROP_RATE = Field(0.5, ge=0, lt=1, description="Probability p that an element of a task vector is dropped.")
RESCALE = Field("inverse", description="What is kept is scaled by 1/(1-p), or so that each task vector's L1 norm stays, or not at all.")
FRACTION_T = Field(0.5, ge=0, le=1, description="Way from the first model (0) to the second (1).")
Rescale = Literal["inverse", "l1", "none"]
SCORE_ROWS = Field(
    0, ge=0, le=1_000_000, description="Most rows of each data set that are scored; 0 for all.", json_schema_extra={"unit": "rows"}
)


class WeightedOptions(Config):
    weights: list[float] = WEIGHTS

    def weights_of(self, models: int) -> list[float]:
        """One for each model. Raises :class:`ConfigError` where their number is another."""
        if self.weights and len(self.weights) != models:
            raise ConfigError(f"weights: {len(self.weights)} were given for {models} models. Give one for each, in their order.")
        return list(self.weights) or [1.0] * models

    def normalized(self, models: int) -> list[float]:
        """Divided by their sum. Raises :class:`ConfigError` where that is zero."""
        return divided_by_sum(self.weights_of(models), "weights")


def divided_by_sum(weights: list[float], name: str, otherwise: str = "normalize=false") -> list[float]:
    total = sum(weights)
    if abs(total) < 1e-8 * max(1.0, *map(abs, weights)):
        raise ConfigError(f"{name}: {weights} sum to zero, so they have no average. Change a weight, or set {otherwise}.")
    return [weight / total for weight in weights]


class UniformSoupConfig(Config):
    """A uniform soup has no options."""


class LawaConfig(Config):
    last: int = Field(0, ge=0, le=MAX_MODELS, description="Checkpoints that are averaged, the last of those given; 0: all.")
    window: Literal["uniform", "exponential"] = Field(
        "uniform", description="All of them alike (LAWA), or an exponential moving average from the first on (EMA)."
    )
    decay: float = Field(0.9, ge=0, lt=1, description="Share of the moving average that stays at each checkpoint.")


class LinearConfig(WeightedOptions):
    normalize: bool = NORMALIZE


class ExpoConfig(Config):
    alpha: float = Field(0.3, ge=-1, le=100, description="How far to go beyond the model, as a share of its way from the base.")


class TaskArithmeticConfig(WeightedOptions):
    scale: float = SCALE


class LinesConfig(WeightedOptions):
    shallow: float = Field(0.3, ge=-100, le=100, description="Scale of the task vectors in the first layer and outside of layers.")
    deep: float = Field(1.0, ge=-100, le=100, description="Scale of the task vectors in the last layer.")


class ElectionOptions(TaskArithmeticConfig):
    elect: Elect = ELECT
    combine: Combine = COMBINE

    @model_validator(mode="after")
    def _weights_have_a_mean(self) -> ElectionOptions:
        if self.combine == "mean" and self.weights:
            divided_by_sum(self.weights, "weights", "combine=sum")
        return self


class TiesConfig(ElectionOptions):
    density: float = DENSITY
    trim: Literal["tensor", "global"] = Field(
        "tensor", description="The kept share is that of each tensor, or of the whole model as in the paper."
    )


class DareLinearConfig(TaskArithmeticConfig):
    drop_rate: float = DROP_RATE
    rescale: Rescale = RESCALE


class DareTiesConfig(DareLinearConfig, ElectionOptions):
    """As :class:`DareLinearConfig`, with an election."""


class DellaLinearConfig(TaskArithmeticConfig):
    density: float = DENSITY
    epsilon: float = Field(0.15, gt=0, lt=0.5, description="How far the keep probability goes below and above the density.")
    rescale: Rescale = RESCALE


class DellaConfig(DellaLinearConfig, ElectionOptions):
    """As :class:`DellaLinearConfig`, with an election."""


class BreadcrumbsConfig(TaskArithmeticConfig):
    density: float = DENSITY
    gamma: float = Field(0.01, ge=0, lt=1, description="Share of the largest elements that is dropped as outliers.")


class BreadcrumbsTiesConfig(BreadcrumbsConfig, ElectionOptions):
    """As :class:`BreadcrumbsConfig`, with an election."""


class SlerpConfig(Config):
    t: float = FRACTION_T


class NuslerpConfig(WeightedOptions):
    angle: Literal["tensor", "row", "column"] = Field("tensor", description="What an angle is taken over.")


class MultislerpConfig(WeightedOptions):
    """Weights are always divided by their sum."""


class KarcherConfig(WeightedOptions):
    iterations: int = Field(10, ge=1, le=1000, description="Most steps towards the mean.")
    tolerance: float = Field(1e-5, gt=0, le=1, description="Length of a step (radians) that ends the search.")


class ModelStockConfig(Config):
    average: Literal["cosine", "angle"] = Field("cosine", description="What is averaged over the pairs of models.")
    clamp: bool = Field(True, description="Keep the share of the average between 0 and 1.")


class SceConfig(Config):
    density: float = DENSITY


class MagmaxConfig(Config):
    scale: float = SCALE


class ConsensusConfig(Config):
    scale: float = SCALE
    selectivity: float = Field(
        0.4, ge=0, le=100, description="An element is a task's own where |tau| is at least so many times what the other tasks add."
    )
    agreement: int = Field(2, ge=1, le=MAX_MODELS, description="Tasks that an element must belong to.")


class EmrConfig(Config):
    task: int = Field(0, ge=0, le=MAX_MODELS, description="Model whose mask and scale are applied, from 1; 0 gives the unified model.")


class TsvConfig(Config):
    scale: float = SCALE


class IsoCConfig(Config):
    scale: float = SCALE


class IsoCtsConfig(IsoCConfig):
    common: float = Field(0.8, gt=0, le=1, description="Share of the directions that all tasks have in common.")


class FisherConfig(WeightedOptions):
    """Weights are always divided by their sum."""

    floor: float = Field(1e-6, ge=1e-12, le=1, description="Added to the Fisher information of every element.")
    equalize: bool = Field(True, description="Divide each model's Fisher information by its norm over the whole model.")


class RegmeanConfig(Config):
    reduction: float = Field(
        0.9, ge=0, le=1, description="Factor of the off-diagonal elements of the Gram matrices: 0.9 in the paper, 0.95 in FusionBench."
    )
    ridge: float = Field(
        1e-6, ge=0, le=1, description="Pull of every input's weights to the mean of the models, as a share of the mean diagonal."
    )


class RegmeanPlusPlusConfig(RegmeanConfig):
    gram_rows: int = Field(256, ge=1, le=10_000_000, description="Most rows of each task that go through the merged layers.")


class WudiConfig(Config):
    adam_steps: int = Field(300, ge=0, le=100_000, description="Steps of Adam.")
    learning_rate: float = Field(1e-5, gt=0, le=10, description="Learning rate of Adam.")


class AdaptationConfig(Config):
    """Learning without labels, on batches of every task."""

    coefficient: float = Field(
        0.3, ge=-10, le=10, description="Coefficient of every task vector; where coefficients are learnt, their start."
    )
    batch_size: int = Field(16, ge=1, le=4096, description="Rows of each task in a step.")
    check_every: int = Field(100, ge=1, le=1_000_000, description="Steps between two looks at 256 rows of each task for signs of harm.")
    on_collapse: Literal["warn", "stop", "revert"] = Field(
        "warn",
        description="Where a task's predictions go to few classes, or from those of its own model: warn and go on, stop there, or go back "
        "to the last look without such a sign.",
    )


class AdamergingConfig(AdaptationConfig):
    granularity: Literal["tensor", "task"] = Field(
        "tensor", description="A coefficient for each tensor of each task vector (layer-wise), or one for each task vector (task-wise)."
    )
    steps: int = Field(1000, ge=0, le=1_000_000, description="Steps of Adam on the coefficients.")
    step_size: float = Field(1e-3, gt=0, le=10, description="Learning rate of Adam on the coefficients.")
    bounded: bool = Field(False, description="Keep the coefficients between 0 and 1.")


class AdamergingPpConfig(AdamergingConfig):
    density: float = DENSITY


class ConcreteConfig(AdaptationConfig):
    temperature: float = Field(0.5, gt=0, le=100, description="Of the binary concrete distribution; lower is nearer to masks of 0 and 1.")
    mask_steps: int = Field(1000, ge=0, le=1_000_000, description="Steps of Adam on the mask.")
    mask_step_size: float = Field(1e-3, gt=0, le=10, description="Learning rate of Adam on the mask's logits.")
    mask: Literal["median", "sampled"] = Field(
        "median", description="Mask of the result: the median of its distribution, or a draw keyed by the seed."
    )


class ConcreteTaskArithmeticConfig(ConcreteConfig):
    """The coefficient stays as it is."""


class ConcreteAdamergingConfig(ConcreteConfig, AdamergingConfig):
    inner_optimizer: Literal["sgd", "adam"] = Field(
        "sgd", description="How the coefficients answer a mask, by one step from their start; Adam's first step is the gradient's sign."
    )
    inner_step_size: float = Field(0.1, gt=0, le=10, description="Learning rate of that step.")


class GreedySoupConfig(Config):
    score: ScoreName = Field("accuracy", description="What a model must not make worse to be taken in.")
    score_rows: int = SCORE_ROWS


class LearnedSoupConfig(Config):
    soup_weights: Literal["model", "tensor"] = Field("model", description="One weight for each model, or for each model and tensor.")
    passes: int = Field(3, ge=0, le=1000, description="Passes over the rows.")
    rows_per_step: int = Field(32, ge=1, le=4096, description="Rows of a step of Adam.", json_schema_extra={"unit": "rows"})
    soup_learning_rate: float = Field(0.1, gt=0, le=10, description="Learning rate of the weights' logits.")
    score_rows: int = SCORE_ROWS
