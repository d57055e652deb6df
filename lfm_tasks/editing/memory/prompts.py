"""IKE, ICE, MemPrompt and SERAC without training: write down how each fact is told. How it is found: models/memories/prompting.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch

from lfm_tasks.editing.memory.config import PromptConfig
from lfm_tasks.editing.memory.elsewhere import PLAIN
from lfm_tasks.editing.method import Edit, Editing, EditMethod
from lfm_tasks.errors import DataError
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.decoder import site_at
from lfm_tasks.models.memories.prompting import SEPARATOR, embed
from lfm_tasks.models.memories.texts import packed, unpacked

DEPTH = 0.9
KINDS = ("update", "retain", "retain", "update", "copy", "retain", "update", "retain")
"""Of demonstrations, from the nearest: copy, update and retain as 1 : 3 : 4 (Zheng et al. 2023, section 3.2)."""


def prompt_memory(editing: Editing, facts: Sequence[Fact], options: PromptConfig) -> Edit:
    """No training: a fact is stored as the text that tells it, with the direction of its prompt's mean hidden state."""
    model, tokenizer, state = editing.model, editing.tokenizer, editing.state
    layer = site_at(editing.decoder, options.layer, DEPTH).layer
    centre = state["centre"] if "centre" in state else embed(model, tokenizer, list(PLAIN), layer).mean(0)
    mine = embed(model, tokenizer, [fact.text for fact in facts], layer, centre)
    if options.demonstrations and not editing.training:
        raise DataError("Demonstrations are taken from the training facts, and there are none. Give training facts, or demonstrations 0.")
    examples = embed(model, tokenizer, [fact.text for fact in editing.training], layer, centre) if options.demonstrations else None
    blocks = []
    for fact, one in zip(facts, mine, strict=True):
        nearest = (examples @ one).argsort(descending=True, stable=True).tolist() if examples is not None else []
        shown = [
            demonstration(editing.training[at], kind) for at, kind in zip(nearest[: options.demonstrations], cycle(KINDS), strict=False)
        ]
        blocks.append(SEPARATOR.join([*reversed(shown), told(options.fact, fact)]))
    texts = packed("ids", unpacked("ids", state) + [fact.id for fact in facts]) | packed("blocks", unpacked("blocks", state) + blocks)
    texts |= packed("subjects", unpacked("subjects", state) + [fact.subject for fact in facts])
    embeddings = torch.cat([state["embeddings"], mine]) if "embeddings" in state else mine
    fixed = {"centre": centre, "layer": torch.tensor(layer), **packed("before_prompt", [options.before_prompt])}
    return Edit((), {**texts, **fixed, "embeddings": embeddings}, tuple({} for _ in facts), {"facts": float(len(embeddings))})


def told(template: str, fact: Fact) -> str:
    """``template`` with {prompt} and {target} in their places; braces in the fact itself are text."""
    before, _, rest = template.partition("{prompt}")
    between, _, after = rest.partition("{target}")
    return f"{before}{fact.text.rstrip(' ')}{between}{fact.target_new}{after}"


def demonstration(fact: Fact, kind: str) -> str:
    """A fact, and a question beside it: the same (copy), a paraphrase (update) or a neighbour that stays (retain); copy where the fact has
    none of these."""
    question, answer = fact.text, fact.target_new
    if kind == "update" and fact.paraphrases:
        question = fact.paraphrases[0]
    if kind == "retain" and fact.neighbours:
        question, answer = fact.neighbours[0].prompt, fact.neighbours[0].answers[0]
    return f"New Fact: {fact.text} {fact.target_new}\nPrompt: {question} {answer}\n\n"


PROMPTS = EditMethod(edit=prompt_memory, memory=True)
