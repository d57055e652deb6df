"""Methods that look inside both models: hidden states, attention, relations of queries, keys and values, any module's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lfm_tasks.distillation import divergences, inside
from lfm_tasks.distillation.divergences import scaled
from lfm_tasks.distillation.objective import LogitDistillation, Setting, together
from lfm_tasks.distillation.teachers import OpenTeacher
from lfm_tasks.errors import ConfigError, IncompatibleModels
from lfm_tasks.models.attention import Attended, attended, can_observe, observable
from lfm_tasks.models.layers import layer_lists
from lfm_tasks.models.partial import first
from lfm_tasks.seeds import derive_seed
from lfm_tasks.training.batches import Batch

EMBEDDINGS = "embeddings"
PROBE = 4


@dataclass
class Seen:
    """What one pass of a model showed: ``states`` ``[batch, length, width]`` in the order that was asked for."""

    states: list[Tensor] = field(default_factory=list)
    attended: list[Attended] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """A batch in both models. ``allowed`` keys of each place; ``project`` takes the student's states to the teacher's width."""

    student: Seen
    teacher: Seen
    allowed: Tensor
    project: Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class HiddenMethod:
    """``states`` names the pairs of modules whose outputs are compared, ``distance`` is ``(pair, options) -> [batch, length]``.

    ``equal_heads``: of what is compared, head by head. ``shared``: one projection for all pairs.
    """

    distance: Callable[[Pair, Any], Tensor]
    states: Callable[[Setting, nn.Module], list[tuple[str, str]]] = lambda setting, teacher: []
    attention: bool = True
    equal_heads: Callable[[Any], bool] = lambda options: False
    shared: bool = False
    forms: tuple[str, ...] = ("whole",)
    of_logits: bool = False
    whole_steps: bool = False

    def loss(self, log_q: Tensor, log_p: Tensor, targets: Tensor, options: Any, temperature: float) -> Tensor:
        return scaled(divergences.forward_kl(log_q, log_p), temperature)

    def objective(self, setting: Setting) -> HiddenDistillation | LogitDistillation:
        return HiddenDistillation(self, setting) if setting.sources else LogitDistillation(self, setting)


class HiddenDistillation(LogitDistillation):
    """alpha (method + prediction KL) + (1 - alpha) CE. Of a decoder, the places are those that predict a target; of a classifier all
    of a row's tokens, which count as one: both are means over the targets of a step."""

    packs = False

    def __init__(self, method: HiddenMethod, setting: Setting) -> None:
        """Raises :class:`ConfigError` for several teachers or modules that are not there, :class:`IncompatibleModels` where the two
        models' heads differ and the method compares heads."""
        super().__init__(method, setting)
        if len(self.sources) != 1 or not isinstance(self.sources[0], OpenTeacher):
            raise ConfigError(
                f"{self.config.method} compares one student with one teacher. Give one, or take a method that compares logits."
            )
        self.packs, self.weight = False, self.config.alpha * self.options.prediction
        self.student, self.teacher = setting.student, self.sources[0].model
        for model in (self.student, self.teacher) if method.attention else ():
            if not can_observe(model):
                raise IncompatibleModels(f"{type(model).__name__} computes attention in a way of its own. Take the method 'activations'.")
        self.names = method.states(setting, self.teacher)
        self.projections = self._probe()

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"projection.{name}": weight for name, weight in self.projections.items()}

    def modes(self) -> AbstractContextManager[None]:
        return together([observable(model) for model in (self.student, self.teacher)] if self.method.attention else [])

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._watch(self.student, 0) as ours, self._watch(self.teacher, 1) as theirs:
            total = super().loss_sum(model, batch) if self.weight or self.config.alpha < 1 else _run(model, batch)
            if not self.weight:
                with torch.no_grad():
                    _run(self.teacher, batch)
        pair = Pair(ours, theirs, inside.allowed_keys(_valid(batch), causal=not self.labels), self._project)
        found = self.method.distance(pair, self.options)
        return total + self.config.alpha * (found * _weights(batch)).sum()

    @contextmanager
    def _watch(self, model: nn.Module, side: int) -> Iterator[Seen]:
        seen, states = Seen(), {}
        with ExitStack() as stack:
            for place, pair in enumerate(self.names):
                module = _module(model, pair[side])
                hook = module.register_forward_hook(lambda _, given, output, place=place: states.__setitem__(place, first(output)))
                stack.callback(hook.remove)
            if self.method.attention:
                seen.attended = stack.enter_context(attended(model))
            yield seen
            seen.states = [states[place] for place in range(len(self.names))]

    def _probe(self) -> dict[str, nn.Parameter]:
        """One pass of both on a few tokens: widths and heads. A projection where the widths differ, drawn from the seed."""
        batch = Batch(torch.arange(PROBE, device=self.student.device)[None], torch.zeros(1, dtype=torch.long), sizes=(PROBE,))
        with self.modes(), torch.no_grad(), self._watch(self.student, 0) as ours, self._watch(self.teacher, 1) as theirs:
            _run(self.student, batch), _run(self.teacher, batch)
        heads = [seen.attended[-1].query.shape[1] if seen.attended else 0 for seen in (ours, theirs)]
        if self.method.equal_heads(self.options) and heads[0] != heads[1]:
            raise IncompatibleModels(
                f"{self.config.method} compares attention head by head: the student has {heads[0]}, the teacher {heads[1]}. "
                "Take minilm_v2, or a student of as many heads."
            )
        found = {}
        for place, (narrow, wide) in enumerate(zip(ours.states, theirs.states, strict=True)):
            if narrow.shape[-1] != wide.shape[-1]:
                name = "shared" if self.method.shared else str(place)
                found.setdefault(name, self._drawn(name, wide.shape[-1], narrow.shape[-1]))
        return found

    def _drawn(self, name: str, rows: int, columns: int) -> nn.Parameter:
        weight, generator = torch.empty(rows, columns), torch.Generator().manual_seed(derive_seed(self.config.seed, "projection", name))
        return nn.Parameter(nn.init.orthogonal_(weight, generator=generator).to(self.student.device))

    def _project(self, place: int, states: Tensor) -> Tensor:
        weight = self.projections.get("shared" if self.method.shared else str(place))
        return states if weight is None else states.float() @ weight.T


