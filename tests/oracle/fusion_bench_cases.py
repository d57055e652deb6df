"""Run by FusionBench's interpreter: ``INPUTS.safetensors CASES.json RESULTS.safetensors``.

A case: ``id``, ``run`` (a name in ``RUNS``), ``options``, ``tensors`` (what the run calls them, to names of inputs). A run returns named
tensors; they come back as ``<id>/<name>``. For another peer implementation add a function to ``RUNS``.
"""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method import SimpleAverageAlgorithm, TaskArithmeticAlgorithm, TiesMergingAlgorithm
from fusion_bench.method.adamerging.entropy_loss import entropy_loss
from fusion_bench.method.dare.task_arithmetic import DareTaskArithmetic
from fusion_bench.method.dare.ties_merging import DareTiesMerging
from fusion_bench.method.fisher_merging.fisher_merging import fisher_merging, merging_with_fisher_weights
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.pwe_moe.module import ParetoWeightEnsemblingModule
from fusion_bench.method.regmean.regmean import merging_with_regmean_weights, regmean_merging
from fusion_bench.method.slerp.slerp import SlerpMergeAlgorithm
from fusion_bench.models.smile_moe.linear_from_module import SmileMoELinear
from fusion_bench.models.we_moe import WeightEnsemblingMoE
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

EVERYTHING = {"only_on_linear_weights": False, "rescale": True}


def grouped(tensors):
    """``model/tensor`` to tensors by model."""
    found = defaultdict(dict)
    for name, tensor in tensors.items():
        model, _, rest = name.partition("/")
        found[model][rest] = tensor
    return found


class Parameters(nn.Module):
    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))


def algorithm(build):
    """A run of an algorithm on the models that are not draws; draws replace the numbers of ``torch.rand_like``, in order."""

    def run(tensors, **options):
        models = grouped(tensors)
        draws = iter(models.pop("draws", {}).values())
        torch.rand_like = lambda like: next(draws).reshape(like.shape)
        pool = BaseModelPool({"_pretrained_" if name == "base" else name: Parameters(one) for name, one in models.items()})
        return dict(build(**options).run(pool).state_dict())

    return run


def listed(models, name):
    return [one[name] for one in models]


def fisher(tensors, coefficients, **options):
    models = grouped(tensors)
    information = [models.pop(name) for name in sorted(name for name in models if name.startswith("information"))]
    parameters = {name: listed(models.values(), name) for name in information[0]}
    return merging_with_fisher_weights(parameters, information, torch.tensor(coefficients), **options)


def regmean(tensors, **options):
    models = grouped(tensors)
    grams = [models.pop(name) for name in sorted(name for name in models if name.startswith("gram"))]
    names = next(iter(models.values()))
    return merging_with_regmean_weights({name: listed(models.values(), name) for name in names}, grams, **options)


class Trainer:
    def __init__(self, batches, size):
        self.batches, self._train_batch_size = batches, size

    def get_train_dataloader(self):
        return self.batches

    def _prepare_inputs(self, inputs):
        return inputs


def from_data(merge, count):
    """A run on whole classifiers in ``directories``; the tensors are each one's batches, ``model/place/name``."""

    def run(tensors, directories, rows, batch_size, **options):
        models = [AutoModelForSequenceClassification.from_pretrained(one, dtype=torch.float32) for one in directories]
        batches = [list(grouped(one).values()) for _, one in sorted(grouped(tensors).items())]
        trainers = [Trainer(one, batch_size) for one in batches]
        return merge(models, trainers, [], **{count: [rows] * len(models)}, **options)

    return run


def adamerging(tensors, base, directories):
    """The merged tensors, each task's entropy and its sum's gradient [models] by each tensor's coefficients [models], heads their own."""
    given = grouped(tensors)
    backbones = [AutoModel.from_pretrained(one, dtype=torch.float32).eval() for one in (base, *directories)]
    heads = [AutoModelForSequenceClassification.from_pretrained(one, dtype=torch.float32).eval() for one in directories]
    names = [name for name, _ in backbones[0].named_parameters()]
    coefficients = torch.stack([given["coefficients"][name] for name in names], 1)
    merged = LayerWiseMergedModel(coefficients, backbones[0], backbones[1:], strict=False)  # buffers are not in the state dict
    losses = []
    for place, head in enumerate(heads):
        merged.merge_weights()
        losses.append(entropy_loss(head.classifier(merged(**given[f"batch{place}"]).pooler_output)))
    sum(losses).backward()
    found = {f"merged/{name}": merged._merged_state_dict[name] for name in names}
    found |= {f"gradient/{name}": merged.merge_weight.grad[:, place] for place, name in enumerate(names)}
    return found | {"losses": torch.stack(losses)}


