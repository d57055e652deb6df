"""Cards of the merge methods. Light to import."""

from __future__ import annotations

from dataclasses import replace

from lfm_tasks.registry import Card
from lfm_tasks.reuse.adapters.cards import ADAPTER_CARDS

ELEMENTWISE = "Reads each model once, writes one; as fast as the disk."
TWICE = "Reads each tensor twice: angles, then the combination."
SELECTION = "Reads each tensor three times: an exact selection by magnitude, then the merge."
SURVEYED = "Reads the models twice where one task's model is asked for."
RANDOM = "Reads each model once; one random number for each element of each model."
SORTING = "Sorts every row of every task vector."
WHOLE = "One tensor of each model in float32 in memory."
SINGULAR = "A singular value decomposition of every matrix of every task vector: minutes for 100 M parameters on a CPU."
WITH_STATISTICS = "Reads each model once and its statistics twice; the statistics are gathered once for all merges."
SOLVES = "A linear system [in, in] in float64 for every linear layer: seconds for 100 M parameters on a CPU."
THROUGH = "A forward pass of each row for every second layer, and a linear system for every linear layer; the result in memory."
PRODUCTS = "A matrix product for every matrix and iteration: minutes for 100 M parameters on a CPU."


def _card(name: str, title: str, implementation: str, config: str, paper: str, preconditions: str, cost: str) -> Card:
    return Card(
        name=name,
        area="reuse",
        step="merge",
        title=title,
        config=f"lfm_tasks.reuse.methods.config:{config}",
        implementation=f"lfm_tasks.reuse.methods.{implementation}",
        paper=paper,
        access=("weights",),
        preconditions=preconditions,
        cost=cost,
    )


