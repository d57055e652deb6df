"""Config of the step *prepare_images*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lfm_tasks.config import Config
from lfm_tasks.data.config import COLUMN


def _section(name: str, **extra: Any) -> dict[str, Any]:
    return {"section": name, **extra}


class PrepareImagesConfig(Config):
    image_column: str = Field(
        "image", pattern=COLUMN, description="Column with the image: PNG or JPEG bytes.", json_schema_extra=_section("Rows")
    )
    label_column: str = Field("label", pattern=COLUMN, description="Column with the label.", json_schema_extra=_section("Rows"))
    image_size: int = Field(
        0,
        ge=0,
        le=1024,
        description="Scale every image to this height and width; 0 leaves them, and they must be of one size.",
        json_schema_extra=_section("Rows", unit="pixels"),
    )
    max_train_samples: int | None = Field(
        None, ge=1, le=100_000_000, description="Keep at most so many training images; empty for all.", json_schema_extra=_section("Size")
    )
    max_eval_samples: int | None = Field(
        2000,
        ge=1,
        le=100_000_000,
        description="Keep at most so many images in validation and in test each; empty for all.",
        json_schema_extra=_section("Size"),
    )
    split_by: Literal["hash", "column", "file"] = Field(
        "column",
        description="How an image gets its split; a file's name says train, validation or test.",
        json_schema_extra=_section(
            "Splits", labels={"hash": "Hash of its pixels", "column": "A column of the data", "file": "Its file's name"}
        ),
    )
    split_column: str = Field(
        "split", pattern=COLUMN, description="Column that names the split, for split_by column.", json_schema_extra=_section("Splits")
    )
    validation_fraction: float = Field(
        0.1, ge=0, le=1, description="Share of images for validation, where the data do not say.", json_schema_extra=_section("Splits")
    )
    test_fraction: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of images for the test, where the data do not say.",
        json_schema_extra=_section("Splits"),
    )
    leakage: Literal["refuse", "drop"] = Field(
        "drop",
        description="What to do when a given split holds an image of a later one.",
        json_schema_extra=_section("Splits", labels={"refuse": "Refuse the data", "drop": "Drop the images and count them"}),
    )
    deduplicate: bool = Field(True, description="Keep one of equal images of one label.", json_schema_extra=_section("Splits"))
    seed: int = Field(0, ge=0, lt=2**31, description="Salt of the split and of the order.", json_schema_extra=_section("Splits"))

    @model_validator(mode="after")
    def _fits_together(self) -> PrepareImagesConfig:
        if self.validation_fraction + self.test_fraction > 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} are more than 1 together; lower one"
            )
        return self

    @property
    def columns(self) -> list[str]:
        return [self.image_column, self.label_column]

    @property
    def input_columns(self) -> list[str]:
        """Images that are equal here never lie in different splits."""
        return [self.image_column]

    @property
    def has_labels(self) -> bool:
        return True

    @property
    def part_column(self) -> str:
        """Images have no parts with shares of the loss."""
        return ""

    @property
    def group_column(self) -> str:
        """Nor groups that stay together."""
        return ""
