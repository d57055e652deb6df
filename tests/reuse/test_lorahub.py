"""LoraHub: the search on losses in closed form, and the step on rows that a composition of two adapters labelled."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.opening import open_model
from lfm_tasks.reuse.adapters import merge as step
from lfm_tasks.reuse.adapters.config import LorahubConfig, MergeAdaptersConfig
from lfm_tasks.reuse.adapters.lorahub import search
from lfm_tasks.step import Input
from tests.loras import make_lora
from tests.tuned import LABELS, Context, bert_input, llama_input, write_dataset

HEAD = "base_model.model.classifier.weight"


def bowl(weights: list[float]) -> float:
    return (weights[0] - 0.6) ** 2 + 2 * (weights[1] + 0.3) ** 2 + weights[0] * weights[1]


def test_the_search_ends_at_the_minimum_of_loss_and_penalty(tmp_path):
    """Where w_0 > 0 > w_1: 2 w_0 + w_1 = 1.2 - p and w_0 + 4 w_1 = p - 1.2."""
    penalty = 0.2
    context = Context(tmp_path)
    found = search(bowl, 2, LorahubConfig(penalty=penalty, evaluations=60), context)
    expected = torch.linalg.solve(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), torch.tensor([1.2 - penalty, penalty - 1.2]))
    assert found.weights == pytest.approx(expected.tolist(), abs=2e-3)
    assert found.objectives[0] == bowl([0, 0]) and len(found.objectives) == len(context.reports) <= 60


def test_weights_stay_within_their_bound_and_a_large_penalty_leaves_none(tmp_path):
    tried = []

    def steep(weights: list[float]) -> float:
        tried.append(weights)
        return -weights[0] - 3 * weights[1]

    assert search(steep, 2, LorahubConfig(penalty=0.5, bound=0.7), Context(tmp_path)).weights == pytest.approx([0.7, 0.7])
    assert all(abs(weight) <= 0.7 for weights in tried for weight in weights)
    assert search(steep, 2, LorahubConfig(penalty=4), Context(tmp_path)).weights == [0, 0]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[list[Input], Input]:
    """Two adapters, and rows whose classes the second one gave under the first one's head. There is no split but train."""
    root = tmp_path_factory.mktemp("labelled")
    base = bert_input(root / "bert", labels=LABELS)
    adapters = [make_lora(base, root / f"a{seed}", seed=seed, labels=LABELS, alpha=40) for seed in (1, 2)]
    dataset = write_dataset(root / "rows", base.path, "classification", rows=48)
    tensors = load_file(adapters[0].path / "adapter_model.safetensors")
    tensors[HEAD] *= 100  # so that its logits tell classes apart
    save_file(tensors, adapters[0].path / "adapter_model.safetensors", {"format": "pt"})
    teacher = open_model(adapters[1])
    teacher.classifier.weight.data = tensors[HEAD]
    table = pq.read_table(dataset.path / "train.parquet")
    said = logits(teacher, table).argmax(1).tolist()
    assert len(set(said)) > 1
    table = table.set_column(table.column_names.index("label"), "label", pa.array(said, pa.int32()))
    pq.write_table(table, dataset.path / "train.parquet")
    for split in ("validation", "test"):
        (dataset.path / f"{split}.parquet").unlink()
    return adapters, dataset


@torch.no_grad()
def logits(model, table: pa.Table) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in table["input_ids"].to_pylist()])


def loss(adapter: Input, dataset: Input) -> float:
    table = pq.read_table(dataset.path / "train.parquet")
    return float(torch.nn.functional.cross_entropy(logits(open_model(adapter), table), torch.tensor(table["label"].to_pylist())))


@pytest.mark.parametrize("space", ["product", "factors"])
def test_what_is_found_is_better_than_the_obvious_and_what_is_measured_is_written(labelled, space, tmp_path):
    """The written adapter is cut to the adapters' rank: its loss is that of the best point, not of the uncut sum there."""
    adapters, dataset = labelled
    options = {"examples": 48, "evaluations": 20, "penalty": 0.0, "space": space}
    inputs = {"adapters.0": adapters[0], "adapters.1": adapters[1], "dataset": dataset}
    outcome = step.run(MergeAdaptersConfig(method="lorahub", options=options), inputs, Context(tmp_path / "found"))
    path = outcome.outputs["adapter"].path
    assert outcome.metrics["objective_best"] == pytest.approx(loss(written(path, adapters), dataset), rel=1e-5)
    obvious = [[0, 0], [1, 0], [0, 1], [0.5, 0.5]]
    assert outcome.metrics["objective_best"] < min(loss(combined(adapters, weights, tmp_path), dataset) for weights in obvious)
    again = step.run(MergeAdaptersConfig(method="lorahub", options=options), inputs, Context(tmp_path / "again"))
    assert again.summary == outcome.summary
    assert all(one.read_bytes() == (again.outputs["adapter"].path / one.name).read_bytes() for one in path.iterdir())


def combined(adapters: list[Input], weights: list[float], work) -> Input:
    config = MergeAdaptersConfig(method="lora_cat", options={"weights": weights})
    outcome = step.run(config, {f"adapters.{place}": one for place, one in enumerate(adapters)}, Context(work / str(weights)))
    return written(outcome.outputs["adapter"].path, adapters)


def written(path, adapters: list[Input]) -> Input:
    return Input("written", "adapter", "written", path, adapters[0].base)


def test_another_seed_chooses_other_examples(labelled, tmp_path):
    adapters, dataset = labelled
    inputs = {"adapters.0": adapters[0], "adapters.1": adapters[1], "dataset": dataset}
    options = {"examples": 8, "evaluations": 6}
    first, other, same = (
        step.run(MergeAdaptersConfig(method="lorahub", options=options, seed=seed), inputs, Context(tmp_path / str(place)))
        for place, seed in enumerate((0, 1, 0))
    )
    assert first.metrics["objective_first"] == same.metrics["objective_first"] != other.metrics["objective_first"]


def test_what_is_refused(labelled, tmp_path):
    adapters, dataset = labelled
    inputs = {"adapters.0": adapters[0], "adapters.1": adapters[1]}

    def run(given: dict[str, Input], **options):
        return step.run(MergeAdaptersConfig(method="lorahub", options=options), given, Context(tmp_path / "work"))

    with pytest.raises(ConfigError, match="lorahub chooses its weights on labelled rows. Give the input 'dataset'"):
        run(inputs)
    with pytest.raises(ConfigError, match="evaluations=5: the search over 2 weights needs 6 or more"):
        run(inputs | {"dataset": dataset}, evaluations=5)
    base = adapters[0].base.path
    with pytest.raises(ConfigError, match="text is a data set of the task text; the adapters are for classification. Give labelled rows"):
        run(inputs | {"dataset": write_dataset(tmp_path / "text", base, "text")})
    other = write_dataset(tmp_path / "other", base, "classification")
    (other.path / "dataset.json").write_text((other.path / "dataset.json").read_text().replace("sport", "weather"))
    with pytest.raises(IncompatibleModels, match="a1 tells the classes business, sport, tech apart"):
        run(inputs | {"dataset": other})
    llama = llama_input(tmp_path / "llama")
    speaking = {"adapters.0": make_lora(llama, tmp_path / "speaker", seed=1)}
    with pytest.raises(ConfigError, match="rows is a data set of the task classification; the adapters are for causal_lm"):
        run(speaking | {"dataset": dataset})
