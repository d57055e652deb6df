"""Cards of the methods that write facts into weights by gradients. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card


def _card(name: str, title: str, implementation: str, config: str, paper: str, preconditions: str, cost: str) -> Card:
    return Card(
        name=name,
        area="editing",
        step="edit",
        title=title,
        config=f"lfm_tasks.editing.tuned.config:{config}",
        implementation=f"lfm_tasks.editing.tuned.{implementation}",
        paper=paper,
        access=("weights", "gradients", "text"),
        preconditions=preconditions,
        cost=cost,
    )


CARDS = (
    _card(
        "ft_m",
        "FT-M",
        "finetune:FT_M",
        "FtmConfig",
        "Zhang et al. 2024, A Comprehensive Study of Knowledge Editing for Large Language Models (arXiv 2401.01286)",
        "The baseline that every other method has to beat.",
        "A forward pass and a backward pass down to the layer for each step; keeps a whole matrix.",
    ),
    _card(
        "ft_l",
        "FT-L",
        "finetune:FT_L",
        "FtlConfig",
        "Zhu et al. 2020, Modifying Memories in Transformer Models (arXiv 2012.00363); as in Meng et al. 2022 (arXiv 2202.05262)",
        "A ball wide enough for the model: the published one does nothing to a small model.",
        "As FT-M.",
    ),
    _card(
        "lora_edit",
        "LoRA edit",
        "lora:LORA_EDIT",
        "LoraEditConfig",
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685)",
        "None.",
        "As FT-M; keeps rank (in + out) numbers a layer.",
    ),
    _card(
        "ultraedit",
        "UltraEdit",
        "ultraedit:ULTRAEDIT",
        "UltraEditConfig",
        "Gu et al. 2025, UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models (arXiv 2505.14679)",
        "Several facts in a round: one alone says little of what is usual.",
        "One forward and one backward pass, and a system of as many unknowns as tokens; no training, no statistics.",
    ),
)
