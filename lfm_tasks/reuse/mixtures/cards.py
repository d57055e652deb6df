"""Cards of the mixtures. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card


def _card(
    name: str, title: str, implementation: str, config: str, paper: str, access: tuple[Access, ...], preconditions: str, cost: str
) -> Card:
    return Card(
        name=name,
        area="reuse",
        step="mix",
        title=title,
        config=f"lfm_tasks.reuse.mixtures.config:{config}",
        implementation=f"lfm_tasks.reuse.mixtures.{implementation}",
        paper=paper,
        access=access,
        preconditions=preconditions,
        cost=cost,
    )


CARDS = (
    _card(
        "smile",
        "SMILE",
        "smile:SMILE",
        "SmileConfig",
        "Tang et al. 2024, SMILE: Zero-Shot Sparse Mixture of Low-Rank Experts (arXiv 2408.10174)",
        ("weights",),
        "Fine-tunings of one base.",
        "No training; per layer in -> out and T experts T (k (in + out) + out + gate_rank in) numbers more.",
    ),
)