def linear(tensors):
    layer = nn.Linear(*reversed(tensors["weight"].shape), bias="bias" in tensors)
    layer.load_state_dict(tensors)
    return layer


def feed_forward(tensors):
    return nn.Sequential(linear_of(tensors, "0"), nn.GELU(), linear_of(tensors, "2"))


def linear_of(tensors, name):
    return linear({key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")})


def built(tensors, build):
    """Modules made of the base's tensors and of each model's, and the other tensors."""
    models = grouped(tensors)
    base, rest = build(models.pop("base")), {name: models.pop(name) for name in ("given", "router") if name in models}
    return base, [build(one) for one in models.values()], rest


def smile(tensors, **options):
    base, models, rest = built(tensors, linear)
    return {"output": SmileMoELinear(base, models, **options)(rest["given"]["x"])}


def routed(module, router, names, x):
    """The output, and the gradient of the sum of its squares by the router; ``names``: theirs by ours."""
    parameters = {ours: module.gate.get_parameter(theirs) for ours, theirs in names.items()}
    with torch.no_grad():
        for ours, parameter in parameters.items():
            parameter.copy_(router[ours])
    output = module(x)
    output.square().sum().backward()
    return {"output": output} | {f"gradient/{ours}": parameter.grad for ours, parameter in parameters.items()}


def wemoe(tensors, depth, **options):
    base, models, rest = built(tensors, feed_forward)
    x, width = rest["given"]["x"], rest["given"]["x"].shape[-1]
    module = WeightEnsemblingMoE(width, base, models, batch_first=True, router_hidden_layers=depth, **options)
    return routed(module, rest["router"], [GATE_0, GATE_1, GATE_2][depth], x)


def pareto(tensors, depth):
    base, models, rest = built(tensors, feed_forward)
    module = ParetoWeightEnsemblingModule(base, models, router_hidden_layers=depth)
    ParetoWeightEnsemblingModule.set_preferenece_vector(module, rest["given"]["preference"])
    return routed(module, rest["router"], PREFERENCE_1 if depth == 1 else PREFERENCE_2, rest["given"]["x"])


GATE_0 = {"bias": "weight"}
GATE_1 = {f"out.{part}": f"fc.{part}" for part in ("weight", "bias")}
GATE_2 = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in (("hidden", "fc1"), ("out", "fc2")) for part in ("weight", "bias")}
PREFERENCE_1 = {f"out.{part}": f"0.{part}" for part in ("weight", "bias")}
PREFERENCE_2 = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in (("hidden", 0), ("out", 2)) for part in ("weight", "bias")}

RUNS = {
    "adamerging": adamerging,
    "smile": smile,
    "wemoe": wemoe,
    "pareto": pareto,
    "average": algorithm(SimpleAverageAlgorithm),
    "task_arithmetic": algorithm(TaskArithmeticAlgorithm),
    "ties": algorithm(lambda **options: TiesMergingAlgorithm(remove_keys=[], **options)),
    "dare_linear": algorithm(lambda **options: DareTaskArithmetic(**EVERYTHING, **options)),
    "dare_ties": algorithm(lambda **options: DareTiesMerging(**EVERYTHING, remove_keys=[], **options)),
    "slerp": algorithm(SlerpMergeAlgorithm),
    "model_stock": algorithm(ModelStock),
    "fisher": fisher,
    "regmean": regmean,
    "fisher_from_data": from_data(fisher_merging, "nums_fisher_examples"),
    "regmean_from_data": from_data(regmean_merging, "nums_regmean_examples"),
}


def main(inputs, cases, results):
    tensors, found = load_file(inputs), {}
    for case in json.loads(Path(cases).read_text()):
        given = {name: tensors[key] for name, key in case["tensors"].items()}
        with redirect_stdout(sys.stderr):
            made = RUNS[case["run"]](given, **case["options"])
        found |= {f"{case['id']}/{name}": tensor.detach().contiguous().clone() for name, tensor in made.items()}
    save_file(found, results)


main(*sys.argv[1:])
