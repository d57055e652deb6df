"""SERAC with a trained scope classifier and counterfactual model. How they are used: models/memories/serac.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lfm_tasks.editing.hyper.artifact import given_editor
from lfm_tasks.editing.memory.config import SeracConfig, SeracTrainedConfig
from lfm_tasks.editing.memory.prompts import told
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.memories.prompting import embed
from lfm_tasks.models.memories.serac import scope_tensors
from lfm_tasks.models.memories.texts import packed, unpacked


def serac(editing: Editing, facts: Sequence[Fact], options: SeracTrainedConfig) -> Edit:
    """A fact is stored as the text that tells it, with its prompt's mean hidden state; beside the facts is what was trained, so that the
    memory needs the base alone."""
    state = editing.state
    if "scope.project" in state:
        trained = scope_tensors(state)
    else:
        editor = given_editor(editing, "serac_editor")
        trained = scope_tensors({name: editor.read(name).clone() for name in editor.tensors})
    mine = embed(editing.model, editing.tokenizer, [fact.text for fact in facts], int(trained["layer"]), trained["centre"])
    texts = {
        "ids": [fact.id for fact in facts],
        "blocks": [told(SeracConfig.fact, fact) for fact in facts],
        "subjects": [fact.subject for fact in facts],
    }
    stored = {key: tensor for name, new in texts.items() for key, tensor in packed(name, unpacked(name, state) + new).items()}
    embeddings = torch.cat([state["embeddings"], mine]) if "embeddings" in state else mine
    fixed = {**trained, **packed("before_prompt", [SeracConfig.before_prompt])}
    return Edit((), {**stored, **fixed, "embeddings": embeddings}, tuple({} for _ in facts), {"facts": float(len(embeddings))})


SERAC = EditMethod(edit=serac, memory=True)
