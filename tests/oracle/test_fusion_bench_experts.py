"""What learns and what routes, beside FusionBench's modules on the same tensors and inputs: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lfm_tasks.catalogue import METHODS
from lfm_tasks.models.mixtures.smile import SmileLinear
from lfm_tasks.models.mixtures.task_vectors import Router, combined
from lfm_tasks.models.mixtures.wemoe import Gate, Padding, WeightEnsembling
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.adapting import descend
from lfm_tasks.reuse.learning import Learning
from lfm_tasks.reuse.merged import Merged
from lfm_tasks.reuse.mixtures.smile import layer_tensors
from lfm_tasks.reuse.plan import plan
from lfm_tasks.reuse.tasks import open_task
from tests.experts import train_experts
from tests.oracle.fusion_bench_runs import Case, results
from tests.tuned import Context

WIDTH, INNER, EXPERTS = 12, 20, 3
SMILES = {
    f"smile-{name}": options
    for name, options in {
        "one": {"k": 4, "gate_k": 3, "top_k": 1},
        "two": {"k": 6, "gate_k": 5, "top_k": 2},
        "all": {"k": WIDTH, "gate_k": 1, "top_k": EXPERTS},
        "dense": {"k": 0, "gate_k": 4, "top_k": 1},
    }.items()
}
WEMOES = {f"wemoe-{depth}-{reduced}": (depth, reduced) for depth in (0, 1, 2) for reduced in (False, True)}
PARETOS = {f"pareto-{depth}": depth for depth in (1, 2)}


def draw(*shape: int, seed: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tuned(build, seed: int = 0) -> tuple[nn.Module, list[nn.Module]]:
    """A base and experts whose parameters moved away from it."""
    torch.manual_seed(seed)
    base, experts = build(), [build() for _ in range(EXPERTS)]
    for place, expert in enumerate(experts):
        moved = {name: one.detach() + draw(*one.shape, seed=100 * place + len(name), size=0.1) for name, one in base.named_parameters()}
        expert.load_state_dict(moved)
    return base, experts


def layer() -> nn.Linear:
    return nn.Linear(WIDTH, INNER)


def feed_forward() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))


def named(base: nn.Module, experts: list[nn.Module]) -> dict[str, torch.Tensor]:
    found = {f"base/{name}": one.detach() for name, one in base.named_parameters()}
    for place, expert in enumerate(experts):
        found |= {f"model{place}/{name}": one.detach() for name, one in expert.named_parameters()}
    return found


def task_vectors(base: nn.Module, experts: list[nn.Module]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([expert.get_parameter(name) - one for expert in experts]).detach() for name, one in base.named_parameters()}


def router(width: int, depth: int, hidden: int) -> Router:
    made = Router(width, EXPERTS, depth, hidden)
    made.load_state_dict({name: draw(*one.shape, seed=len(name), size=0.3) for name, one in made.state_dict().items()})
    return made


def routers_tensors(one: Router) -> dict[str, torch.Tensor]:
    return {f"router/{name}": tensor for name, tensor in one.state_dict().items()}


X = draw(5, 7, WIDTH, seed=9)
PREFERENCE = torch.tensor([0.2, 0.5, 0.3])


@pytest.fixture(scope="module")
def learning(tmp_path_factory) -> Learning:
    """Two classifiers of other classes on one bare base, their tasks, and coefficients for every tensor."""
    root = tmp_path_factory.mktemp("experts")
    inputs = train_experts(root, steps=20)
    base = step.open_checkpoint(inputs["base"])
    models = [step.open_checkpoint(inputs[f"models.{place}"]).inside(base) for place in (0, 1)]
    tasks = [open_task(inputs[f"models.{place}"], models[place], inputs[f"datasets.{place}"], "validation") for place in (0, 1)]
    return Learning(base, models, plan(base, models, METHODS["adamerging"].function), tasks, 0, Context(root / "work"))


@pytest.fixture(scope="module")
def coefficients(learning) -> torch.Tensor:
    """[tensors, models] inside of 0 to 1, where the leader's clamp does nothing."""
    return torch.rand(len(learning.merged), 2, generator=torch.Generator().manual_seed(2))


