"""Cards of the ways to train an editor, and of the methods that edit by one. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card

MEND = "Mitchell et al. 2022, Fast Model Editing at Scale (arXiv 2110.11309)"
MALMEN = "Tan et al. 2024, Massive Editing for Large Language Models via Meta Learning (arXiv 2311.04661)"


def _trained(name: str, title: str, implementation: str, config: str, paper: str, cost: str) -> Card:
    return Card(
        name=name,
        area="editing",
        step="train_editor",
        title=title,
        config=f"lfm_tasks.editing.hyper.config:{config}",
        implementation=f"lfm_tasks.editing.hyper.{implementation}",
        paper=paper,
        access=("weights", "gradients", "activations", "text"),
        preconditions="A decoder, and many facts with paraphrases and neighbours, of other subjects than those that will be edited.",
        cost=cost,
    )


def _edit(name: str, title: str, implementation: str, paper: str, preconditions: str, cost: str) -> Card:
    return Card(
        name=name,
        area="editing",
        step="edit",
        title=title,
        config="lfm_tasks.editing.hyper.config:HyperOptions",
        implementation=f"lfm_tasks.editing.hyper.{implementation}",
        paper=paper,
        access=("weights", "gradients", "activations", "text"),
        preconditions=preconditions,
        cost=cost,
        needs=f"{name}_editor",
    )


CARDS = (
    _trained(
        "mend_editor",
        "Editor for MEND",
        "training:train_mend",
        "MendTraining",
        MEND,
        "For each step two passes forwards and backwards over its facts, one forwards over what shall stay; the network is small.",
    ),
    _trained(
        "malmen_editor",
        "Editor for MALMEN",
        "training:train_malmen",
        "MalmenTraining",
        MALMEN,
        "As for MEND, and a system of as many unknowns as the facts' tokens for each matrix.",
    ),
    _trained(
        "serac_editor",
        "Scope and counterfactual model for SERAC",
        "serac:train_serac",
        "SeracTraining",
        "Mitchell et al. 2022, Memory-Based Model Editing at Scale (arXiv 2206.06520)",
        "One pass over every prompt, once; for each step one forwards and backwards over a few facts that are told and asked for.",
    ),
    _edit(
        "mend",
        "MEND",
        "mend:MEND",
        MEND,
        "An editor that was trained for the model (train_editor, method mend_editor). A few facts in a round; many pull at each other.",
        "One forward and one backward pass.",
    ),
    _edit(
        "malmen",
        "MALMEN",
        "malmen:MALMEN",
        MALMEN,
        "An editor that was trained for the model (train_editor, method malmen_editor).",
        "One forward and one backward pass, and a system of as many unknowns as the facts' tokens for each matrix.",
    ),
)