def evenly_mapped(setting: Setting, teacher: nn.Module) -> list[tuple[str, str]]:
    """The embeddings, and layer m of M of the student with layer round(m N / M) of N of the teacher, from 1. TinyBERT, section 3."""
    ours, theirs = layer_names(setting.student), layer_names(teacher)
    mapped = [(layer, theirs[teacher_layer(m, len(ours), len(theirs))]) for m, layer in enumerate(ours)]
    return [(EMBEDDINGS, EMBEDDINGS), *mapped]


def teacher_layer(place: int, count: int, of: int) -> int:
    """Which of the teacher's ``of`` layers the student's layer ``place`` of ``count`` is compared with; both from 0."""
    return round((place + 1) * of / count) - 1


def layer_names(model: nn.Module) -> list[str]:
    """Raises :class:`IncompatibleModels` where the model has no single list of its layers."""
    found, count = layer_lists(model), model.config.num_hidden_layers
    if len(found) != 1:
        raise IncompatibleModels(f"{type(model).__name__} has no single list of {count} layers. Name modules for the method 'activations'.")
    return [f"{found[0][0]}.{place}" for place in range(count)]


def named_modules(setting: Setting, teacher: nn.Module) -> list[tuple[str, str]]:
    """The pairs of the option ``modules``, or those of :func:`evenly_mapped`."""
    given = setting.config.method_config().modules
    pairs = [tuple(one.split("=")) for one in given]
    if wrong := [one for one, pair in zip(given, pairs, strict=True) if len(pair) != 2]:
        raise ConfigError(f'modules: {wrong[0]!r} is no pair. Write "student=teacher", e.g. "model.layers.1=model.layers.5".')
    for model, side in ((setting.student, 0), (teacher, 1)):
        known = dict(model.named_modules())
        if missing := [pair[side] for pair in pairs if pair[side] not in known]:
            raise ConfigError(f"modules: {type(model).__name__} has no module {missing[0]!r}. Its top ones: {', '.join(_tops(known))}.")
    return pairs or evenly_mapped(setting, teacher)


