"""WISE (Wang et al. 2024, arXiv 2405.14768): changes of one matrix that stand beside it; the size of a change's answer routes a token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from lfm_tasks.models.memories.placed import Placed
from lfm_tasks.models.memories.rows import check_width
from lfm_tasks.models.memories.texts import unpacked


def respond(deltas: Tensor, thresholds: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """``output`` [..., out] plus D x for the change D of ``deltas`` [shards, out, in] whose |D x| is the largest of those above their
    ``thresholds`` [shards]; plain ``output`` where none is. Decided for each token of ``x`` [..., in] by itself."""
    shifts = torch.einsum("...i,koi->...ko", x.float(), deltas)
    activations = shifts.norm(dim=-1)
    above = torch.where(activations > thresholds, activations, torch.zeros_like(activations))
    largest, shard = above.max(-1)
    chosen = shifts.gather(-2, shard[..., None, None].expand(*shard.shape, 1, shifts.shape[-1])).squeeze(-2)
    return torch.where((largest > 0).unsqueeze(-1), output + chosen.to(output.dtype), output)


def ties(deltas: Tensor, density: float) -> Tensor:
    """One change [out, in] of ``deltas`` [shards, out, in] (Yadav et al. 2023, arXiv 2306.01708): of each the ``density`` largest entries;
    of each entry the sign of the sum, and the mean of those that have it."""
    kept = max(1, int(density * deltas[0].numel()))
    trimmed = torch.stack([one * (one.abs() >= one.abs().flatten().kthvalue(one.numel() - kept + 1).values) for one in deltas])
    agree = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)


def threshold(delta: Tensor, keys: Tensor, ratio: float) -> Tensor:
    """``ratio`` times the smallest |D k| of the ``keys`` [tokens, in] that were written."""
    return ratio * (keys @ delta.T).norm(dim=-1).min()


def read(memory: Memory) -> tuple[Tensor, Tensor]:
    """Changes [shards, out, in] and their thresholds [shards], merged into one where the options say so."""
    deltas, keys, shard = (memory.tensors[name] for name in ("deltas", "keys", "key_shard"))
    if memory.options["combine"] == "merge":
        deltas, shard = ties(deltas, memory.options["density"])[None], torch.zeros_like(shard)
    ratio = memory.options["ratio"]
    return deltas, torch.stack([threshold(delta, keys[shard == place], ratio) for place, delta in enumerate(deltas)])


def install(model: PreTrainedModel, memory: Memory, tokenizer: PreTrainedTokenizerBase) -> RemovableHandle:
    site = Decoder(model).site(int(memory.tensors["layer"]))
    check_width(memory.tensors, "deltas", site.matrix.shape[1], site.name)
    changes = Placed(*read(memory))

    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return respond(*changes.on(output.device), given[0], output)

    return site.module.register_forward_hook(hook)


def forget(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    together = [fact for fact, shard in zip(unpacked("ids", tensors), tensors["shard"], strict=True) if shard == tensors["shard"][place]]
    raise ConfigError(
        f"WISE has written {', '.join(together)} into one change of the matrix, so none of them can be taken out alone. "
        "Go back to the version before that round, and edit the others again."
    )
