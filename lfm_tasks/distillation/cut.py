"""The step *cut_student*: a smaller model from a teacher's own layers and units, to begin distillation with.

Depth: Sanh et al. 2019, DistilBERT (arXiv 1910.01108). Width: Xu et al. 2024, Initializing Models with Larger Ones
(arXiv 2311.18823): evenly spaced indices of every axis, the same ones wherever the axis appears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.distillation.config import CutStudentConfig
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.layers import numbered_layers, with_layers
from lfm_tasks.models.mixtures.files import refuse_mixture
from lfm_tasks.models.opening import is_classifier, model_directory, open_model
from lfm_tasks.models.saving import save_model
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: CutStudentConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    source = inputs["teacher"]
    refuse_mixture(source.path, source.reference)
    teacher = open_model(source)
    student, layers = cut(teacher, config, source.reference)
    directory = context.workdir / "model"
    labels = [teacher.config.id2label[place] for place in range(teacher.config.num_labels)] if is_classifier(teacher.config) else None
    save_model(student, model_directory(source), directory, labels=labels)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (teacher, student)]
    context.log(f"Layers {layers} of {source.reference}: {sizes[1]:,} of {sizes[0]:,} parameters.")
    return Outcome(
        outputs={"model": Output("model", directory)},
        metrics={"layers": float(len(layers)), "parameters": float(sizes[1]), "share_of_parameters": sizes[1] / sizes[0]},
        summary={"teacher": source.reference, "layers": layers, "width": config.width, "parameters": sizes[1]},
    )


def cut(teacher: PreTrainedModel, config: CutStudentConfig, name: str) -> tuple[PreTrainedModel, list[int]]:
    """The student, and the numbers of the teacher's layers that it is made of.

    Raises :class:`ConfigError` for layers or sizes that the teacher does not have, :class:`IncompatibleModels` where its layers
    are not numbered, or where no model of those sizes can be made.
    """
    tensors = teacher.state_dict()
    prefix, numbers = numbered_layers(list(tensors))
    count = max(numbers.values(), default=-1) + 1
    layers = config.layers or evenly(count, config.depth or (count if config.width else -(-count // 2)))
    if not count or max(layers) >= count or len(layers) > count:
        raise ConfigError(f"layers {layers or config.depth}: {name} has {count} layers, numbered from 0.")
    before = teacher.config.to_dict()
    settings = with_layers(name, before, count, [(before, layer) for layer in layers]) | config.width
    if larger := [key for key, value in config.width.items() if not isinstance(before.get(key), int) or value > before[key]]:
        raise ConfigError(f"width: {larger[0]} of {name} is {before.get(larger[0])}, and {config.width[larger[0]]} is no cut of it.")
    try:
        student = type(teacher)(type(teacher.config).from_dict(settings))
    except (ValueError, StrictDataclassError) as error:
        why = str(error.__cause__ or error)
        raise IncompatibleModels(f"No {type(teacher).__name__} has these sizes: {why} Change width.") from None
    wanted, place_of = student.state_dict(), dict(enumerate(layers))
    found = {}
    for one, like in wanted.items():
        number = numbered_layers([one])[1].get(one) if one.startswith(prefix) else None
        theirs = tensors[one if number is None else f"{prefix}{place_of[number]}{one.removeprefix(f'{prefix}{number}')}"]
        found[one] = narrowed(theirs, like.shape, _axis(before, settings))
    student.load_state_dict(found)
    return student.eval(), layers


def evenly(count: int, chosen: int) -> list[int]:
    """``chosen`` of the numbers below ``count``, from the first to the last; of one the first."""
    return [round(place * (count - 1) / max(1, chosen - 1)) for place in range(chosen)]


def narrowed(tensor: Tensor, shape: Sequence[int], axis: Mapping[str, int]) -> Tensor:
    """The units of ``tensor`` that are kept along every axis that is shorter in ``shape``."""
    for dimension, (before, after) in enumerate(zip(tensor.shape, shape, strict=True)):
        if before != after:
            tensor = tensor.index_select(dimension, kept_units(before, after, **axis))
    return tensor.clone()


def kept_units(before: int, after: int, width: int, narrow: int, head: int) -> Tensor:
    """Which units of an axis are kept, by its lengths alone, so that every tensor which has it keeps the same ones.

    Fused axes (queries, keys and values in one) are several of the model's ``width``, cut to ``narrow`` each; whole heads of
    ``head`` units are kept where both lengths are made of them.
    """
    if before % width == 0 and after % narrow == 0 and before // width == after // narrow > 1:
        part = kept_units(width, narrow, width, narrow, head)
        return torch.cat([part + start for start in range(0, before, width)])
    block = head if before % head == 0 and after % head == 0 else 1
    starts = torch.tensor(evenly(before // block, after // block))
    return (starts[:, None] * block + torch.arange(block)).reshape(-1)


def _axis(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    width = before.get("hidden_size") or before["n_embd"]
    heads = before.get("num_attention_heads") or before["n_head"]
    return {"width": width, "narrow": after.get("hidden_size") or after["n_embd"], "head": before.get("head_dim") or width // heads}
