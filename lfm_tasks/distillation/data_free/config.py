"""Config of the step *distill_data_free*, and options of the methods. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice

Option = bool | int | float | str


class DistillDataFreeConfig(MethodChoice):
    step = "distill_data_free"

    method: str = Field(
        "deep_inversion", description="How images are made; `lfm methods` lists them.", json_schema_extra={"section": "Method"}
    )
    options: dict[str, Option] = Field(
        {}, description='Options of the method, e.g. {"rounds": 20}.', json_schema_extra={"section": "Method"}
    )
    image_size: int = Field(
        0,
        ge=0,
        le=1024,
        description="Height and width of the images; 0 takes what the teacher's files say.",
        json_schema_extra={"section": "Method", "unit": "pixels"},
    )
    pool_size: int = Field(
        4096,
        ge=2,
        le=1_000_000,
        description="Most images kept to learn from; beyond it each new one takes a random one's place with falling probability.",
        json_schema_extra={"section": "Method", "unit": "images"},
    )

    student_weights: Literal["given", "fresh"] = Field(
        "given",
        description="Whether the student starts from its weights or from new ones, drawn from the seed.",
        json_schema_extra={"section": "Student", "labels": {"given": "As given", "fresh": "Drawn anew"}},
    )
    loss: Literal["kl", "l1"] = Field(
        "kl",
        description="What the student minimises: KL divergence at the temperature, times its square, or the L1 distance of the logits. "
        "Of a teacher that gives labels alone, cross-entropy.",
        json_schema_extra={"section": "Student", "labels": {"kl": "KL divergence", "l1": "L1 distance of logits"}},
    )
    temperature: float = Field(20.0, gt=0, le=1000, description="Temperature of both softmaxes.", json_schema_extra={"section": "Student"})
    optimizer: Literal["sgd", "adam"] = Field(
        "sgd",
        description="SGD with momentum 0.9, or AdamW (for transformers).",
        json_schema_extra={"section": "Student", "labels": {"sgd": "SGD", "adam": "AdamW"}},
    )
    learning_rate: float = Field(
        0.1, gt=0, le=10, description="Learning rate at the start; it falls to 0 by a cosine.", json_schema_extra={"section": "Student"}
    )
    weight_decay: float = Field(
        5e-4, ge=0, le=1, description="Weight decay of the student.", json_schema_extra={"section": "Student", "advanced": True}
    )
    batch_size: int = Field(
        64, ge=2, le=65_536, description="Images of a student's step.", json_schema_extra={"section": "Student", "unit": "images"}
    )

    held_out: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Most synthetic images kept apart, by which the best of the student's states is chosen: an eighth of each round's.",
        json_schema_extra={"section": "Selection", "unit": "images"},
    )
    evaluate_every: int = Field(
        5, ge=1, le=100_000, description="Rounds between two comparisons.", json_schema_extra={"section": "Selection", "unit": "rounds"}
    )
    keep_last: int = Field(
        1,
        ge=1,
        le=100,
        description="Students along the run that are outputs too, evenly spread; the newest is that of the last round.",
        json_schema_extra={"section": "Selection", "unit": "models"},
    )

    checkpoint_every: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="Keep a checkpoint every so many rounds; 0 only when stopped.",
        json_schema_extra={"section": "Machine", "unit": "rounds", "cache": False},
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of noise, generators, batches and new weights.", json_schema_extra={"section": "Machine"}
    )


def _rounds(default: int) -> Any:
    return Field(default, ge=1, le=1_000_000, description="Rounds: images are made, then the student learns.")


def _images(default: int) -> Any:
    return Field(default, ge=8, le=65_536, description="Images that a round makes.")


def _student_steps(default: int) -> Any:
    return Field(default, ge=1, le=100_000, description="Steps of the student in a round.")


def _replay(default: float) -> Any:
    return Field(default, ge=0, le=1, description="Share of a student's batch from the pool of all rounds; the rest is the round's own.")


def _iterations(default: int) -> Any:
    return Field(default, ge=1, le=100_000, description="Steps of optimisation behind the images of a round.")


def _rate(default: float, what: str) -> Any:
    return Field(default, gt=0, le=10, description=f"Learning rate of {what}.")


def _weight(default: float, what: str) -> Any:
    return Field(default, ge=0, le=1e6, description=f"Weight of {what}; 0 leaves it out.")


def _warmup(default: int) -> Any:
    return Field(default, ge=0, le=1_000_000, description="First rounds in which the adversarial term is off.")


BATCH_NORM = "the distance from the teacher's batch-norm statistics"
ONE_HOT = "the cross-entropy to the class that each image is to be of"
ADVERSARIAL = "the disagreement of student and teacher"
TOTAL_VARIATION = "the total variation"


class SynthesisConfig(Config):
    """What every method has."""

    rounds: int = _rounds(20)
    images: int = _images(128)
    student_steps: int = _student_steps(50)
    replay: float = _replay(1.0)


class DeepInversionConfig(SynthesisConfig):
    iterations: int = _iterations(200)
    image_rate: float = _rate(0.1, "the pixels")
    batch_norm: float = _weight(10.0, BATCH_NORM)
    one_hot: float = _weight(1.0, ONE_HOT)
    total_variation: float = _weight(2.5e-5, TOTAL_VARIATION)
    l2: float = _weight(3e-8, "the length of an image")
    competition: float = _weight(0.0, "adaptive DeepInversion's 1 - JS, where JS is the Jensen-Shannon divergence of student and teacher")
    warmup_rounds: int = _warmup(1)
    jitter: int = Field(2, ge=0, le=64, description="Most pixels by which a view is shifted either way.")
    flip: bool = Field(True, description="Show every other view mirrored.")


class GeneratorConfig(SynthesisConfig):
    """What methods with one generator for the whole run have."""

    rounds: int = _rounds(300)
    images: int = _images(320)
    student_steps: int = _student_steps(5)
    replay: float = _replay(0.5)
    generator_steps: int = Field(1, ge=1, le=1000, description="Steps of the generator in a round.")
    generator_rate: float = _rate(1e-3, "the generator")
    latent: int = Field(64, ge=1, le=4096, description="Size of the noise that an image is made of.")
    width: int = Field(32, ge=4, le=1024, description="Channels of the generator's layers.")


class DaflConfig(GeneratorConfig):
    one_hot: float = _weight(1.0, "the cross-entropy to the teacher's own answer")
    balance: float = _weight(5.0, "the negative entropy of the batch's mean prediction")
    activation: float = _weight(0.1, "the mean magnitude of the teacher's last features, which is to be large")


class DfadConfig(GeneratorConfig):
    distance: Literal["l1", "kl"] = Field("l1", description="Disagreement that the generator seeks: L1 of logits (DFAD), or KL (ZSKT).")


class CmiConfig(SynthesisConfig):
    iterations: int = _iterations(200)
    generator_rate: float = _rate(1e-3, "generator and noise")
    latent: int = Field(64, ge=1, le=4096, description="Size of the noise that an image is made of.")
    width: int = Field(32, ge=4, le=1024, description="Channels of the generator's layers.")
    batch_norm: float = _weight(1.0, BATCH_NORM)
    one_hot: float = _weight(0.5, ONE_HOT)
    adversarial: float = _weight(0.5, f"{ADVERSARIAL}, where their classes agree")
    contrast: float = _weight(0.8, "the contrast of each image with the others and with those before")
    contrast_temperature: float = Field(0.2, gt=0, le=100, description="Temperature of the contrast.")
    bank: int = Field(1024, ge=1, le=100_000, description="Features of earlier images in the contrast.")
    warmup_rounds: int = _warmup(1)


class FastConfig(SynthesisConfig):
    rounds: int = _rounds(100)
    images: int = _images(128)
    student_steps: int = _student_steps(10)
    iterations: int = _iterations(10)
    meta: Literal["fomaml", "reptile"] = Field(
        "fomaml",
        description="Meta-gradient: the gradient where the inner steps end, or the way that they went.",
        json_schema_extra={"labels": {"fomaml": "First-order MAML", "reptile": "Reptile"}},
    )
    generator_rate: float = _rate(5e-3, "the generator's inner and outer steps")
    latent_rate: float = _rate(1.5e-2, "the noise")
    latent: int = Field(64, ge=1, le=4096, description="Size of the noise that an image is made of.")
    width: int = Field(32, ge=4, le=1024, description="Channels of the generator's layers.")
    batch_norm: float = _weight(10.0, BATCH_NORM)
    one_hot: float = _weight(0.5, ONE_HOT)
    adversarial: float = _weight(1.0, f"{ADVERSARIAL}, where their classes agree")
    momentum: float = Field(0.9, ge=0, lt=1, description="Share of earlier rounds in the statistics that batch norm is compared with.")
    reset_first: bool = Field(True, description="Draw the generator's first layer anew in each round.")
    warmup_rounds: int = _warmup(5)


class CakeConfig(SynthesisConfig):
    iterations: int = _iterations(128)
    step_size: float = Field(0.1, gt=0, le=100, description="Length of the first step of each pixel; it falls linearly to a hundredth.")
    noise: float = Field(0.5, ge=0, le=100, description="Standard deviation of the noise of a step, as a share of the step's length.")
    one_hot: float = _weight(1.0, ONE_HOT)
    contrast: float = _weight(0.1, "the distance between images of different classes, which draws them to the boundary")
    total_variation: float = _weight(1e-3, TOTAL_VARIATION)


class BlackBoxConfig(GeneratorConfig):
    query_budget: int = Field(
        500_000, ge=1, le=10**12, description="Most images that the teacher may be asked about; the learning ends before the next."
    )


class ZerothOrderConfig(BlackBoxConfig):
    directions: int = Field(1, ge=1, le=1000, description="Random directions behind a gradient; each costs one query an image.")
    epsilon: float = Field(1e-3, gt=0, le=10, description="Length of the step in each direction.")


class IdealConfig(BlackBoxConfig):
    rounds: int = _rounds(200)
    images: int = _images(128)
    student_steps: int = _student_steps(10)
    replay: float = _replay(0.8)
    generator_steps: int = Field(5, ge=1, le=1000, description="Steps of the generator in a round.")
    balance: float = _weight(5.0, "the negative entropy of the batch's mean prediction")
