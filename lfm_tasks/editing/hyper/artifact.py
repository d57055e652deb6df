"""Editors as artifacts of the kind *statistics*: what was learnt about one model, and useless to any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lfm_tasks.editing.hyper.network import Editor, described_matrices, opened
from lfm_tasks.editing.method import Editing
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.statistics import Statistics, write_statistics


def write_editor(directory: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    write_statistics(directory, tensors, {**description, "tensors": {name: {"stored_as": name} for name in tensors}})


def given_editor(editing: Editing, kind: str) -> Statistics:
    """Raises :class:`ConfigError` where none was given, and :class:`IncompatibleModels` for one of another kind."""
    if editing.editor is None:
        raise ConfigError(
            f"The method needs an editor that was trained for this model: make one by the step 'train_editor' with method={kind}, and give "
            "it as the input 'editor'."
        )
    if editing.editor.kind != kind:
        raise IncompatibleModels(
            f"{editing.editor.reference} is of the kind {editing.editor.kind}, not {kind}. Give an editor that the step 'train_editor' "
            f"made with method={kind}."
        )
    return editing.editor


def editor_for(editing: Editing, kind: str) -> Editor:
    """Where the model is. Raises as :func:`given_editor` does."""
    given = given_editor(editing, kind)
    options = given.description["options"]
    tensors = {name: given.read(name) for name in given.tensors}
    return opened(given.description["matrices"], options["rank"], options["blocks"], tensors).to(editing.model.device)


def hyper_description(editor: Editor) -> dict[str, Any]:
    return {"matrices": described_matrices(editor)}
