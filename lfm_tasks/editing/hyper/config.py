"""Config of the step *train_editor*, and the options of the ways to train one and of the methods that edit by one. Light to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lfm_tasks.config import Config, MethodChoice


class TrainEditorConfig(MethodChoice):
    step = "train_editor"

    method: str = Field("mend_editor", description="Kind of editor; `lfm methods` lists them.", json_schema_extra={"section": "Method"})
    options: dict[str, bool | int | float | str] = Field(
        {}, description='Options of the method, e.g. {"span": 3}.', json_schema_extra={"section": "Method"}
    )
    steps: int = Field(400, ge=1, le=1_000_000, description="Steps of training at the most.", json_schema_extra={"section": "Training"})
    edits: int = Field(
        8,
        ge=1,
        le=4096,
        description="Facts that a step edits together at the most; how many is drawn for each step.",
        json_schema_extra={"section": "Training", "unit": "facts"},
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Step size of Adam.", json_schema_extra={"section": "Training"})
    locality: float = Field(
        5.0, ge=0, le=1000, description="Weight of what shall stay, beside the facts' loss.", json_schema_extra={"section": "Training"}
    )
    targets: Literal["drawn", "given"] = Field(
        "drawn",
        description="What facts are taught in training: a target drawn anew for each step from those of the same relation, or their own.",
        json_schema_extra={"section": "Training", "labels": {"drawn": "Drawn anew", "given": "The facts' own"}},
    )
    held_out: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="Share of the subjects that are not trained on; on their facts the best state is chosen.",
        json_schema_extra={"section": "Selection"},
    )
    every: int = Field(
        25, ge=1, le=100_000, description="Steps between two looks at these.", json_schema_extra={"section": "Selection", "unit": "steps"}
    )
    patience: int = Field(
        8,
        ge=0,
        le=100_000,
        description="Looks without a better state after which training ends; 0 goes on to the last step.",
        json_schema_extra={"section": "Selection", "unit": "looks"},
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is drawn at random.", json_schema_extra={"section": "Training"})


class HyperTraining(Config):
    layer: int = Field(
        -1, ge=-1, lt=10_000, description="First layer of the decoder, from 0, that the editor changes; -1 takes a depth that suits it."
    )
    span: int = Field(3, ge=1, le=1000, description="Layers that it changes, from 'layer' on.")
    matrices: Literal["last", "all"] = Field("last", description="Matrices of each layer's MLP that it changes: the last one, or all.")
    rank: int = Field(64, ge=1, le=8192, description="Rank of the network's layers.")
    blocks: int = Field(2, ge=1, le=16, description="Layers of the network.")
    step: float = Field(
        0.02,
        gt=0,
        le=10,
        description="What an editor begins with: the change that one fact's gradient makes, as a share of the matrix's norm.",
    )
    step_rate: float = Field(0.03, gt=0, le=1, description="Step size of Adam for the logarithms of steps and ridges.")


class MendTraining(HyperTraining):
    """As :class:`HyperTraining`."""


class MalmenTraining(HyperTraining):
    ridge: float = Field(
        0.1, gt=0, le=1e6, description="Ridge of the least squares that an editor begins with, in mean squared lengths of its keys."
    )


class SeracTraining(Config):
    layer: int = Field(-1, ge=-1, lt=10_000, description="Layer, from 0, by whose states the scope is told; -1: a middle one.")
    scope_rank: int = Field(64, ge=1, le=8192, description="Width that states are projected to.")
    scope_rate: float = Field(1e-2, gt=0, le=1, description="Step size of Adam for the scope.")
    counterfactual_layer: int = Field(
        -1, ge=-1, lt=10_000, description="First layer that the counterfactual model has changed; -1: a late one."
    )
    span: int = Field(3, ge=1, le=1000, description="Layers that it has changed, from 'counterfactual_layer' on.")
    rank: int = Field(8, ge=1, le=4096, description="Rank of the change of each layer's matrix.")


class HyperOptions(Config):
    strength: float = Field(1.0, gt=0, le=100, description="Factor of what the editor would write.")