def adamerging_case(learning: Learning, coefficients: torch.Tensor) -> Case:
    tensors = {f"coefficients/{name}": row for name, row in zip(learning.merged, coefficients, strict=True)}
    for place, task in enumerate(learning.tasks):
        batch = next(task.stream(6, seed=4))
        tensors |= {f"batch{place}/{key}": batch[key] for key in ("input_ids", "attention_mask")}
    return Case(
        "adamerging", tensors, {"base": str(learning.base.directory), "directories": [str(one.directory) for one in learning.models]}
    )


@pytest.fixture(scope="module")
def theirs(fusion_bench, learning, coefficients, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    cases = {"adamerging": adamerging_case(learning, coefficients)}
    cases |= {key: Case("smile", named(*tuned(layer)) | {"given/x": X}, options) for key, options in SMILES.items()}
    for key, (depth, reduced) in WEMOES.items():
        tensors = named(*tuned(feed_forward)) | routers_tensors(router(WIDTH, depth, WIDTH)) | {"given/x": X}
        cases[key] = Case("wemoe", tensors, {"depth": depth, "batch_reduce": reduced})
    for key, depth in PARETOS.items():
        tensors = named(*tuned(feed_forward)) | routers_tensors(router(EXPERTS, depth, 2 * EXPERTS))
        cases[key] = Case("pareto", tensors | {"given/x": X, "given/preference": PREFERENCE}, {"depth": depth})
    return results(fusion_bench, cases, tmp_path_factory.mktemp("fusion_bench"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_adamergings_model_entropy_and_gradient(theirs, learning, coefficients):
    """Their logarithm has 1e-8 added to its argument."""
    found, merged = theirs["adamerging"], Merged(learning)
    merged.remake(coefficients)
    for name in learning.merged:
        close(merged.leaves[name].detach(), found[f"merged/{name}"])
    close(torch.tensor(descend(merged, learning.tasks, [next(task.stream(6, seed=4)) for task in learning.tasks])), found["losses"])
    gradient = merged.by_coefficients()
    assert gradient.abs().max() > 1e-2
    for name, row in zip(learning.merged, gradient, strict=True):
        close(row, found[f"gradient/{name}"])


@pytest.mark.parametrize("key", SMILES)
def test_smiles_layer(theirs, key):
    base, experts = tuned(layer)
    vectors, options = task_vectors(base, experts), SMILES[key]
    made = layer_tensors(vectors["weight"], vectors["bias"], options["k"], options["gate_k"])
    parts = [one if one is None else one.float() for one in map(made.get, ("gate", "down", "up", "offset"))]
    close(SmileLinear(base, *parts, top_k=options["top_k"])(X).detach(), theirs[key]["output"])


@pytest.mark.parametrize("key", WEMOES)
def test_wemoes_feed_forward_and_the_gradient_of_its_router(theirs, key):
    depth, reduced = WEMOES[key]
    base, experts = tuned(feed_forward)
    one = router(WIDTH, depth, WIDTH)
    output = WeightEnsembling(base, task_vectors(base, experts), Gate(Padding(), reduced=reduced), one)(X)
    check_routed(output, one, theirs[key])


@pytest.mark.parametrize("key", PARETOS)
def test_paretos_feed_forward_and_the_gradient_of_its_router(theirs, key):
    base, experts = tuned(feed_forward)
    one = router(EXPERTS, PARETOS[key], 2 * EXPERTS)
    vectors, weights = task_vectors(base, experts), one(PREFERENCE)
    tensors = {name: combined(parameter.detach(), vectors[name], weights) for name, parameter in base.named_parameters()}
    check_routed(functional_call(base, tensors, X), one, theirs[key])


def check_routed(output: torch.Tensor, one: Router, found: dict[str, torch.Tensor]) -> None:
    close(output.detach(), found["output"])
    output.square().sum().backward()
    assert {name for name in found if name != "output"} == {f"gradient/{name}" for name, _ in one.named_parameters()}
    for name, parameter in one.named_parameters():
        close(parameter.grad, found[f"gradient/{name}"])
