"""Cards of the distillation methods; ``access`` is what they ask of the teacher, ``enough`` what an API gives. Light to import."""

from __future__ import annotations

from typing import Any

from lfm_tasks.registry import Card

TASKS = ("causal_lm", "classification")
TEACHER = "A forward pass of the teacher for each pass of the student, or none where its signals are recorded."
SAME = "A teacher with the student's tokenizer, or recorded signals."
METHODS = "lfm_tasks.distillation.methods"


INSIDE = "One teacher with the student's tokenizer, of an architecture that looks its attention function up."
WHOLE = "A teacher with the student's tokenizer; of a classifier recorded signals do, too."


def _card(name: str, title: str, implementation: str, config: str, paper: str, **changes: Any) -> Card:
    """:param implementation: in :data:`METHODS`. ``changes`` of what most methods have: logits of any model's teacher."""
    common = {"access": ("logits",), "tasks": TASKS, "preconditions": SAME, "cost": TEACHER} | changes
    return Card(
        name=name,
        area="distillation",
        step="distill",
        title=title,
        config=f"{METHODS}.config:{config}",
        implementation=f"{METHODS}.{implementation}",
        paper=paper,
        **common,
    )


def _logits(name: str, title: str, implementation: str, config: str, paper: str, **changes: Any) -> Card:
    return _card(name, title, f"logits:{implementation}", config, paper, **changes)


def _hidden(name: str, title: str, implementation: str, config: str, paper: str, **changes: Any) -> Card:
    given = {"preconditions": INSIDE, "cost": f"{TEACHER} What is compared of both stays in memory."} | changes
    return _card(name, title, f"hidden:{implementation}", config, paper, access=("logits", "activations"), **given)


def _across(name: str, title: str, implementation: str, config: str, paper: str, **changes: Any) -> Card:
    given = {
        "preconditions": "A teacher with another tokenizer, and the same rows prepared for it; texts or completions.",
        "cost": "A forward pass of the teacher for each pass of the student.",
    }
    return _card(
        name,
        title,
        f"across:{implementation}",
        config,
        paper,
        tasks=("causal_lm",),
        needs="teacher_dataset",
        **given | changes,
    )


ANSWERED: dict[str, Any] = {
    "enough": ("text", "probabilities"),
    "preconditions": "A teacher with another tokenizer, and the same rows prepared for it; or an API's answers with log-probabilities.",
    "cost": "A forward pass of the teacher for each pass of the student, or none where an API has answered.",
}


CARDS = (
    _logits(
        "forward_kl",
        "Knowledge distillation (forward KL)",
        "FORWARD_KL",
        "PlainConfig",
        "Hinton et al. 2015, Distilling the Knowledge in a Neural Network (arXiv 1503.02531)",
    ),
    _logits(
        "reverse_kl",
        "Reverse KL",
        "REVERSE_KL",
        "PlainConfig",
        "Gu et al. 2024, MiniLLM (arXiv 2306.08543): its single-step part, over given text",
    ),
    _logits(
        "jsd",
        "Generalised Jensen-Shannon divergence",
        "JSD",
        "JsdConfig",
        "Agarwal et al. 2024, On-Policy Distillation of Language Models, GKD (arXiv 2306.13649)",
    ),
    _logits("skew_kl", "Skew KL", "SKEW_KL", "SkewConfig", "Ko et al. 2024, DistiLLM (arXiv 2402.03898)"),
    _logits("skew_reverse_kl", "Skew reverse KL", "SKEW_REVERSE_KL", "SkewConfig", "Ko et al. 2024, DistiLLM (arXiv 2402.03898)"),
    _logits(
        "total_variation",
        "Total variation distance",
        "TOTAL_VARIATION",
        "PlainConfig",
        "Wen et al. 2023, f-Divergence Minimization for Sequence-Level Knowledge Distillation (arXiv 2307.15190)",
    ),
    _logits(
        "logit_mse",
        "Squared difference of logits",
        "LOGIT_MSE",
        "PlainConfig",
        "Ba and Caruana 2014, Do Deep Nets Really Need to be Deep? (arXiv 1312.6184)",
        preconditions=WHOLE,
    ),
    _logits(
        "decoupled",
        "Decoupled distillation (DKD)",
        "DECOUPLED",
        "DecoupledConfig",
        "Zhao et al. 2022, Decoupled Knowledge Distillation (arXiv 2203.08679)",
        preconditions=WHOLE,
    ),
    _logits(
        "logit_standardisation",
        "KL of standardised logits",
        "STANDARDISED",
        "PlainConfig",
        "Sun et al. 2024, Logit Standardization in Knowledge Distillation (arXiv 2403.01427)",
        preconditions=WHOLE,
    ),
    _logits(
        "dist",
        "Correlations within and across rows (DIST)",
        "DIST",
        "DistConfig",
        "Huang et al. 2022, Knowledge Distillation from A Stronger Teacher (arXiv 2205.10536)",
        preconditions=WHOLE,
        cost=f"{TEACHER} A step is one pass: its rows are in memory at once.",
    ),
    _card(
        "minillm",
        "Reverse KL of sequences (MiniLLM)",
        "policy:MINILLM",
        "PolicyConfig",
        "Gu et al. 2024, MiniLLM (arXiv 2306.08543)",
        tasks=("causal_lm",),
        preconditions="One teacher with the student's tokenizer; on_policy above 0, temperature 1.",
        cost="Texts are written at every step; a forward pass of the teacher for each pass of the student.",
    ),
    _across(
        "alm",
        "Likelihoods of chunks that both tokenizers share (ALM)",
        "ALM",
        "ChunkConfig",
        "Minixhofer et al. 2025, Cross-Tokenizer Distillation via Approximate Likelihood Matching (arXiv 2503.20083)",
        **ANSWERED,
    ),
    _across(
        "uld",
        "Sorted probabilities, place by place (ULD)",
        "ULD",
        "PlainConfig",
        "Boizard et al. 2024, Universal Logit Distillation (arXiv 2402.12030)",
    ),
    _across(
        "hybrid",
        "Shared tokens where both begin a chunk, likelihoods of longer chunks",
        "HYBRID",
        "ChunkConfig",
        "Minixhofer et al. 2025 (arXiv 2503.20083), with KL over shared tokens and the rest as one outcome",
        **ANSWERED,
    ),
    _hidden(
        "tinybert",
        "Hidden states, attention scores and predictions (TinyBERT)",
        "TINYBERT",
        "TinyBertConfig",
        "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding (arXiv 1909.10351)",
        preconditions=f"{INSIDE} As many heads as the teacher, or attention=0.",
    ),
    _hidden(
        "minilm",
        "Attention and value relations of the last layer (MiniLM)",
        "MINILM",
        "MiniLmConfig",
        "Wang et al. 2020, MiniLM: Deep Self-Attention Distillation (arXiv 2002.10957)",
        preconditions=f"{INSIDE} As many heads as the teacher.",
    ),
    _hidden(
        "minilm_v2",
        "Relations of queries, keys and values (MiniLMv2)",
        "MINILM_V2",
        "MiniLmV2Config",
        "Wang et al. 2021, MiniLMv2: Multi-Head Self-Attention Relation Distillation (arXiv 2012.15828)",
    ),
    _hidden(
        "activations",
        "Outputs of any modules",
        "ACTIVATIONS",
        "ActivationsConfig",
        "Romero et al. 2015, FitNets: Hints for Thin Deep Nets (arXiv 1412.6550)",
        preconditions="One teacher with the student's tokenizer.",
    ),
)
