"""T-Patcher (Huang et al. 2023, arXiv 2301.09785): a few more neurons in the last MLP, MLP(h) + sum_p relu(k_p h + b_p) v_p."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.placed import Placed
from lfm_tasks.models.memories.rows import check_width
from lfm_tasks.models.memories.texts import packed, unpacked


def respond(keys: Tensor, biases: Tensor, values: Tensor, h: Tensor, output: Tensor) -> Tensor:
    """``keys`` [neurons, in], ``biases`` [neurons], ``values`` [neurons, out], ``h`` [..., in]; where none fires ``output``."""
    return output + (torch.relu(h.float() @ keys.T + biases) @ values).to(output.dtype)


def mlp(model: PreTrainedModel) -> nn.Module:
    """The last layer's MLP. Raises :class:`IncompatibleModels` for a model whose layers have none of their own."""
    decoder = Decoder(model)
    name = decoder.sites[-1].name.rsplit(".", 2)[0]
    if model.get_submodule(name) is decoder.layers[-1]:
        raise IncompatibleModels(
            f"The layers of {type(model).__name__} have no MLP module that could get more neurons. Choose another method."
        )
    return model.get_submodule(name)


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> RemovableHandle:
    check_width(memory.tensors, "values", model.config.hidden_size, "the MLP's output")
    neurons = Placed(*(memory.tensors[name] for name in ("keys", "biases", "values")))

    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return respond(*neurons.on(output.device), given[0], output)

    return mlp(model).register_forward_hook(hook)


def forget(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Several neurons may be one fact's: ``fact`` [neurons] says whose each is."""
    kept, known = tensors["fact"] != place, unpacked("ids", tensors)
    left = {name: tensors[name][kept] for name in ("keys", "biases", "values", "fact")}
    left["fact"] = left["fact"] - (left["fact"] > place).long()
    return {**tensors, **left, **packed("ids", known[:place] + known[place + 1 :])}
