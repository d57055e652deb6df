"""Cards of the methods that keep the weights. Light to import."""

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
        area="editing",
        step="edit",
        title=title,
        config=f"lfm_tasks.editing.memory.config:{config}",
        implementation=f"lfm_tasks.editing.memory.{implementation}",
        paper=paper,
        access=access,
        preconditions=preconditions,
        cost=cost,
        needs=needs,
    )


_LEARNT: tuple[Access, ...] = ("gradients", "activations", "text")
_READ: tuple[Access, ...] = ("activations", "text")
_STORED = "A forward pass for each fact; in use one for each prompt, and the length of what is put before it."

CARDS = (
    _card(
        "grace",
        "GRACE",
        "grace:GRACE",
        "GraceConfig",
        "Hartvigsen et al. 2023, Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors (arXiv 2211.11031)",
        _LEARNT,
        "None. Any edit can be taken out again.",
        "A forward and a short backward pass for each step; in use the distances of every token to every key.",
    ),
    _card(
        "wise",
        "WISE",
        "wise:WISE",
        "WiseConfig",
        "Wang et al. 2024, WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models (arXiv 2405.14768)",
        ("weights", *_LEARNT),
        "None. Training facts, and locality prompts of the facts, say what shall stay.",
        "As GRACE; keeps one matrix for each round, and in use one product more for each.",
    ),
    _card(
        "t_patcher",
        "T-Patcher",
        "t_patcher:T_PATCHER",
        "TPatcherConfig",
        "Huang et al. 2023, Transformer-Patcher: One Mistake Worth One Neuron (arXiv 2301.09785)",
        _LEARNT,
        "As WISE. Any edit can be taken out again.",
        "As GRACE; one neuron for each token of a target.",
    ),
    _card(
        "ike",
        "IKE",
        "prompts:PROMPTS",
        "IkeConfig",
        "Zheng et al. 2023, Can We Edit Factual Knowledge by In-Context Learning? (arXiv 2305.12740)",
        _READ,
        "Training facts to show; a context that has room. Whoever asks the model asks the memory for the prompt.",
        _STORED,
    ),
    _card(
        "ice",
        "ICE",
        "prompts:PROMPTS",
        "IceConfig",
        "Cohen et al. 2024, Evaluating the Ripple Effects of Knowledge Editing in Language Models (arXiv 2307.12976)",
        _READ,
        "As IKE, without training facts.",
        _STORED,
    ),
    _card(
        "mem_prompt",
        "MemPrompt",
        "prompts:PROMPTS",
        "MemPromptConfig",
        "Madaan et al. 2022, Memory-Assisted Prompt Editing to Improve GPT-3 After Deployment (arXiv 2201.06009)",
        _READ,
        "As ICE.",
        _STORED,
    ),
    _card(
        "serac",
        "SERAC by retrieval",
        "prompts:PROMPTS",
        "SeracConfig",
        "Mitchell et al. 2022, Memory-Based Model Editing at Scale (arXiv 2206.06520)",
        _READ,
        "As ICE: scope by likeness of hidden states and the model itself as the counterfactual one, neither of them trained.",
        _STORED,
    ),
    _card(
        "serac_trained",
        "SERAC",
        "serac:SERAC",
        "SeracTrainedConfig",
        "Mitchell et al. 2022, Memory-Based Model Editing at Scale (arXiv 2206.06520)",
        ("weights", *_READ),
        "An editor that was trained for the model (train_editor, method serac_editor). Any edit can be taken out again.",
        "As SERAC by retrieval, and a low-rank product in a few layers for rows in a scope.",
        "serac_editor",
    ),
)
