"""Models of different vocabularies as if they had one: rows of embeddings and output layers are matched by token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.models.layers import numbered_layers
from lfm_tasks.reuse.checkpoint import Checkpoint, TensorInfo

APPENDED = ("BPE", "WordPiece", "WordLevel")
"""Kinds of tokenizers to whose vocabulary tokens can be appended without moving any other."""
SLOW_FILES = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.model")
"""Would say something else than ``tokenizer.json`` after tokens were appended to it."""


class Aligned(Checkpoint):
    """``whole`` with rows for the tokens of ``vocabulary``, in its order.

    A token that the model lacks has the donor's row; where the donor lacks it as well, the mean of the models that have it.
    """

    def __init__(self, whole: Checkpoint, all_models: Sequence[Checkpoint], vocabulary: dict[str, int], size: int) -> None:
        """The first of ``all_models`` is the donor; ``size`` is the number of rows."""
        self.name, self.key, self.directory = whole.name, whole.key, whole.directory
        self.whole, self.all_models, self.aligned, self.size = whole, list(all_models), vocabulary, size

    @property
    def vocabulary(self) -> dict[str, int]:
        return self.aligned

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        found = self.whole.tensors
        return {name: replace(info, shape=(self.size, *info.shape[1:])) if name in self.by_token else info for name, info in found.items()}

    @cached_property
    def by_token(self) -> set[str]:
        """Tensors with a row for each token: outside of layers, as many rows as the config's ``vocab_size``."""
        layers, rows = numbered_layers(list(self.whole.tensors))[1], _rows_of(self.whole)
        return {name for name, info in self.whole.tensors.items() if name not in layers and info.shape[:1] == (rows,)}

    def read(self, name: str) -> Tensor:
        own = self.whole.read(name)
        if name not in self.by_token:
            return own
        donor = self.all_models[0]
        aligned, missing = own.new_zeros(self.tensors[name].shape), torch.ones(self.size, dtype=torch.bool)
        for model in (self.whole, donor):
            rows = self._rows(model)
            taken = missing & (rows >= 0)
            aligned[taken] = model.read(name)[rows[taken]].to(own.dtype)
            missing &= ~taken
        aligned[missing] = self._mean(name, missing).to(own.dtype)
        return aligned

    def expect(self, name: str) -> None:
        self.whole.expect(name)

    def verify(self) -> None:
        self.whole.verify()

    def _rows(self, model: Checkpoint) -> Tensor:
        """Row of the model for each row of the result, or -1. The donor keeps all of its rows, those of no token included."""
        rows = torch.full((self.size,), -1)
        if model is self.all_models[0]:
            rows[: _rows_of(model)] = torch.arange(_rows_of(model))
        for token, place in self.aligned.items():
            if (row := model.vocabulary.get(token)) is not None:
                rows[place] = row
        return rows

    def _mean(self, name: str, missing: Tensor) -> Tensor:
        total, count = 0, torch.zeros(int(missing.sum()))
        for model in self.all_models[1:]:
            rows = self._rows(model)[missing]
            own = model.read(name).double()[rows.clamp(min=0)]
            there = (rows >= 0).view(-1, *[1] * (own.dim() - 1))
            total, count = total + own * there, count + (rows >= 0)
        return total / count.clamp(min=1).view(-1, *[1] * (total.dim() - 1))


def align(models: Sequence[Checkpoint], union: bool) -> list[Checkpoint]:
    """The models, of which the first is the donor, with the donor's vocabulary or with the union of all.

    The donor's tokens keep their ids; others follow in the order of the models. Raises :class:`IncompatibleModels` for a model
    without ``tokenizer.json`` or ``vocab_size``, and for a union of tokenizers that cannot be joined.
    """
    donor = models[0]
    for model in models:
        if model.vocabulary is None or not _rows_of(model):
            raise IncompatibleModels(f"{model.name} lacks a tokenizer.json or a vocab_size in its config.json. Set vocabulary=same.")
    if all(model.vocabulary == donor.vocabulary and _rows_of(model) == _rows_of(donor) for model in models):
        return list(models)
    vocabulary = dict(donor.vocabulary)
    if union:
        for model in models[1:]:
            _check_joinable(donor, model)
            for token in sorted(model.vocabulary.keys() - vocabulary.keys(), key=model.vocabulary.__getitem__):
                vocabulary[token] = max(vocabulary.values()) + 1
    size = max(_rows_of(donor), max(vocabulary.values()) + 1)
    return [Aligned(model, models, vocabulary, size) for model in models]


def write_union(donor: Checkpoint, directory: Path) -> None:
    """Give the model in ``directory``, which has the donor's tokenizer, the union's (see :func:`align`).

    Pieces are appended to the vocabulary, with the merges that make them; added tokens to the added tokens.
    """
    if not isinstance(donor, Aligned) or donor.vocabulary == donor.whole.vocabulary:
        return
    content = _tokenizer(donor)
    new = {token: place for token, place in donor.vocabulary.items() if token not in donor.whole.vocabulary}
    for model in donor.all_models[1:]:
        _append(content, _tokenizer(model), new)
    for place in (directory, directory / "components" / "tokenizer"):
        (place / "tokenizer.json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        for name in SLOW_FILES:
            (place / name).unlink(missing_ok=True)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": donor.size}, indent=2, sort_keys=True) + "\n")


def _append(content: dict[str, Any], other: dict[str, Any], new: dict[str, int]) -> None:
    """Put into the tokenizer ``content`` what ``other`` has of the ``new`` tokens, and its merges."""
    pieces, added = other["model"]["vocab"], {token["content"]: token for token in other["added_tokens"]}
    taken = {token["content"] for token in content["added_tokens"]}
    content["added_tokens"] += [added[token] | {"id": place} for token, place in new.items() if token in added.keys() - taken]
    content["model"]["vocab"] |= {token: place for token, place in new.items() if token in pieces and token not in added}
    if "merges" in content["model"]:
        merges = dict.fromkeys([*map(_pair, content["model"]["merges"]), *map(_pair, other["model"]["merges"])])
        content["model"]["merges"] = [list(pair) for pair in merges]


def _check_joinable(donor: Checkpoint, other: Checkpoint) -> None:
    mine, theirs = _tokenizer(donor), _tokenizer(other)
    kinds = {content["model"].get("type") for content in (mine, theirs)}
    if len(kinds) > 1 or not kinds <= set(APPENDED) or mine.get("pre_tokenizer") != theirs.get("pre_tokenizer"):
        raise IncompatibleModels(
            f"The tokenizers of {donor.name} ({mine['model'].get('type')}) and {other.name} ({theirs['model'].get('type')}) have no union: "
            f"they must be of one kind, out of {', '.join(APPENDED)}, and split text alike. Set vocabulary=base."
        )


def _rows_of(checkpoint: Checkpoint) -> int:
    return json.loads((checkpoint.directory / "config.json").read_text()).get("vocab_size", 0)


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    return json.loads((checkpoint.directory / "tokenizer.json").read_text(encoding="utf-8"))


def _pair(merge: str | list[str]) -> tuple[str, ...]:
    return tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
