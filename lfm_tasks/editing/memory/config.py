"""Options of the methods that keep the weights. Light to import."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lfm_tasks.config import Config

LAYER = "Layer of the decoder that is edited, from 0; -1 takes the depth at which the method does best."
STEPS = "Steps of the optimiser at the most."
ENOUGH = "Loss (nats a token, mean over the facts) below which the optimiser stops."
RATE = "Step size of Adam."


class GraceConfig(Config):
    layer: int = Field(-1, ge=-1, lt=10_000, description=LAYER)
    radius: float = Field(0.3, gt=0, le=1e6, description="Radius of a new key, in the unit that 'unit' names.")
    unit: Literal["key", "activation"] = Field(
        "key", description="Unit of the radius: the length of the key itself, or that of the layer's activations as they are."
    )
    start: Literal["warm", "cold"] = Field("warm", description="What a new value starts from: the layer's own output, or random numbers.")
    steps: int = Field(100, ge=1, le=10_000, description=STEPS)
    learning_rate: float = Field(0.3, gt=0, le=10, description="Step size of Adam, in root mean squares of the layer's outputs.")
    enough: float = Field(1e-2, ge=0, le=10, description=ENOUGH)


class WiseConfig(Config):
    layer: int = Field(-1, ge=-1, lt=10_000, description=LAYER)
    share: float = Field(0.2, gt=0, le=1, description="Share of the matrix's entries that a round may change, drawn anew for each.")
    ball: float = Field(20.0, gt=0, le=1e6, description="Farthest that an entry may go, in root mean squares of the matrix's entries.")
    outside: float = Field(
        0.25, ge=0, le=100, description="Largest wanted answer of the change to other tokens, in lengths of a usual output."
    )
    inside: float = Field(1.0, gt=0, le=100, description="Smallest wanted answer to the facts' tokens, in lengths of a usual output.")
    apart: float = Field(0.5, ge=0, le=100, description="Smallest wanted difference of the two, in lengths of a usual output.")
    ratio: float = Field(0.88, gt=0, le=1, description="Share of the smallest answer to a written token above which the change is used.")
    combine: Literal["retrieve", "merge"] = Field(
        "retrieve", description="Changes of several rounds: the one that answers most, or all merged into one by TIES."
    )
    density: float = Field(0.53, gt=0, le=1, description="Share of each change's entries that a merge keeps, the largest.")
    steps: int = Field(70, ge=1, le=10_000, description=STEPS)
    learning_rate: float = Field(0.1, gt=0, le=10, description="Step size of Adam, in root mean squares of the matrix's entries.")
    enough: float = Field(2e-2, ge=0, le=10, description=ENOUGH)


class TPatcherConfig(Config):
    margin: float = Field(0.5, ge=0, le=100, description="How far below firing a neuron shall be for other tokens.")
    weight: float = Field(
        1.0, ge=0, le=1e6, description="Weight of the losses that keep a neuron for its own token, beside the facts' loss."
    )
    steps: int = Field(100, ge=1, le=10_000, description=STEPS)
    learning_rate: float = Field(0.05, gt=0, le=10, description="Step size of Adam, in units of the MLP's usual input and output.")
    enough: float = Field(1e-2, ge=0, le=10, description=ENOUGH)


class PromptConfig(Config):
    before_prompt: ClassVar[str] = "Prompt: "
    """What stands between the facts and the prompt."""
    fact: ClassVar[str] = "New Fact: {prompt} {target}\n"
    """How a fact is told."""
    layer: int = Field(-1, ge=-1, lt=10_000, description=LAYER)
    threshold: float = Field(
        0.5, ge=-1, le=1, description="Cosine of the centred mean hidden states of two prompts from which on they are of one fact."
    )
    scope: Literal["subject", "likeness"] = Field(
        "subject",
        description="What a prompt must have to be of a fact, beside the likeness: its subject's name, or nothing. Of prompts in the same "
        "words the hidden states alone hardly tell one subject from another.",
    )
    most: int = Field(1, ge=1, le=64, description="Facts at the most that are put before a prompt, the likest last.")
    demonstrations: int = Field(0, ge=0, le=64, description="Demonstrations that stand before a fact; taken from the training facts.")


class IkeConfig(PromptConfig):
    demonstrations: int = Field(4, ge=0, le=64, description="Demonstrations that stand before a fact; taken from the training facts.")


class IceConfig(PromptConfig):
    """In-context editing without demonstrations."""


class MemPromptConfig(PromptConfig):
    before_prompt: ClassVar[str] = ""
    fact: ClassVar[str] = "{prompt} {target}.\n"
    most: int = Field(4, ge=1, le=64, description="Facts at the most that are put before a prompt, the likest last.")


class SeracConfig(PromptConfig):
    before_prompt: ClassVar[str] = ""
    fact: ClassVar[str] = "{prompt} {target}. "


class SeracTrainedConfig(Config):
    threshold: float = Field(0.5, ge=0, le=1, description="Probability of being in a fact's scope above which a prompt is.")