def _tinybert(pair: Pair, options: Any) -> Tensor:
    total = torch.zeros_like(pair.allowed[:, 0, 0], dtype=torch.float32)
    if options.hidden:
        both = zip(pair.student.states, pair.teacher.states, strict=True)
        total = total + options.hidden * sum(inside.state_mse(pair.project(i, a), b) for i, (a, b) in enumerate(both))
    if options.attention:
        ours, theirs = pair.student.attended, pair.teacher.attended
        for place, one in enumerate(ours):
            other = theirs[teacher_layer(place, len(ours), len(theirs))]
            total = total + options.attention * inside.score_mse(inside.scores(one), inside.scores(other), pair.allowed)
    return total


def _minilm(pair: Pair, options: Any) -> Tensor:
    ours, theirs = pair.student.attended[-1], _layer(pair.teacher.attended, options.teacher_layer)
    attention = inside.row_kl(inside.scores(ours), inside.scores(theirs), pair.allowed)
    return attention + inside.row_kl(inside.relation(ours.value), inside.relation(theirs.value), pair.allowed)


def _minilm_v2(pair: Pair, options: Any) -> Tensor:
    ours, theirs = pair.student.attended[-1], _layer(pair.teacher.attended, options.teacher_layer)
    heads = options.relation_heads or ours.query.shape[1]
    for width in (one.query.shape[1] * one.query.shape[3] for one in (ours, theirs)):
        if width % heads:
            raise ConfigError(f"relation_heads={heads} does not divide a width of {width}. Take a divisor of both models' widths.")
    parts = [(getattr(ours, name), getattr(theirs, name)) for name in ("query", "key", "value")]
    return sum(inside.row_kl(inside.relation(a, heads), inside.relation(b, heads), pair.allowed) for a, b in parts)


def _activations(pair: Pair, options: Any) -> Tensor:
    distance = {"mse": inside.state_mse, "cosine": inside.state_cosine}[options.distance]
    both = zip(pair.student.states, pair.teacher.states, strict=True)
    return torch.stack([distance(pair.project(place, a), b) for place, (a, b) in enumerate(both)]).mean(0)


def _layer(found: Sequence[Attended], place: int) -> Attended:
    if not -len(found) <= place < len(found):
        raise ConfigError(f"teacher_layer={place}: the teacher has the layers 0 to {len(found) - 1}.")
    return found[place]


def _module(model: nn.Module, name: str) -> nn.Module:
    """``EMBEDDINGS``: what gives the first hidden states, which in BERT is more than the table."""
    if name != EMBEDDINGS:
        return model.get_submodule(name)
    return getattr(model.base_model, "embeddings", None) or model.get_input_embeddings()


def _run(model: nn.Module, batch: Batch) -> Tensor:
    """A pass without a head; its own part of the loss is 0."""
    output = model.base_model(**batch.inputs)
    return torch.zeros((), device=output[0].device)


def _valid(batch: Batch) -> Tensor:
    """[batch, length]: True where a row has a token."""
    return torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device) < _sizes(batch)


def _weights(batch: Batch) -> Tensor:
    return _valid(batch) / _sizes(batch) if batch.positions is None else batch.positions.float()


def _sizes(batch: Batch) -> Tensor:
    return torch.tensor(batch.sizes, device=batch.input_ids.device)[:, None]


def _tops(known: dict[str, nn.Module]) -> list[str]:
    return sorted(name for name in known if name and name.count(".") < 2)[:12]


TINYBERT = HiddenMethod(_tinybert, states=evenly_mapped, equal_heads=lambda options: bool(options.attention), shared=True)
MINILM = HiddenMethod(_minilm, equal_heads=lambda options: True)
MINILM_V2 = HiddenMethod(_minilm_v2)
ACTIVATIONS = HiddenMethod(_activations, states=named_modules, attention=False)
