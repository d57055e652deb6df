"""Cards of the alignment methods. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card

PACKAGE = "lfm_tasks.reuse.alignment"
WEIGHTS: tuple[Access, ...] = ("weights",)
ACTIVATIONS: tuple[Access, ...] = ("weights", "activations")
STRUCTURE = "Two models of one architecture; units are found by following one forward pass."


def _card(name: str, title: str, implementation: str, config: str, paper: str, access: tuple[Access, ...], needs: str, cost: str) -> Card:
    return Card(
        name=name,
        area="reuse",
        step="align",
        title=title,
        config=f"{PACKAGE}.config:{config}",
        implementation=f"{PACKAGE}.{implementation}",
        paper=paper,
        access=access,
        preconditions=f"{STRUCTURE} {needs}",
        cost=cost,
    )


CARDS = (
    _card(
        "weight_matching",
        "Weight matching",
        "weight_matching:WEIGHT_MATCHING",
        "WeightMatchingConfig",
        "Ainsworth et al. 2023, Git Re-Basin (arXiv 2209.04836)",
        WEIGHTS,
        "No data. The result computes the same and is meant for merge.",
        "A matrix product and an assignment for each group of units and sweep.",
    ),
    _card(
        "activation_matching",
        "Activation matching",
        "activation_matching:ACTIVATION_MATCHING",
        "ActivationMatchingConfig",
        "Li et al. 2016, Convergent Learning (arXiv 1511.07543); Ainsworth et al. 2023, Git Re-Basin (arXiv 2209.04836)",
        ACTIVATIONS,
        "Rows of the models' task. The result computes the same and is meant for merge.",
        "A forward pass of both models over the rows; a square matrix for each group.",
    ),
    _card(
        "transport",
        "Fusion by optimal transport",
        "transport:TRANSPORT",
        "TransportConfig",
        "Singh and Jaggi 2020, Model Fusion via Optimal Transport (arXiv 1910.05653)",
        ACTIVATIONS,
        "Rows only for ground=activations. The result is softly aligned, computes about the same, and is meant for merge.",
        "As the matching that it softens, and Sinkhorn's iterations for each group.",
    ),
    _card(
        "zipit",
        "ZipIt",
        "zipit:ZIPIT",
        "ZipitConfig",
        "Stoica et al. 2024, ZipIt! Merging Models from Different Tasks without Training (arXiv 2305.03053)",
        ACTIVATIONS,
        "Rows; Linear or Conv layers. The result is the merged model; what is not zipped (attention, the residual stream) is averaged.",
        "A forward pass of both models over the rows; a greedy search that is cubic in a layer's width.",
    ),
)