CARDS = (
    _card(
        "uniform_soup",
        "Uniform soup",
        "linear:UNIFORM_SOUP",
        "UniformSoupConfig",
        "Wortsman et al. 2022, Model soups (arXiv 2203.05482)",
        "Fine-tunings of one base, in one basin.",
        ELEMENTWISE,
    ),
    _card(
        "linear",
        "Weighted average",
        "linear:LINEAR",
        "LinearConfig",
        "Matena and Raffel 2021 (isotropic case), Merging Models with Fisher-Weighted Averaging (arXiv 2111.09832)",
        "Fine-tunings of one base; weights whose sum is not zero.",
        ELEMENTWISE,
    ),
    _card(
        "expo",
        "ExPO extrapolation",
        "task_arithmetic:EXPO",
        "ExpoConfig",
        "Zheng et al. 2024, Weak-to-Strong Extrapolation Expedites Alignment (arXiv 2404.16792)",
        "One model and its base.",
        ELEMENTWISE,
    ),
    _card(
        "task_arithmetic",
        "Task arithmetic",
        "task_arithmetic:TASK_ARITHMETIC",
        "TaskArithmeticConfig",
        "Ilharco et al. 2023, Editing Models with Task Arithmetic (arXiv 2212.04089)",
        "Base and fine-tunings of it. Choose the scale on validation data: 0.2 to 0.4 is usual for several tasks.",
        ELEMENTWISE,
    ),
    _card(
        "lines",
        "LiNeS",
        "task_arithmetic:LINES",
        "LinesConfig",
        "Wang et al. 2025, LiNeS: Post-training Layer Scaling (arXiv 2410.17146)",
        "Base and fine-tunings of it; numbered layers.",
        ELEMENTWISE,
    ),
    _card(
        "ties",
        "TIES",
        "ties:TIES",
        "TiesConfig",
        "Yadav et al. 2023, TIES-Merging (arXiv 2306.01708)",
        "Base and fine-tunings of it.",
        SELECTION,
    ),
    _card(
        "dare_linear",
        "DARE with a sum",
        "dare:DARE_LINEAR",
        "DareLinearConfig",
        "Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099)",
        "Base and fine-tunings of it with small task vectors.",
        RANDOM,
    ),
    _card(
        "dare_ties",
        "DARE with TIES",
        "dare:DARE_TIES",
        "DareTiesConfig",
        "Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099)",
        "Base and fine-tunings of it with small task vectors.",
        RANDOM,
    ),
    _card(
        "della_linear",
        "DELLA with a sum",
        "della:DELLA_LINEAR",
        "DellaLinearConfig",
        "Deep et al. 2024, DELLA-Merging (arXiv 2406.11617)",
        "Base and fine-tunings of it.",
        SORTING,
    ),
    _card(
        "della",
        "DELLA",
        "della:DELLA",
        "DellaConfig",
        "Deep et al. 2024, DELLA-Merging (arXiv 2406.11617)",
        "Base and fine-tunings of it.",
        SORTING,
    ),
    _card(
        "breadcrumbs",
        "Model Breadcrumbs",
        "breadcrumbs:BREADCRUMBS",
        "BreadcrumbsConfig",
        "Davari and Belilovsky 2024, Model Breadcrumbs (arXiv 2312.06795)",
        "Base and fine-tunings of it.",
        SELECTION,
    ),
    _card(
        "breadcrumbs_ties",
        "Model Breadcrumbs with TIES",
        "breadcrumbs:BREADCRUMBS_TIES",
        "BreadcrumbsTiesConfig",
        "Davari and Belilovsky 2024, Model Breadcrumbs (arXiv 2312.06795)",
        "Base and fine-tunings of it.",
        SELECTION,
    ),
    _card(
        "slerp",
        "SLERP",
        "slerp:SLERP",
        "SlerpConfig",
        "Shoemake 1985, Animating Rotation with Quaternion Curves; for models: Goddard et al. 2024 (arXiv 2403.13257)",
        "Two models.",
        TWICE,
    ),
    _card(
        "nuslerp",
        "NuSLERP",
        "slerp:NUSLERP",
        "NuslerpConfig",
        "Goddard et al. 2024, Arcee's MergeKit (arXiv 2403.13257)",
        "Two models; with a base their task vectors are turned.",
        WHOLE,
    ),
    _card(
        "multislerp",
        "Multi-SLERP",
        "slerp:MULTISLERP",
        "MultislerpConfig",
        "Goddard et al. 2024, Arcee's MergeKit (arXiv 2403.13257)",
        "Models whose directions do not cancel out.",
        TWICE,
    ),
    _card(
        "karcher",
        "Karcher mean",
        "karcher:KARCHER",
        "KarcherConfig",
        "Karcher 1977, Riemannian center of mass and mollifier smoothing; for models: arXiv 2603.04972",
        "Models whose directions do not cancel out.",
        TWICE,
    ),
    _card(
        "model_stock",
        "Model Stock",
        "model_stock:MODEL_STOCK",
        "ModelStockConfig",
        "Jang et al. 2024, Model Stock: All we need is just a few fine-tuned models (arXiv 2403.19522)",
        "Base and two or more fine-tunings of it on one task.",
        TWICE,
    ),
    _card(
        "sce",
        "SCE",
        "sce:SCE",
        "SceConfig",
        "Wan et al. 2024, FuseChat (arXiv 2408.07990)",
        "Base and two or more fine-tunings of it.",
        SELECTION,
    ),
    _card(
        "magmax",
        "MagMax",
        "magmax:MAGMAX",
        "MagmaxConfig",
        "Marczak et al. 2024, MagMax (arXiv 2407.06322)",
        "Base and fine-tunings of it, best one after another.",
        ELEMENTWISE,
    ),
    _card(
        "consensus",
        "Consensus by TALL masks",
        "consensus:CONSENSUS",
        "ConsensusConfig",
        "Wang et al. 2024, Localizing Task Information for Improved Model Merging (arXiv 2405.07813)",
        "Base and two or more fine-tunings of it.",
        ELEMENTWISE,
    ),
    _card(
        "emr",
        "EMR-Merging",
        "emr:EMR",
        "EmrConfig",
        "Huang et al. 2024, EMR-Merging (arXiv 2405.17461)",
        "Base and fine-tunings of it; one model for each task, or the unified one.",
        SURVEYED,
    ),
    _card(
        "tsv_m",
        "TSV-Merge",
        "subspace:TSV_M",
        "TsvConfig",
        "Gargiulo et al. 2025, Task Singular Vectors (arXiv 2412.00081)",
        "Base and fine-tunings of it.",
        SINGULAR,
    ),
    _card(
        "iso_c",
        "ISO-C",
        "subspace:ISO_C",
        "IsoCConfig",
        "Marczak et al. 2025, No Task Left Behind (arXiv 2502.04959)",
        "Base and fine-tunings of it.",
        SINGULAR,
    ),
    _card(
        "iso_cts",
        "ISO-CTS",
        "subspace:ISO_CTS",
        "IsoCtsConfig",
        "Marczak et al. 2025, No Task Left Behind (arXiv 2502.04959)",
        "Base and fine-tunings of it.",
        SINGULAR,
    ),
    _card(
        "wudi",
        "WUDI",
        "wudi:WUDI",
        "WudiConfig",
        "Cheng et al. 2025, Whoever Started the Interference Should End It (arXiv 2503.08099)",
        "Base and fine-tunings of it.",
        PRODUCTS,
    ),
    _card(
        "fisher",
        "Fisher merging",
        "fisher:FISHER",
        "FisherConfig",
        "Matena and Raffel 2021, Merging Models with Fisher-Weighted Averaging (arXiv 2111.09832)",
        "Fine-tunings of one base, and statistics of each (fisher_information).",
        WITH_STATISTICS,
    ),
    _card(
        "regmean",
        "RegMean",
        "regmean:REGMEAN",
        "RegmeanConfig",
        "Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models (arXiv 2212.09849)",
        "Fine-tunings of one base, and statistics of each (gram).",
        SOLVES,
    ),
    replace(
        _card(
            "regmean_plus_plus",
            "RegMean++",
            "regmean_plus_plus:REGMEAN_PLUS_PLUS",
            "RegmeanPlusPlusConfig",
            "Nguyen et al. 2025, RegMean++ (arXiv 2508.03121)",
            "Fine-tunings of one base, and rows of each one's task; labels are not read.",
            THROUGH,
        ),
        access=("weights", "activations"),
    ),
    *ADAPTER_CARDS,
)
