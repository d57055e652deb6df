"""A mixture on disk: a plain model's tensors, the experts' tensors beside them, and what is mixed where.

No file is named as a stock client expects weights to be, and there is no ``MLmodel``: ``from_pretrained`` refuses the directory,
where it would otherwise open the base without its experts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lfm_tasks.errors import IncompatibleModels, InvalidInput
from lfm_tasks.models.saving import save_companions

FORMAT = 1
DESCRIPTION = "lfm_mixture.json"
BASE_WEIGHTS = "base.safetensors"
EXPERT_WEIGHTS = "experts.safetensors"


@dataclass(frozen=True)
class Description:
    """The content of ``lfm_mixture.json``."""

    method: str
    experts: int
    modules: dict[str, Any]
    """What is mixed, by its name in the base; what each entry says is the method's own."""
    options: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def is_mixture(directory: Path) -> bool:
    return (directory / DESCRIPTION).is_file()


def refuse_mixture(directory: Path, where: str) -> None:
    """Raise :class:`IncompatibleModels` for a mixture, where a model of one set of weights is needed."""
    if is_mixture(directory):
        raise IncompatibleModels(
            f"{where} is a mixture ({read_description(directory).method}), which has no single set of weights. Evaluate it as it is, "
            "or make a plain model of it by the step 'unload' where its method allows that."
        )


def read_description(directory: Path) -> Description:
    """Raises :class:`InvalidInput` for a file of another format, or one that is not whole."""
    try:
        content = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InvalidInput(f"{DESCRIPTION} has format {content['format']!r}; this version reads {FORMAT}. Mix the models again.")
        return Description(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{DESCRIPTION} cannot be read ({type(error).__name__}: {error}). Mix the models again.") from None


def save_mixture(
    description: Description, base: Mapping[str, Tensor], experts: Mapping[str, Tensor], companions: Path, directory: Path
) -> None:
    """``companions`` is the model directory whose config and tokenizer the mixture has. Same tensors, same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    save_companions(companions, directory, stock=False)
    for name, tensors in ((BASE_WEIGHTS, base), (EXPERT_WEIGHTS, experts)):
        save_file({key: tensors[key].detach().contiguous() for key in sorted(tensors)}, directory / name, {"format": "pt"})
    (directory / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def base_tensors(directory: Path) -> dict[str, Tensor]:
    return load_file(_there(directory, BASE_WEIGHTS))


def expert_tensors(
    directory: Path, layout: Mapping[str, tuple[int, ...]], dtype: torch.dtype, without: Collection[str] = ()
) -> dict[str, Tensor]:
    """The experts' tensors, numbers in ``dtype``, ``without`` those of some modules.

    Raises :class:`IncompatibleModels` unless names and shapes are those of ``layout``.
    """
    tensors = load_file(_there(directory, EXPERT_WEIGHTS))
    tensors = {key: tensor for key, tensor in tensors.items() if not any(key.startswith(f"{name}.") for name in without)}
    for name in sorted(layout.keys() | tensors.keys()):
        wanted, given = layout.get(name), tensors.get(name)
        if wanted is None or given is None or tuple(wanted) != tuple(given.shape):
            has = "absent" if given is None else f"{list(given.shape)}"
            needs = "no such tensor" if wanted is None else f"{list(wanted)}"
            raise IncompatibleModels(
                f"{EXPERT_WEIGHTS} does not fit {DESCRIPTION}: '{name}' is {has}, and {needs} is expected. Mix the models again."
            )
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def mixed_modules(model: nn.Module, description: Description, backbone: bool = False) -> dict[str, str]:
    """{name in the description: name in ``model``}; ``backbone`` leaves out what is mixed above it.

    ``model`` is the mixture's base, or has it as its backbone, or is its backbone. Raises :class:`IncompatibleModels` for a name that
    ``model`` does not have.
    """
    known, prefix = dict(model.named_modules()), f"{getattr(model, 'base_model_prefix', '')}."
    names = list(description.modules)
    if backbone and any(name.startswith(prefix) for name in names):
        names = [name for name in names if name.startswith(prefix)]
    found = {}
    for name in names:
        place = next((one for one in (name, prefix + name, name.removeprefix(prefix)) if one in known), None)
        if place is None:
            raise IncompatibleModels(
                f"{DESCRIPTION} mixes '{name}', which {type(model).__name__} does not have. Open it as the model that was mixed."
            )
        found[name] = place
    return found


def _there(directory: Path, name: str) -> Path:
    if not (directory / name).is_file():
        raise InvalidInput(f"The mixture has no {name}. Fetch it again, whole, or mix the models again.")
    return directory / name
