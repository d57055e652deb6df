"""The step *align*: put the units of a model where those of a reference are, so that the two can be merged.

The reference stays. The step says which groups of units it found, and which tensors none of them stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.errors import ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.forward import batches, forward
from lfm_tasks.models.opening import check_vocabulary, open_as_saved
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.models.saving import save_companions
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.reuse.alignment.activations import correlate
from lfm_tasks.reuse.alignment.config import AlignConfig
from lfm_tasks.reuse.alignment.example import difference, example_inputs
from lfm_tasks.reuse.alignment.pair import Aligned, AlignMethod, Correlations, Pair
from lfm_tasks.reuse.alignment.progress import Progress
from lfm_tasks.reuse.alignment.specification import Specification, specify
from lfm_tasks.reuse.checkpoint import Checkpoint
from lfm_tasks.reuse.plan import Planned
from lfm_tasks.reuse.writing import Writer
from lfm_tasks.step import Input, Outcome, Output, StepContext

TOLERANCE = 1e-3
"""Largest difference of outputs, as a share of the largest output, that rounding accounts for."""
SHOWN = 20


def run(config: AlignConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    method: AlignMethod = METHODS[config.method].function
    options = config.method_config()
    needs_data = method.data == "required" or getattr(options, "ground", None) == "activations"
    if needs_data and "dataset" not in inputs:
        raise ConfigError(f"{config.method} compares activations on data, and no data set was given. Give the input 'dataset'.")
    networks = tuple(_open(inputs[name]) for name in ("reference", "model"))
    checkpoints = tuple(Checkpoint(inputs[name].reference, inputs[name].sha256, inputs[name].path) for name in ("reference", "model"))
    check_same_shapes(*checkpoints)
    example = example_inputs(networks[0])
    specification = specify(networks[0], lambda network: network(**example), tuple(config.fixed))
    check_names(checkpoints[1], networks[1])
    progress = Progress(context)
    correlations = _correlations(specification, networks, config, inputs, progress) if needs_data else None
    read = [{name: checkpoint.read(name) for name in checkpoint.tensors} for checkpoint in checkpoints]
    pair = Pair(specification, networks[0], read[0], read[1], correlations, config.seed, progress.decide)
    context.log(f"{len(specification.groups)} groups of {sum(specification.groups.values()):,} units.")
    aligned = method.align(pair, options)
    directory = context.workdir / "model"
    distances = write(pair, aligned, checkpoints[1], directory)
    save_companions(inputs["model"].path, directory)
    metrics = {
        "groups": float(len(specification.groups)),
        "units": float(sum(specification.groups.values())),
        "moved_units": float(aligned.moved),
        "output_difference": difference(networks[1], _open(Input("the result", "model", "", directory))),
        **distances,
        **aligned.metrics,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    check_function(method, metrics["output_difference"])
    summary = {"method": config.method, "reference": inputs["reference"].reference, **_found(specification, checkpoints[1])}
    return Outcome(outputs={"model": Output("model", directory)}, metrics=metrics, summary=summary)


def write(pair: Pair, aligned: Aligned, model: Checkpoint, directory: Any) -> dict[str, float]:
    """The result in the files and dtypes of the model; how far it is from the reference, and how far the model was."""
    planned = [
        Planned(name, info.file, info.dtype, info.shape, 0.0, name in pair.specification.axes) for name, info in model.tensors.items()
    ]
    before, after = Distance(), Distance()
    writer = Writer(directory, planned)
    try:
        for one in planned:
            tensor = aligned.tensor(one.name) if one.merged else pair.model[one.name]
            writer.write(one.name, tensor.to(one.dtype))
            if one.merged:
                before.add(pair.reference[one.name], pair.model[one.name])
                after.add(pair.reference[one.name], tensor)
    finally:
        writer.close()
    return {
        "l2_before": before.l2,
        "l2_after": after.l2,
        "cosine_before": before.cosine,
        "cosine_after": after.cosine,
    }


class Distance:
    """Between two models' weights, tensor by tensor, in float64."""

    def __init__(self) -> None:
        self.squares, self.product, self.norms = 0.0, 0.0, [0.0, 0.0]

    def add(self, one: Tensor, other: Tensor) -> None:
        one, other = one.reshape(-1).double(), other.reshape(-1).double()
        self.squares += float((one - other).square().sum())
        self.product += float(one @ other)
        self.norms = [norm + float(tensor @ tensor) for norm, tensor in zip(self.norms, (one, other), strict=True)]

    @property
    def l2(self) -> float:
        return self.squares**0.5

    @property
    def cosine(self) -> float:
        return self.product / max((self.norms[0] * self.norms[1]) ** 0.5, 1e-300)


