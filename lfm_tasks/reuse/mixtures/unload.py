"""The step *unload*: the plain model that a mixture is, where its weights do not depend on the input. Any client opens it."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import save_file

from lfm_tasks.errors import InvalidInput
from lfm_tasks.models.mixtures.files import is_mixture
from lfm_tasks.models.mixtures.installing import unloaded
from lfm_tasks.models.safety import check_model_directory
from lfm_tasks.models.saving import save_companions
from lfm_tasks.reuse.mixtures.config import UnloadConfig
from lfm_tasks.reuse.mixtures.method import skeleton
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: UnloadConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    source, directory = inputs["model"], context.workdir / "model"
    check_model_directory(source.path)
    if not is_mixture(source.path):
        raise InvalidInput(f"{source.reference} is a plain model already. Give a mixture that the step 'mix' made.")
    tensors = unloaded(skeleton(source.path), source.path, config.preference)
    directory.mkdir(parents=True)
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, directory / "model.safetensors", {"format": "pt"})
    save_companions(source.path, directory)
    parameters = float(sum(tensor.numel() for tensor in tensors.values()))
    return Outcome(outputs={"model": Output("model", directory)}, metrics={"parameters": parameters})
