"""Cards of the methods that merge adapters. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card

WEIGHTS: tuple[Access, ...] = ("weights",)
ONE_BASE = "LoRA adapters of one base, of any ranks and scalings"
IN_A_SPACE = f"{ONE_BASE}; with space=factors of one rank."
SMALL = "Decompositions of the size of the summed ranks."
WHOLE = "On products a singular value decomposition of every adapted layer: minutes for 100 M parameters on a CPU; on factors seconds."


def _card(name: str, title: str, config: str, paper: str, cost: str, preconditions: str = IN_A_SPACE, access=WEIGHTS) -> Card:
    return Card(
        name=name,
        area="reuse",
        step="merge_adapters",
        title=title,
        config=f"lfm_tasks.reuse.{config}",
        implementation=f"lfm_tasks.reuse.adapters.kernels:{name.upper()}",
        paper=paper,
        access=access,
        preconditions=preconditions,
        cost=cost,
    )


ADAPTER_CARDS = (
    _card(
        "lora_linear",
        "Weighted sum of adapters",
        "adapters.config:LoraLinearConfig",
        "Zhang et al. 2023, Composing Parameter-Efficient Modules with Arithmetic Operations (arXiv 2306.14870)",
        SMALL,
    ),
    _card(
        "lora_cat",
        "Adapters side by side",
        "methods.config:TaskArithmeticConfig",
        "Hu et al. 2021, LoRA (arXiv 2106.09685): the sum of low-rank changes, exactly",
        "None; the ranks add up.",
        f"{ONE_BASE}.",
    ),
    _card(
        "lora_ties",
        "TIES of adapters",
        "adapters.config:LoraTiesConfig",
        "Yadav et al. 2023, TIES-Merging (arXiv 2306.01708)",
        WHOLE,
    ),
    _card(
        "lora_dare_linear",
        "DARE of adapters with a sum",
        "adapters.config:LoraDareLinearConfig",
        "Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099)",
        WHOLE,
    ),
    _card(
        "lora_dare_ties",
        "DARE of adapters with TIES",
        "adapters.config:LoraDareTiesConfig",
        "Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099)",
        WHOLE,
    ),
    _card(
        "lora_magnitude_prune",
        "Sum of adapters' largest elements",
        "adapters.config:LoraTrimConfig",
        "Yadav et al. 2023, TIES-Merging (arXiv 2306.01708), its trim alone",
        WHOLE,
    ),
    _card(
        "knots",
        "KnOTS: TIES of adapters in the directions that they share",
        "adapters.config:KnotsConfig",
        "Stoica et al. 2025, Model merging with SVD to tie the Knots (arXiv 2410.19735)",
        SMALL,
        f"{ONE_BASE}.",
    ),
    _card(
        "lorahub",
        "LoraHub",
        "adapters.config:LorahubConfig",
        "Huang et al. 2023, LoraHub (arXiv 2307.13269)",
        "A merge and a pass over the examples for every evaluation; no gradients.",
        f"{ONE_BASE}; a few labelled rows of the task, tokenised for that base.",
        ("weights", "logits", "labels"),
    ),
)
