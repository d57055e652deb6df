"""Cards of the tuning methods. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card

TASKS = ("causal_lm", "classification")

CARDS = (
    Card(
        name="full",
        area="tuning",
        step="tune",
        title="Full fine-tuning",
        config="lfm_tasks.tuning.methods.config:FullConfig",
        implementation="lfm_tasks.tuning.methods.full:FULL",
        paper="Howard and Ruder 2018, Universal Language Model Fine-tuning (arXiv 1801.06146)",
        access=("weights", "gradients"),
        preconditions="Memory for gradients and two moments of every parameter.",
        cost="4x the model in memory; all gradients.",
        tasks=TASKS,
    ),
    Card(
        name="lora",
        area="tuning",
        step="tune",
        title="LoRA",
        config="lfm_tasks.tuning.methods.config:LoraConfig",
        implementation="lfm_tasks.tuning.methods.lora:LORA",
        paper="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685)",
        access=("weights", "gradients"),
        preconditions="Linear layers.",
        cost="About 1 % of the parameters trained; merged at no cost in inference.",
        tasks=TASKS,
    ),
    Card(
        name="dora",
        area="tuning",
        step="tune",
        title="DoRA",
        config="lfm_tasks.tuning.methods.config:DoraConfig",
        implementation="lfm_tasks.tuning.methods.lora:DORA",
        paper="Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation (arXiv 2402.09353)",
        access=("weights", "gradients"),
        preconditions="Linear layers.",
        cost="LoRA and the column norms of every adapted weight in each forward pass.",
        tasks=TASKS,
    ),
    Card(
        name="rslora",
        area="tuning",
        step="tune",
        title="Rank-stabilised LoRA",
        config="lfm_tasks.tuning.methods.config:RsLoraConfig",
        implementation="lfm_tasks.tuning.methods.lora:RSLORA",
        paper="Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (arXiv 2312.03732)",
        access=("weights", "gradients"),
        preconditions="Linear layers.",
        cost="As LoRA; meant for ranks of 32 and more.",
        tasks=TASKS,
    ),
    Card(
        name="bitfit",
        area="tuning",
        step="tune",
        title="BitFit",
        config="lfm_tasks.tuning.methods.config:BitFitConfig",
        implementation="lfm_tasks.tuning.methods.bitfit:BITFIT",
        paper="Ben Zaken et al. 2021, BitFit: Simple Parameter-efficient Fine-tuning (arXiv 2106.10199)",
        access=("weights", "gradients"),
        preconditions="A model with bias terms (BERT, GPT-2; not Llama), or norms=true.",
        cost="About 0.1 % of the parameters trained.",
        tasks=TASKS,
    ),
)