def check_same_shapes(reference: Checkpoint, model: Checkpoint) -> None:
    mine, theirs = ({name: info.shape for name, info in one.tensors.items()} for one in (reference, model))
    differ = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if differ:
        shapes = [list(one[differ[0]]) if differ[0] in one else "absent" for one in (mine, theirs)]
        raise IncompatibleModels(
            f"Units match in models of one architecture only: '{differ[0]}' is {shapes[0]} in {reference.name} and {shapes[1]} in "
            f"{model.name} ({len(differ)} tensors differ)."
        )


def check_names(checkpoint: Checkpoint, network: PreTrainedModel) -> None:
    """Raise :class:`IncompatibleModels` for a stored weight that the opened model has under no name: it would stay where it is."""
    known = network.state_dict().keys()
    unknown = [name for name, info in checkpoint.tensors.items() if name not in known and info.dtype.is_floating_point]
    if unknown:
        raise IncompatibleModels(
            f"{checkpoint.name} stores '{unknown[0]}', which {type(network).__name__} does not have ({len(unknown)} such tensors). "
            "Open the model with transformers and save it again by save_pretrained."
        )


def check_function(method: AlignMethod, found: float) -> None:
    if method.exact and not found <= TOLERANCE:
        raise InvalidInput(
            f"The permuted model gives other outputs than before (they differ by {found:.1e} of the largest; {TOLERANCE:.0e} is rounding), "
            "so the model does something that following its axes does not show. Name tensors in fixed, or merge without aligning."
        )


def _open(source: Input) -> PreTrainedModel:
    """With attention spelled out in operations whose axes can be followed."""
    network = open_as_saved(source)
    network.set_attn_implementation("eager")
    return network


def _correlations(
    specification: Specification,
    networks: tuple[PreTrainedModel, ...],
    config: AlignConfig,
    inputs: Mapping[str, Input],
    progress: Progress,
) -> Correlations:
    rows = read_rows(inputs["dataset"].path, config.split, config.samples)
    if networks[0].main_input_name != "input_ids":
        raise IncompatibleModels(
            f"{inputs['model'].reference} takes {networks[0].main_input_name}, the rows of a data set are text. Use weight_matching."
        )
    for name, network in zip(("reference", "model"), networks, strict=True):
        check_vocabulary(network, tokenizer_digest(inputs[name].path), rows.description)
    pad = networks[0].config.pad_token_id or 0

    def correlations(*, joint: bool) -> dict[str, Tensor]:
        left = batches(rows.take(list(range(progress.seen, len(rows)))), config.batch_size, pad)
        after = partial(progress.look, total=len(rows))
        return correlate(specification, networks, forward, left, joint=joint, before=progress.moments, after=after)

    return correlations


def _found(specification: Specification, model: Checkpoint) -> dict[str, Any]:
    """What was aligned and what was not, for the record; lists are cut."""
    free = {name for name in model.tensors if name not in specification.axes or not any(group for group, _ in specification.dims(name))}
    largest = sorted(specification.groups.items(), key=lambda item: -item[1])
    return {
        "groups": dict(largest[:SHOWN]),
        "tensors_aligned": len(model.tensors) - len(free),
        "tensors_not_aligned": sorted(free)[:SHOWN],
        "operations_not_followed": list(specification.unknown)[:SHOWN],
    }
