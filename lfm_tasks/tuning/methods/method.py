"""What the tune step asks of a method. A new method is a module with an object of this shape, and its card."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn
from transformers import PreTrainedModel

Task = Literal["causal_lm", "classification"]


class TuningMethod(Protocol):
    adapter: bool
    """True: :meth:`save` writes an adapter; False: the whole model is what was trained, and there is no :meth:`save`."""

    def apply(self, model: PreTrainedModel, config: Any, seed: int) -> nn.Module:
        """The model to train: ``requires_grad`` marks what the method changes. The forward pass is still the base's.

        Heads of a classifier, and what was drawn at random when it was opened, train always. Raises
        :class:`~lfm_tasks.errors.InvalidInput` where the model lacks what the method needs.
        """

    def training(self, model: nn.Module) -> AbstractContextManager[None]:
        """Entered while the model trains: a place for faster kernels of the same function."""

    def save(self, model: nn.Module, directory: Path, *, base_sha256: str, task: Task, labels: list[str]) -> None:
        """Write the adapter artifact. Only a method whose :attr:`adapter` is True has it."""

    def merge(self, model: nn.Module) -> PreTrainedModel:
        """The plain model with the update in its weights. ``model`` is used up."""
