"""Cards of the steps *ask_teacher* and *write_rationales*. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card

KIM_RUSH = "Kim and Rush 2016, Sequence-Level Knowledge Distillation (arXiv 1606.07947)"
HSIEH = "Hsieh et al. 2023, Distilling Step-by-Step! (arXiv 2305.02301)"

CARDS = (
    Card(
        name="black_box",
        area="distillation",
        step="ask_teacher",
        title="Teacher behind an API",
        config="lfm_tasks.distillation.black_box.config:BlackBoxConfig",
        implementation="lfm_tasks.distillation.black_box.api:ask_api",
        paper=KIM_RUSH,
        access=("text",),
        preconditions="An OpenAI-compatible endpoint that an administrator allows.",
        cost="What the API takes for each prompt, once; a budget in requests and tokens ends it.",
        tasks=("causal_lm",),
    ),
    Card(
        name="beam",
        area="distillation",
        step="ask_teacher",
        title="Sequence-level distillation by beam search",
        config="lfm_tasks.distillation.texts.config:BeamConfig",
        implementation="lfm_tasks.distillation.texts.sequences:ask_by_beam",
        paper=KIM_RUSH,
        access=("weights", "text"),
        preconditions="A decoder as the teacher; any tokenizer.",
        cost="num_beams times the cost of writing the texts, once.",
        tasks=("causal_lm",),
        needs="teacher",
    ),
    Card(
        name="samples",
        area="distillation",
        step="ask_teacher",
        title="Sequence-level distillation by samples",
        config="lfm_tasks.distillation.texts.config:SamplesConfig",
        implementation="lfm_tasks.distillation.texts.sequences:ask_by_sampling",
        paper=KIM_RUSH,
        access=("weights", "text"),
        preconditions="A decoder as the teacher; any tokenizer.",
        cost="The cost of writing each sample, once.",
        tasks=("causal_lm",),
        needs="teacher",
    ),
    Card(
        name="step_by_step",
        area="distillation",
        step="write_rationales",
        title="Distilling step by step",
        config="lfm_tasks.distillation.texts.config:StepByStepConfig",
        implementation="lfm_tasks.distillation.texts.rationales:step_by_step",
        paper=HSIEH,
        access=("text",),
        preconditions="Answers with reasons, and right answers to compare with.",
        cost="Two rows for each; none at inference, where no rationale is written.",
        tasks=("causal_lm",),
    ),
    Card(
        name="chain_of_thought",
        area="distillation",
        step="write_rationales",
        title="Fine-tuning on chains of thought",
        config="lfm_tasks.distillation.texts.config:ChainOfThoughtConfig",
        implementation="lfm_tasks.distillation.texts.rationales:chain_of_thought",
        paper="Magister et al. 2022, Teaching Small Language Models to Reason (arXiv 2212.08410)",
        access=("text",),
        preconditions="Answers with reasons, and right answers to compare with.",
        cost="The student writes its rationale before each answer.",
        tasks=("causal_lm",),
    ),
)
