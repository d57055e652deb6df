"""Cards of the ensemble methods. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Access, Card

CLASSES = ("choice", "classification")
ALL_ANSWER = "Every model answers every question; they are opened one after another."
TWICE = "Every model is opened twice: it answers, then it judges the answers of all."


def _card(
    name: str,
    title: str,
    config: str,
    paper: str,
    access: Access,
    preconditions: str,
    cost: str = ALL_ANSWER,
    tasks: tuple[str, ...] = CLASSES,
) -> Card:
    return Card(
        name=name,
        area="reuse",
        step="ensemble",
        title=title,
        config=f"lfm_tasks.evaluation.ensemble.config:{config}",
        implementation=f"lfm_tasks.evaluation.ensemble.methods:{name.upper()}",
        paper=paper,
        access=(access,),
        preconditions=preconditions,
        cost=cost,
        tasks=tasks,
    )


CARDS = (
    _card(
        "probability_mean",
        "Mean of probabilities",
        "WeightedOptions",
        "Stone 1961, The Opinion Pool; for networks: Lakshminarayanan et al. 2017, Deep Ensembles (arXiv 1612.01474)",
        "probabilities",
        "One set of classes, or one tokenizer. Perplexity is that of the mixture, token by token.",
        tasks=(*CLASSES, "perplexity"),
    ),
    _card(
        "logit_mean",
        "Mean of logits (geometric mean of probabilities)",
        "WeightedOptions",
        "Hinton 2002, Training Products of Experts; Tang et al. 2024, FusionBench (arXiv 2406.03280), SimpleEnsemble",
        "logits",
        "One set of classes. The softmax of the mean logits is the normalised geometric mean of the probabilities.",
    ),
    _card(
        "max_logit",
        "Elementwise maximum of logits",
        "NoOptions",
        "Tang et al. 2024, FusionBench (arXiv 2406.03280), MaxModelPredictor",
        "logits",
        "Members whose logits are of one scale: one with larger logits drowns the others.",
    ),
    _card(
        "most_confident",
        "Most confident model",
        "NoOptions",
        "Hendrycks and Gimpel 2017, A Baseline for Detecting Misclassified Examples (arXiv 1610.02136), maximum softmax probability",
        "probabilities",
        "Members whose confidence can be believed; equally sure members answer with their mean.",
    ),
    _card(
        "vote",
        "Majority vote",
        "WeightedOptions",
        "Breiman 1996, Bagging Predictors (doi 10.1007/BF00058655)",
        "probabilities",
        "Three models or more. Of equally many votes the class that is likelier under the mean of the probabilities wins.",
    ),
    _card(
        "temperature_scaled",
        "Mean after temperature scaling",
        "TemperatureScaledConfig",
        "Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599)",
        "logits",
        "A validation split that no member was tuned on; each member's temperature is fitted there.",
        cost="Every model answers the validation split as well; they are opened one after another.",
    ),
    _card(
        "stacking",
        "Stacking by logistic regression",
        "StackingConfig",
        "Wolpert 1992, Stacked Generalization (doi 10.1016/S0893-6080(05)80023-1)",
        "probabilities",
        "A validation split that no member was tuned on. A large penalty gives the mean of logits.",
        cost="Every model answers the validation split as well; then a regression with models x classes x classes weights.",
    ),
    _card(
        "minimum_bayes_risk",
        "Rank: the answer most like all",
        "MinimumBayesRiskConfig",
        "Kumar and Byrne 2004, Minimum Bayes-Risk Decoding; ranked in pairs as in LLM-Blender (arXiv 2306.02561)",
        "text",
        "Three models or more, the best first. The best answer is chosen; none is fused from several.",
        tasks=("generation",),
    ),
    _card(
        "member_likelihood",
        "Rank: the answer likeliest under all",
        "MemberLikelihoodConfig",
        "Jiang et al. 2023, LLM-Blender (arXiv 2306.02561), with the models themselves as the ranker",
        "probabilities",
        "Two models or more. The best answer is chosen; none is fused from several.",
        cost=TWICE,
        tasks=("generation",),
    ),
)
