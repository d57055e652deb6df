"""Cards of the statistics. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import Card

CARDS = (
    Card(
        name="gram",
        area="statistics",
        step="statistics",
        title="Gram matrices",
        config="lfm_tasks.statistics.config:GramConfig",
        implementation="lfm_tasks.statistics.gram:gram",
        paper="Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models (arXiv 2212.09849)",
        access=("weights", "activations"),
        preconditions="A model with linear layers, and rows of its task; labels are not read.",
        cost="One forward pass of each row, and a matrix [in, in] in memory for each input of linear layers.",
    ),
    Card(
        name="fisher_information",
        area="statistics",
        step="statistics",
        title="Diagonal Fisher information",
        config="lfm_tasks.statistics.config:FisherInformationConfig",
        implementation="lfm_tasks.statistics.fisher:fisher_information",
        paper="Matena and Raffel 2021, Merging Models with Fisher-Weighted Averaging (arXiv 2111.09832)",
        access=("weights", "gradients", "probabilities"),
        preconditions="A tuned classifier or decoder, and rows of its task.",
        cost="A gradient for each row, and with estimator=true for each class but one; three or four times the model in memory.",
    ),
    Card(
        name="key_moments",
        area="statistics",
        step="statistics",
        title="Second moments of keys",
        config="lfm_tasks.statistics.config:KeyMomentsConfig",
        implementation="lfm_tasks.statistics.key_moments:key_moments",
        paper="Meng et al. 2022, Locating and Editing Factual Associations in GPT (arXiv 2202.05262)",
        access=("weights", "activations"),
        preconditions="A decoder, and rows of general text: ten tokens for each dimension of a key, two at the least.",
        cost="One forward pass of each row up to the deepest layer, and a matrix [d_k, d_k] in float64 for each layer.",
    ),
)
