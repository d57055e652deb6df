"""Cards of the data-free methods. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card

WITHOUT_BATCH_NORM = ("cake", "dafl", "dfad", "zeroth_order", "ideal")
"""Methods for teachers of any architecture."""


def _card(name: str, title: str, config: str, implementation: str, paper: str, access: tuple[Access, ...], needs: str, cost: str) -> Card:
    return Card(
        name=name,
        area="distillation",
        step="distill_data_free",
        title=title,
        config=f"lfm_tasks.distillation.data_free.config:{config}",
        implementation=f"lfm_tasks.distillation.data_free.methods.{implementation}",
        paper=paper,
        access=access,
        preconditions=needs,
        cost=cost,
        tasks=("image_classification",),
    )


CARDS = (
    _card(
        "deep_inversion",
        "DeepInversion",
        "DeepInversionConfig",
        "deep_inversion:DeepInversion",
        "Yin et al. 2020, Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion (arXiv 1912.08795)",
        ("weights", "gradients", "activations", "logits"),
        "Batch norm with running statistics in the teacher, or batch_norm=0.",
        "Hundreds of passes of the teacher, forward and back, behind every image.",
    ),
    _card(
        "dafl",
        "DAFL",
        "DaflConfig",
        "generative:Dafl",
        "Chen et al. 2019, Data-Free Learning of Student Networks (arXiv 1904.01186)",
        ("gradients", "activations", "logits"),
        "A linear layer that makes the teacher's logits.",
        "One pass back through the teacher for every few steps of the student.",
    ),
    _card(
        "dfad",
        "DFAD, ZSKT",
        "DfadConfig",
        "generative:Dfad",
        "Fang et al. 2019, Data-Free Adversarial Distillation (arXiv 1912.11006); Micaelli and Storkey 2019 (arXiv 1905.09768)",
        ("gradients", "logits"),
        "Any architecture.",
        "One pass back through teacher and student for every few steps of the student.",
    ),
    _card(
        "cmi",
        "CMI",
        "CmiConfig",
        "cmi:Cmi",
        "Fang et al. 2021, Contrastive Model Inversion for Data-Free Knowledge Distillation (arXiv 2105.08584)",
        ("weights", "gradients", "activations", "logits"),
        "Batch norm with running statistics in the teacher, or batch_norm=0.",
        "A generator from nothing for each round; hundreds of passes behind every image.",
    ),
    _card(
        "fast",
        "Fast meta-generator",
        "FastConfig",
        "fast:Fast",
        "Fang et al. 2022, Up to 100x Faster Data-free Knowledge Distillation (arXiv 2112.06253)",
        ("weights", "gradients", "activations", "logits"),
        "Batch norm with running statistics in the teacher, or batch_norm=0.",
        "A few passes of the teacher behind every image.",
    ),
    _card(
        "cake",
        "CAKE",
        "CakeConfig",
        "cake:Cake",
        "Braun et al. 2024, Deep Classifier Mimicry without Data Access (arXiv 2306.02090)",
        ("gradients", "logits"),
        "Any architecture.",
        "About a hundred passes of the teacher behind every image.",
    ),
    _card(
        "zeroth_order",
        "Zeroth-order (DFME)",
        "ZerothOrderConfig",
        "black_box:ZerothOrder",
        "Truong et al. 2021, Data-Free Model Extraction (arXiv 2011.14779)",
        ("probabilities",),
        "A teacher that answers with probabilities.",
        "One query an image, and one more for each direction of a gradient.",
    ),
    _card(
        "ideal",
        "IDEAL",
        "IdealConfig",
        "black_box:Ideal",
        "Zhang et al. 2023, IDEAL: Query-Efficient Data-Free Learning from Black-Box Models (arXiv 2205.11158)",
        ("labels",),
        "A teacher that answers with labels.",
        "One query an image.",
    ),
)
