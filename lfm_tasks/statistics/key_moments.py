"""Second moments of the keys of a decoder's MLPs (Meng et al. 2022, section 3.1): the sum of k k^T at the input of the last matrix.

Sums and counts are kept apart, so that statistics of parts of the rows add up to those of all rows (``adding.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.partial import run, told
from lfm_tasks.models.resuming import kept
from lfm_tasks.statistics.config import KeyMomentsConfig
from lfm_tasks.statistics.subject import Gathered, Subject


def key_moments(subject: Subject, options: KeyMomentsConfig) -> Gathered:
    """sum k k^T [d_k, d_k] in float64, of every candidate layer in one pass that ends at the deepest."""
    decoder = Decoder(subject.model)
    sites = [decoder.site(layer) for layer in options.layers or range((len(decoder.layers) + 1) // 2)]
    first, sums = int(options.drop_first), kept(subject.context)
    seen, tokens = (int(sums.pop(name, 0)) for name in ("seen", "tokens"))
    if seen:
        subject.context.log(f"Resumed: {seen} of {len(subject.rows)} rows were seen before.")

    def add(place: int, keys: Tensor) -> None:
        _add(sums, sites[place].name, keys[:, first:].flatten(0, 1))

    with torch.no_grad(), told(add, inputs=[site.module for site in sites]):
        for batch in subject.batches(seen):
            run(decoder, batch["input_ids"])
            tokens += batch["input_ids"][:, first:].numel()
            seen += len(batch["input_ids"])
            counts = {"seen": torch.tensor(seen), "tokens": torch.tensor(tokens)}
            subject.report(seen, lambda counts=counts: counts | sums)
    width = max(len(one) for one in sums.values())
    if tokens < 10 * width:
        subject.context.log(
            f"{tokens:,} tokens for keys of width {width:,}: fewer than ten a dimension. Raise max_rows, or give more text."
        )
    found = {
        site.name: {"stored_as": site.name, "input_axis": 0 if site.transposed else 1, "tokens": tokens, "layer": site.layer}
        for site in sites
    }
    return Gathered(sums, found)


def _add(sums: dict[str, Tensor], name: str, keys: Tensor) -> None:
    """A batch's products are summed in the model's precision, the batches in float64."""
    product = (keys.T @ keys).double().cpu()
    sums[name] = sums[name].add_(product) if name in sums else product
