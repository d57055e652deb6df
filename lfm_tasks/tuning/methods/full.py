"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from transformers import PreTrainedModel

from lfm_tasks.tuning.methods.config import FullConfig


class FullTuning:
    adapter = False

    def apply(self, model: PreTrainedModel, config: FullConfig, seed: int) -> PreTrainedModel:
        model.requires_grad_(True)
        if config.freeze_embeddings:
            for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
                if embedding is not None:
                    embedding.requires_grad_(False)
        return model

    def training(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        return model


FULL = FullTuning()
