"""Cards of the mixtures. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card


def _card(
    name: str,
    title: str,
    implementation: str,
    config: str,
    paper: str,
    access: tuple[Access, ...],
    preconditions: str,
    cost: str,
    needs: str = "",
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
        needs=needs,
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
    _card(
        "wemoe",
        "WEMoE",
        "wemoe:WEMOE",
        "WemoeConfig",
        "Tang et al. 2024, Merging Multi-Task Models via Weight-Ensembling Mixture of Experts (arXiv 2402.00433)",
        ("weights", "gradients", "text"),
        "Fine-tuned classifiers of one base; unlabelled rows of each task. Decoders only with router_depth 0.",
        "Every feed-forward once more for each expert; its weights are put together for each sample.",
        "datasets",
    ),
    _card(
        "e_wemoe",
        "E-WEMoE",
        "wemoe:WEMOE",
        "EWemoeConfig",
        "Shen et al. 2024, Efficient and Effective Weight-Ensembling Mixture of Experts (arXiv 2410.21804)",
        ("weights", "gradients", "text"),
        "As WEMoE.",
        "As WEMoE with the share density of the task vectors, and one router.",
        "datasets",
    ),
    _card(
        "pareto_moe",
        "Pareto MoE",
        "pareto:PARETO",
        "ParetoConfig",
        "Tang et al. 2024, Towards Efficient Pareto Set Approximation via Mixture of Experts (arXiv 2406.09770)",
        ("weights", "gradients", "labels"),
        "Fine-tunings of one base; labelled rows of each task.",
        "Some hundred trained parameters. A plain model for each preference comes from it by the step unload, at no cost in inference.",
        "datasets",
    ),
    _card(
        "upcycle",
        "Dense to mixture of experts",
        "upcycle:UPCYCLE",
        "UpcycleConfig",
        "Komatsuzaki et al. 2023, Sparse Upcycling (arXiv 2212.05055); of several models: Goddard et al. 2024 (arXiv 2403.13257)",
        ("weights", "activations", "text"),
        "Llama or Mistral decoders without biases; rows of each task for gate=hidden only.",
        "A Mixtral that any client opens, with the feed-forwards of every expert; streams tensor by tensor.",
    ),
)
