"""Gram matrices of the inputs of linear layers (Jin et al. 2023): X^T X / tokens."""

from __future__ import annotations

import torch

from lfm_tasks.models.layer_inputs import input_products, linear_layers
from lfm_tasks.models.resuming import kept
from lfm_tasks.statistics.config import GramConfig
from lfm_tasks.statistics.subject import Gathered, Subject


def gram(subject: Subject, options: GramConfig) -> Gathered:
    """[in, in] for each linear layer. Layers with one input (query, key and value) have one matrix."""
    layers = {name: layer for name, layer in linear_layers(subject.model).items() if name in subject.stored}
    seen = 0
    with torch.no_grad(), input_products(layers) as products:
        if before := kept(subject.context):
            seen = int(before.pop("seen"))
            products.load({name: tensor.to(subject.model.device) for name, tensor in before.items()})
            subject.context.log(f"Resumed: {seen} of {len(subject.rows)} rows were seen before.")
        for batch in subject.batches(seen):
            subject.model(**batch)
            seen += len(batch["input_ids"])
            subject.report(seen, lambda seen=seen: {"seen": torch.tensor(seen)} | products.state())
    described = {
        name: {"stored_as": owner, "input_axis": layers[name].input_axis, "tokens": products.tokens[owner]}
        for name, owner in products.shared.items()
    }
    return Gathered({name: products.mean(name) for name in products.sums}, described)
