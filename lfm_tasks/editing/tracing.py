"""Causal tracing (Meng et al. 2022, section 2.1): which states bring a fact's answer back when its subject was made unreadable.

What a layer below the restored one gives is the same for all restored states, so that a pass begins at the lowest restored layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from lfm_tasks.editing.method import Editing
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.attention import logits_at
from lfm_tasks.models.partial import replaced, run, starting_at, until_seen, watched
from lfm_tasks.seeds import derive_seed

Kind = Literal["state", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("state", "mlp", "attention")
"""What is restored: a layer's whole output, or the outputs of the MLPs or attentions of a window of layers around it."""
ROLES = ("first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens", "last token")
PASS_TOKENS = 4096


@dataclass(frozen=True)
class Traced:
    fact: str
    tokens: tuple[str, ...]
    roles: tuple[int, ...]
    """Of each token, in ``ROLES``; -1 for those before the subject."""
    clean: float
    """Probability of the answer's first token."""
    corrupted: float
    """The same with noise on the subject, mean over the draws."""
    effects: dict[str, Tensor]
    """Of each kind [tokens, layers]: what the probability gains where the clean state is restored, mean over the draws."""


class Trace:
    """One fact. The prompt's clean states, and those with noise on the subject."""

    def __init__(self, editing: Editing, fact: Fact, scale: float, samples: int, seed: int) -> None:
        """``scale`` is the standard deviation of the noise."""
        self.editing, self.decoder, self.fact = editing, editing.decoder, fact
        encoded = encode(editing.tokenizer, fact, fact.target_true or "")
        self.ids = torch.tensor(encoded.prompt_ids)
        self.answer = encoded.target_ids[0]
        self.subject = range(encoded.subject_first, encoded.subject_last + 1)
        self.noise = torch.zeros(samples, len(self.ids), editing.model.config.hidden_size)
        for sample in range(samples):
            generator = torch.Generator().manual_seed(derive_seed(seed, "trace", fact.id, sample))
            self.noise[sample, self.subject] = scale * torch.randn(len(self.subject), self.noise.shape[-1], generator=generator)

    @cached_property
    def modules(self) -> dict[str, list[nn.Module]]:
        layers = range(len(self.decoder.layers))
        return {
            "state": list(self.decoder.layers),
            "mlp": [self.decoder.site(layer).module for layer in layers],
            "attention": [self.decoder.attention(layer) for layer in layers],
        }

    @cached_property
    def embedded(self) -> Tensor:
        """What the first layer is given in the clean run [tokens, d]."""
        return until_seen(self.decoder, self.ids[None], inputs=[self.decoder.layers[0]])[0][0]

    @cached_property
    def clean(self) -> dict[str, Tensor]:
        """What each kind of module gives in the clean run [layers, tokens, d]."""
        return {kind: torch.stack([one[0] for one in self._outputs(modules)]) for kind, modules in self.modules.items()}

    @cached_property
    def corrupted(self) -> list[Tensor]:
        """What each layer is given in the corrupted runs, [samples, tokens, d] each."""
        noisy = self.embedded + self.noise.to(self.embedded)
        ids = self.ids.expand(len(noisy), -1)
        with torch.no_grad(), starting_at(self.decoder, 0, noisy), watched(inputs=list(self.decoder.layers)) as seen:
            run(self.decoder, ids)
        return [noisy, *list(seen)[1:]]

    def probability(self, start: int, hidden: Tensor, patches: Sequence[tuple[nn.Module, Tensor, Tensor]] = ()) -> Tensor:
        """Of the answer's first token, [rows], where layer ``start`` is given ``hidden`` [rows, tokens, d] and each of ``patches``, a
        module, places [rows] and values [rows, d], is put in the way."""
        ids = self.ids.expand(len(hidden), -1).to(hidden.device)
        last = torch.zeros_like(ids, dtype=torch.bool)
        last[:, -1] = True
        with torch.no_grad(), ExitStack() as around:
            around.enter_context(starting_at(self.decoder, start, hidden))
            for module, places, values in patches:
                around.enter_context(replaced(module, places, values))
            around.enter_context(logits_at(self.decoder.model, last))
            logits = self.decoder.model(input_ids=ids, use_cache=False).logits[0]
        return logits.float().softmax(-1)[:, self.answer].cpu()

    @property
    def known(self) -> bool:
        """Whether the answer's first token is the likeliest."""
        ids = self.ids[None].to(self.embedded.device)
        with torch.no_grad():
            return int(self.decoder.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].argmax()) == self.answer

    def traced(self, window: int) -> Traced:
        before = float(self.probability(0, self.embedded[None]))
        low = self.probability(0, self.corrupted[0])
        layers = range(len(self.decoder.layers))
        effects = {}
        for kind in KINDS:
            spans = [window_of(layer, window if kind != "state" else 1, len(layers)) for layer in layers]
            effects[kind] = torch.stack([self._restored(kind, span) for span in spans], 1) - low.mean()
        tokens = tuple(self.editing.tokenizer.decode([token]) for token in self.ids.tolist())
        return Traced(self.fact.id, tokens, roles_of(len(self.ids), self.subject), before, float(low.mean()), effects)

    def _restored(self, kind: Kind, span: range) -> Tensor:
        """The answer's probability where the modules of ``span`` give what they gave in the clean run at one token, [tokens]."""
        found = []
        for places in self._chunks():
            start = self.corrupted[span[0]]
            hidden = start.repeat(len(places), 1, 1)
            where = torch.tensor(places).repeat_interleave(len(start))
            patches = [(self.modules[kind][layer], where, self.clean[kind][layer][where]) for layer in span]
            found.append(self.probability(span[0], hidden, patches).view(len(places), -1).mean(1))
        return torch.cat(found)

    def _chunks(self) -> Iterator[list[int]]:
        """Tokens whose rows share a pass."""
        size = max(1, PASS_TOKENS // (len(self.ids) * len(self.noise)))
        for start in range(0, len(self.ids), size):
            yield list(range(start, min(start + size, len(self.ids))))

    def _outputs(self, modules: list[nn.Module]) -> list[Tensor]:
        return until_seen(self.decoder, self.ids[None], outputs=modules)


def window_of(layer: int, size: int, layers: int) -> range:
    """``size`` layers around ``layer``, as far as there are any."""
    first = layer - size // 2
    return range(max(0, first), min(layers, first + size))


def roles_of(tokens: int, subject: range) -> tuple[int, ...]:
    """A subject of one token is its last one; the prompt's last token is that, whatever else it is, unless it is the subject's."""
    found = []
    for place in range(tokens):
        if place in subject:
            found.append(2 if place == subject[-1] else 0 if place == subject[0] else 1)
        elif place < subject[0]:
            found.append(-1)
        else:
            found.append(5 if place == tokens - 1 else 3 if place == subject[-1] + 1 else 4)
    return tuple(found)


def embedding_deviation(editing: Editing, facts: Sequence[Fact]) -> float:
    """Standard deviation over all numbers that the first layer is given at subjects' tokens."""
    found = []
    for fact in facts:
        trace = Trace(editing, fact, 0.0, 1, 0)
        found.append(trace.embedded[trace.subject].flatten())
    return float(torch.cat(found).double().std())
