"""Cards of the methods that locate a fact and write it there. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card

STATISTICS = "A decoder, and second moments of its keys (key_moments); facts whose prompts name their subject."


def _card(name: str, title: str, implementation: str, config: str, paper: str, cost: str) -> Card:
    return Card(
        name=name,
        area="editing",
        step="edit",
        title=title,
        config=f"lfm_tasks.editing.methods.config:{config}",
        implementation=f"lfm_tasks.editing.methods.{implementation}",
        paper=paper,
        access=("weights", "activations", "gradients", "probabilities"),
        preconditions=STATISTICS,
        cost=cost,
        needs="key_moments",
    )


CARDS = (
    _card(
        "rome",
        "ROME",
        "rome:ROME",
        "RomeOptions",
        "Meng et al. 2022 (arXiv 2202.05262); consistent keys by Gupta et al. 2024, Rebuilding ROME (arXiv 2403.07175)",
        "A few tens of passes through the layers above, one fact at a time; earlier edits are not protected.",
    ),
    _card(
        "memit",
        "MEMIT",
        "batch:MEMIT",
        "MemitOptions",
        "Meng et al. 2023, Mass-Editing Memory in a Transformer (arXiv 2210.07229)",
        "A few tens of passes through the layers above, for many facts at once, and a system of as many unknowns as facts for each layer.",
    ),
    _card(
        "emmet",
        "EMMET",
        "batch:EMMET",
        "EmmetOptions",
        "Gupta et al. 2024, A Unified Framework for Model Editing (arXiv 2403.14236)",
        "As MEMIT. Facts whose keys are alike pull at each other hard.",
    ),
    _card(
        "pmet",
        "PMET",
        "batch:PMET",
        "PmetOptions",
        "Li et al. 2024, PMET: Precise Model Editing in a Transformer (arXiv 2308.08742)",
        "As MEMIT.",
    ),
    _card(
        "alphaedit",
        "AlphaEdit",
        "batch:ALPHAEDIT",
        "AlphaEditOptions",
        "Fang et al. 2025, AlphaEdit: Null-Space Constrained Knowledge Editing (arXiv 2410.02355)",
        "As MEMIT, and an eigenvalue decomposition [d_k, d_k] for each layer, once.",
    ),
)
