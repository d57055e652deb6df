"""Texts as tensors, so that a memory is nothing but named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def packed(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """``name.bytes`` [total], UTF-8, and ``name.ends`` [texts]."""
    encoded = [text.encode() for text in texts]
    return {
        f"{name}.bytes": torch.tensor(list(b"".join(encoded)), dtype=torch.uint8),
        f"{name}.ends": torch.tensor([len(one) for one in encoded], dtype=torch.int64).cumsum(0),
    }


def unpacked(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """None where there is no such text: the memory is new."""
    if f"{name}.ends" not in tensors:
        return []
    whole, ends = bytes(tensors[f"{name}.bytes"].tolist()), tensors[f"{name}.ends"].tolist()
    return [whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
