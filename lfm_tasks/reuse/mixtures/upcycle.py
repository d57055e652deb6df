"""Dense models to a sparse mixture of experts in an architecture that transformers has built in: Mixtral of Llama and Mistral.

Attention, norms and embeddings are the base's; every layer has the feed-forwards of all models and a gate. Written tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import MixtralConfig

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.forward import Batch, forward
from lfm_tasks.models.opening import read_config
from lfm_tasks.models.resuming import below, under
from lfm_tasks.models.saving import save_companions
from lfm_tasks.reuse.mixtures.method import Mixing, MixMethod
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.tasks import Task
from lfm_tasks.reuse.writing import Writer
from lfm_tasks.seeds import derive_seed

DENSE = ("llama", "mistral")
PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""Matrices of a dense feed-forward by their names in a Mixtral's files."""
FEED_FORWARD = re.compile(r"(model\.layers\.\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
BATCH = 16


def build(mixing: Mixing, directory: Path) -> dict[str, float]:
    options = mixing.options
    config = mixtral_config(mixing)
    if options.gate == "hidden" and not mixing.tasks:
        raise ConfigError("gate=hidden needs prompts of each model's task. Give the input 'datasets', or choose gate=random or uniform.")
    gates = make_gates(mixing, config)
    planned, steps = plan_tensors(mixing, gates), sum(batches_of(mixing)) if options.gate == "hidden" else 0
    writer = Writer(directory, planned)
    try:
        for done, (name, tensor) in enumerate(tensors(mixing, gates), start=steps + 1):
            writer.write(name, tensor)
            mixing.context.report(done, steps + len(planned))
    finally:
        writer.close()
    described = mixing.context.workdir / "described"
    described.mkdir()
    save_companions(mixing.base.directory, described, stock=False)
    config.save_pretrained(described)
    save_companions(described, directory)
    size = sum(torch.Size(one.shape).numel() for one in planned)
    dense = sum(torch.Size(one.shape).numel() for one in mixing.base.tensors.values())
    return {"mixed_modules": float(len(gates)), "extra_parameters": float(size - dense)}


def mixtral_config(mixing: Mixing) -> MixtralConfig:
    """Raises :class:`IncompatibleModels` for a base that no Mixtral equals, :class:`ConfigError` for more experts than there are."""
    dense, options, experts = read_config(mixing.base.directory), mixing.options, len(mixing.models)
    if dense.model_type not in DENSE or any(name.endswith(".bias") for name in mixing.base.tensors):
        raise IncompatibleModels(
            f"{mixing.base.name} is a {dense.model_type} model; a Mixtral is made of {' and '.join(DENSE)} decoders without biases. "
            "Mix others by smile."
        )
    if options.experts_per_token > experts:
        raise ConfigError(f"experts_per_token {options.experts_per_token}: choose between 1 and the number of experts, {experts}.")
    own = {"num_local_experts": experts, "num_experts_per_tok": options.experts_per_token, "architectures": ["MixtralForCausalLM"]}
    shared = {key: value for key, value in dense.to_dict().items() if key in MixtralConfig().to_dict() and key != "model_type"}
    return MixtralConfig(**{"sliding_window": None} | shared | own)


def plan_tensors(mixing: Mixing, gates: dict[str, Tensor]) -> list[Planned]:
    planned = [Planned(name, "model.safetensors", gate.dtype, tuple(gate.shape), 0.0, False) for name, gate in gates.items()]
    for name, info in mixing.base.tensors.items():
        names = [expert_name(name, place) for place in range(len(mixing.models))] if FEED_FORWARD.fullmatch(name) else [name]
        planned += [Planned(one, "model.safetensors", info.dtype, info.shape, 0.0, False) for one in names]
    return planned


def tensors(mixing: Mixing, gates: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each model's and the base's tensors in the order of their files, those that the result does not have too: see ``passing``."""
    yield from gates.items()
    for name in mixing.passing(mixing.base.tensors):
        base, *experts = (one.read(name) for one in (mixing.base, *mixing.models) if name in one.tensors)
        if FEED_FORWARD.fullmatch(name):
            for place, expert in enumerate(experts):
                yield expert_name(name, place), expert.to(base.dtype)
        else:
            yield name, base


def expert_name(name: str, expert: int) -> str:
    layer, part = FEED_FORWARD.fullmatch(name).groups()
    return f"{layer}.block_sparse_moe.experts.{expert}.{PARTS[part]}.weight"


def make_gates(mixing: Mixing, config: MixtralConfig) -> dict[str, Tensor]:
    """[experts, hidden] for each layer, in the precision of the base."""
    shape, kind = (len(mixing.models), config.hidden_size), mixing.options.gate
    dtype = mixing.base.tensors["model.layers.0.mlp.up_proj.weight"].dtype
    means = hidden_means(mixing) if kind == "hidden" else None
    gates = {}
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.block_sparse_moe.gate.weight"
        generator = torch.Generator().manual_seed(derive_seed(mixing.config.seed, name))
        if means is not None:
            gate = means[layer]
        else:
            gate = torch.zeros(shape) if kind == "uniform" else 0.02 * torch.randn(shape, generator=generator)
        gates[name] = gate.to(dtype)
    return gates


def hidden_means(mixing: Mixing) -> list[Tensor]:
    """For each layer the direction [experts, hidden] of what the base's feed-forward is given on the prompts of each task."""
    counts, before = batches_of(mixing), mixing.kept()
    done, sums = int(before.get("step", 0)), below(before, "sum")

    def state() -> dict[str, Tensor]:
        return {"step": torch.tensor(done)} | under(sums, "sum")

    for place, (task, count) in enumerate(zip(mixing.tasks, counts, strict=True)):
        task.module.load_state_dict(mixing.held, strict=False)
        batches = islice(task.stream(batch_size(mixing), mixing.config.seed), max(0, done - sum(counts[:place])), count)
        for batch in batches:
            for layer, total in enumerate(inputs_of_feed_forwards(task, batch)):
                sums[f"{place}/{layer}"] = sums.get(f"{place}/{layer}", 0.0) + total
            done += 1
            mixing.report(done, sum(counts), state)
    layers = range(len(sums) // len(counts))
    return [nn.functional.normalize(torch.stack([sums[f"{place}/{layer}"] for place in range(len(counts))]), dim=-1) for layer in layers]


def batch_size(mixing: Mixing) -> int:
    return min(BATCH, mixing.options.rows)


def batches_of(mixing: Mixing) -> list[int]:
    """How many of each task's are behind its mean."""
    return [-(-min(mixing.options.rows, len(task.rows)) // batch_size(mixing)) for task in mixing.tasks]


@torch.no_grad()
def inputs_of_feed_forwards(task: Task, batch: Batch) -> list[Tensor]:
    """The sum [hidden] over the tokens of what each layer's is given."""
    feeds = [module for name, module in task.module.named_modules() if re.fullmatch(r"model\.layers\.\d+\.mlp", name)]
    mask, sums = batch["attention_mask"].float().unsqueeze(-1), {}
    with ExitStack() as hooks:
        for place, module in enumerate(feeds):
            hooks.enter_context(
                module.register_forward_pre_hook(lambda _, given, place=place: sums.update({place: (given[0] * mask).sum((0, 1))}))
            )
        forward(task.module, batch)
    return [sums[place] for place in range(len(feeds))]


UPCYCLE = MixMethod(build, data="optional")
