"""Perplexity and bits per byte, from each sample's negative log-likelihood in nats."""

from __future__ import annotations

import numpy as np

from lfm_tasks.metrics.metric import Metric, ratio_of


def perplexity() -> Metric:
    """``exp(sum of nll / sum of tokens)``: every token counts the same, not every sample. Two values compare by their ratio."""
    features, statistic = ratio_of(lambda samples: samples["nll"], lambda samples: samples["tokens"], np.exp)
    return Metric("perplexity", False, features, statistic, scale="log_ratio")


def bits_per_byte() -> Metric:
    """``sum of nll / (ln 2 * sum of bytes)``, which models with different tokenizers can be compared by."""
    features, statistic = ratio_of(lambda samples: samples["nll"] / np.log(2), lambda samples: samples["bytes"])
    return Metric("bits per byte", False, features, statistic, scale="log_ratio")
