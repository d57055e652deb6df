"""Is what the model writes about an edited subject still text, and does it fit the new fact? (Meng et al. 2022, arXiv 2202.05262)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lfm_tasks.seeds import derive_seed

TOP_K = 5
WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def fluency_entropy(text: str) -> float:
    """(2/3 H_2 + 4/3 H_3) / 2 in bits, H_n the entropy of the text's n-grams of words. Text that repeats itself has little."""
    words = words_of(text)
    return sum(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """Bits; 0 of fewer than ``n`` words."""
    counts = np.array(list(Counter(zip(*(words[k:] for k in range(n)), strict=False)).values()), float)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def words_of(text: str) -> list[str]:
    """Words and single marks."""
    return re.findall(r"\w+|[^\w\s]", text)


def consistency(texts: Sequence[str], references: Sequence[str], corpus: Sequence[str]) -> float:
    """Cosine of the tf-idf vectors of two bodies of text, joined; inverse document frequencies are those of ``corpus``.

    ``idf = ln((1 + n) / (1 + df)) + 1``, so that a word of every document still counts, and an unknown one counts most.
    """
    documents = [set(_terms(text)) for text in corpus]
    frequency = Counter(word for document in documents for word in document)

    def vector(body: Sequence[str]) -> dict[str, float]:
        counts = Counter(word for text in body for word in _terms(text))
        return {word: count * (np.log((1 + len(documents)) / (1 + frequency[word])) + 1) for word, count in counts.items()}

    ours, theirs = vector(texts), vector(references)
    norms = [float(np.sqrt(sum(value**2 for value in one.values()))) for one in (ours, theirs)]
    dot = sum(value * theirs.get(word, 0.0) for word, value in ours.items())
    return float(dot / (norms[0] * norms[1])) if all(norms) else 0.0


def _terms(text: str) -> list[str]:
    return [word.casefold() for word in words_of(text) if word[0].isalnum()]


class TopKSampling:
    """A logits processor that makes the likeliest token a draw from the softmax of the ``TOP_K`` highest logits (Gumbel's trick).

    The noise of each row is keyed by its prompt and its place, so that the text does not depend on what else is in the batch.
    """

    def __init__(self, prompts: Sequence[str], seed: int) -> None:
        self._generators = [np.random.default_rng(derive_seed(seed, "fluency", prompt)) for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` ``[batch, vocabulary]``"""
        top = scores.topk(min(TOP_K, scores.shape[-1]), dim=-1)
        noise = np.stack([generator.gumbel(size=top.values.shape[-1]) for generator in self._generators])
        noisy = top.values.double() + torch.from_numpy(noise).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(-1, top.indices, noisy.to(scores.dtype))
