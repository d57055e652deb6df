"""Second moments of the keys of a decoder's MLPs (Meng et al. 2022, section 3.1): the sum of k k^T at the input of the last matrix.

Sums and counts are kept apart, so that statistics of parts of the rows add up to those of all rows (``adding.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lfm_tasks.models.decoder import Decoder, Site
from lfm_tasks.models.partial import run, watched
from lfm_tasks.statistics.config import KeyMomentsConfig
from lfm_tasks.statistics.subject import Gathered, Subject


def key_moments(subject: Subject, options: KeyMomentsConfig) -> Gathered:
    """sum k k^T [d_k, d_k] in float64, of every candidate layer in one pass that ends at the deepest."""
    decoder = Decoder(subject.model)
    sites = [decoder.site(layer) for layer in options.layers or range((len(decoder.layers) + 1) // 2)]
    first, tokens, seen = int(options.drop_first), 0, 0
    sums: dict[str, Tensor] = {}
    with torch.no_grad(), watched(inputs=[site.module for site in sites]) as given:
        for batch in subject.batches():
            run(decoder, batch["input_ids"])
            for site, keys in zip(sites, given, strict=True):
                _add(sums, site.name, keys[:, first:].flatten(0, 1))
            tokens += batch["input_ids"][:, first:].numel()
            seen += len(batch["input_ids"])
            subject.context.report(seen, len(subject.rows))
    width = max(len(one) for one in sums.values())
    if tokens < 10 * width:
        subject.context.log(
            f"{tokens:,} tokens for keys of width {width:,}: fewer than ten a dimension. Raise max_rows, or give more text."
        )
    return Gathered(sums, {site.name: described(site, tokens) for site in sites})


def described(site: Site, tokens: int) -> dict[str, Any]:
    return {"stored_as": site.name, "input_axis": 0 if site.transposed else 1, "tokens": tokens, "layer": site.layer}


def _add(sums: dict[str, Tensor], name: str, keys: Tensor) -> None:
    """A batch's products are summed in the model's precision, the batches in float64."""
    product = (keys.T @ keys).double().cpu()
    sums[name] = sums[name].add_(product) if name in sums else product
