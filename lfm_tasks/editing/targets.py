"""What the edited layer should say at a subject's last token so that the target follows (Meng et al. 2022, section 3.2).

A shift of a module's output there is found by Adam, for many facts of like length at once: their rows share passes, nothing else. The
layers below and the tokens before the subject's last are run once, the head where a logit is read, and a fact that is done leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lfm_tasks.editing.keys import batches
from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.methods.config import TargetOptions
from lfm_tasks.errors import AttemptKilled, NonFiniteLoss
from lfm_tasks.facts.locate import encode
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.partial import Endings, shifted

PASS_TOKENS = 512
"""Tokens of the endings that are optimised together: activations that fit beside a model of 100 M parameters on a small machine."""
LIKE = 1.5
"""Longest ending of a pass, in the shortest one's length: the others are padded to it."""


@dataclass(frozen=True)
class Targets:
    """Of each fact, at the last of the shifted modules."""

    shift: Tensor
    """delta [facts, d]"""
    clean: Tensor
    """v0 [facts, d]: what the module gave in the bare prompt."""
    nll: Tensor
    """[facts]: of the target after the last step, mean over contexts and tokens, nats."""
    steps: Tensor
    """[facts]: that were taken."""

    @property
    def value(self) -> Tensor:
        """v* = v0 + delta [facts, d]"""
        return self.clean + self.shift


@dataclass(frozen=True)
class FactRows:
    """The rows of some facts: each context with prompt and target, the bare prompt first, then the prompt of the KL term."""

    input_ids: Tensor
    """[rows, length], padded on the right, without the targets' last tokens."""
    subject: Tensor
    """[rows]: place of the subject's last token."""
    fact: Tensor
    """[rows]"""
    asked: Tensor
    """[rows, length]: True where a logit is read."""
    wanted: Tensor
    """[rows, length]: the token that shall follow; -1 where none is asked, and in rows of the KL term."""
    bare: Tensor
    """[rows]: True for a fact's bare prompt."""

    @property
    def last(self) -> Tensor:
        """[rows]: the last place where a logit is read."""
        return (self.asked * torch.arange(self.asked.shape[1])).amax(1)

    def endings(self, endings: Endings) -> FactRows:
        """From the subjects' last tokens on."""
        inside = endings.inside.cpu()
        asked, wanted = endings.of(self.asked) & inside, endings.of(self.wanted).where(inside, -1)
        return replace(self, input_ids=endings.input_ids.cpu(), asked=asked, wanted=wanted, subject=torch.zeros_like(self.subject))

    def of(self, facts: Tensor) -> tuple[FactRows, Tensor]:
        """The rows of ``facts``, numbered anew, and which rows these are."""
        kept = torch.isin(self.fact, facts).nonzero()[:, 0]
        names = ("input_ids", "subject", "asked", "wanted", "bare")
        return replace(self, **{name: getattr(self, name)[kept] for name in names}, fact=torch.searchsorted(facts, self.fact[kept])), kept


def fact_rows(editing: Editing, facts: Sequence[Fact], contexts: Sequence[str]) -> FactRows:
    encoded, kind = [], []
    for fact in facts:
        encoded += [encode(editing.tokenizer, fact, fact.target_new, context) for context in contexts]
        encoded.append(encode(editing.tokenizer, replace(fact, prompt="{} is"), "a"))
        kind += ["bare", *["context"] * (len(contexts) - 1), "divergence"]
    ids = pad_sequence([torch.tensor(one.input_ids[:-1]) for one in encoded], batch_first=True)
    wanted = torch.full_like(ids, -1)
    for row, (one, name) in enumerate(zip(encoded, kind, strict=True)):
        if name != "divergence":
            wanted[row, one.target_start - 1 : len(one.input_ids) - 1] = torch.tensor(one.target_ids)
    subject = torch.tensor([one.subject_last for one in encoded])
    asked = wanted >= 0
    for row, name in enumerate(kind):
        if name == "divergence":
            asked[row, subject[row]] = True
    fact = torch.arange(len(facts)).repeat_interleave(len(contexts) + 1)
    return FactRows(ids, subject, fact, asked, wanted, torch.tensor([name == "bare" for name in kind]))


def find_targets(
    editing: Editing, facts: Sequence[Fact], contexts: Sequence[str], layer: int, modules: Sequence[nn.Module], options: TargetOptions
) -> Targets:
    """``modules`` of ``layer`` are shifted together, each by a delta of its own; what is handed back is that of the last one.

    Raises :class:`NonFiniteLoss`, and :class:`AttemptKilled` once a stop was asked for.
    """
    found, encoded = [], [encode(editing.tokenizer, fact, fact.target_new) for fact in facts]
    tokens = [(len(contexts) + 1) * (len(one.input_ids) - 1 - one.subject_last) for one in encoded]
    order = sorted(range(len(facts)), key=lambda place: tokens[place])
    for places in batches(order, tokens, PASS_TOKENS, LIKE):
        if editing.context.stop_requested():
            raise AttemptKilled("Stopped on request in the middle of a round; the rounds before it are kept.")
        chunk = [facts[place] for place in places]
        search = Search(editing, fact_rows(editing, chunk, contexts), layer, tuple(modules), options)
        found.append(search.run(chunk))
    back = torch.tensor(order).argsort()
    return Targets(*(torch.cat([getattr(one, name) for one in found])[back] for name in ("shift", "clean", "nll", "steps")))


@dataclass
class Search:
    """Facts that are optimised together. ``delta`` is [facts, modules, d]."""

    editing: Editing
    rows: FactRows
    layer: int
    modules: tuple[nn.Module, ...]
    options: TargetOptions
    clean: Tensor = field(init=False)
    """v0 of each module, [facts, modules, d]."""
    before: Tensor = field(init=False)
    """log p of the KL rows without a shift, [facts, vocabulary]."""

    def __post_init__(self) -> None:
        full = self.rows
        self.endings = Endings(self.editing.decoder, self.layer, full.input_ids, full.subject, full.last)
        self.rows = full.endings(self.endings)
        self.device = self.endings.hidden.device
        shape = (int(full.fact.max()) + 1, len(self.modules), self.endings.hidden.shape[-1])
        self.clean = self.endings.hidden.new_zeros(shape)
        with torch.no_grad():
            log_p = self.log_p(self.rows, slice(None), torch.zeros_like(self.clean), keep=True)
        self.before = log_p[~self._of_targets(self.rows)]

    def run(self, facts: Sequence[Fact]) -> Targets:
        delta, (mean, square) = torch.zeros_like(self.clean), (torch.zeros_like(self.clean) for _ in range(2))
        nll, steps = torch.zeros(len(delta), dtype=delta.dtype), torch.zeros(len(delta))
        active = torch.arange(len(delta))
        for step in range(1, self.options.steps + 2):
            rows, kept = self.rows.of(active)
            shift = delta[active].requires_grad_()
            loss, nll[active] = self.losses(rows, kept, active, shift)
            if not bool(loss.isfinite().all()):
                bad = [facts[place].id for place in active[~loss.isfinite().cpu()].tolist()]
                raise NonFiniteLoss(f"The loss of the facts {', '.join(bad)} is not finite in step {step}. Set a smaller learning_rate.")
            going = (loss.detach() >= self.options.enough).cpu()
            if step > self.options.steps or not bool(going.any()):
                break
            gradient = torch.autograd.grad(loss.sum(), shift)[0][going]
            active = active[going]
            steps[active] = step
            mean[active] = 0.9 * mean[active] + 0.1 * gradient
            square[active] = 0.999 * square[active] + 0.001 * gradient.square()
            scaled = (mean[active] / (1 - 0.9**step)) / ((square[active] / (1 - 0.999**step)).sqrt() + 1e-8)
            delta[active] = self.clamped(delta[active] - self.options.learning_rate * scaled, self.clean[active])
        return Targets(delta[:, -1].cpu(), self.clean[:, -1].cpu(), nll, steps)

    def losses(self, rows: FactRows, kept: Tensor, active: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """mean nll + kl KL(p_delta || p_0) + decay |delta| / |v0|^2 of each fact, and the first term alone, both [facts]."""
        log_p = self.log_p(rows, kept, shift)
        target = self._of_targets(rows)
        row = rows.asked.nonzero()[:, 0]
        wanted = rows.wanted[rows.asked][target].to(self.device)
        chosen = log_p[target].gather(1, wanted[:, None])[:, 0]
        by_row = _means(-chosen, row[target], len(rows.fact))
        answers = (rows.wanted >= 0).any(1)
        nll = _means(by_row[answers], rows.fact[answers], len(active))
        after = log_p[~target]
        kl = (after.exp() * (after - self.before[active])).sum(-1)
        decay = (_norm(shift) / self.clean[active].square().sum(-1)).sum(-1)
        return nll + self.options.kl * kl + self.options.decay * decay, nll.detach().cpu()

    def log_p(self, rows: FactRows, kept: Tensor | slice, shift: Tensor, keep: bool = False) -> Tensor:
        """[asked, vocabulary] in row-major order. ``keep``: what the modules give in the bare prompts is kept as ``clean``."""
        subject = torch.zeros(len(rows.fact), dtype=torch.long, device=self.device)
        with ExitStack() as around:
            shifts = [shifted(module, subject, shift[rows.fact, place]) for place, module in enumerate(self.modules)]
            seen = [around.enter_context(one) for one in shifts]
            logits = self.endings.logits(kept, rows.asked.to(self.device))
        if keep:
            self.clean = torch.stack([one[0][rows.bare] for one in seen], 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def clamped(self, delta: Tensor, clean: Tensor) -> Tensor:
        """|delta| at most ``clamp`` |v0|."""
        return delta * (self.options.clamp * _norm(clean) / _norm(delta).clamp(min=1e-12)).clamp(max=1)[..., None]

    def _of_targets(self, rows: FactRows) -> Tensor:
        """[asked]: True for a target's token, False for a KL row's."""
        return rows.wanted[rows.asked] >= 0


def _norm(tensor: Tensor) -> Tensor:
    return tensor.norm(dim=-1)


def _means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    group = group.to(values.device)
    return values.new_zeros(groups).index_add(0, group, values) / torch.bincount(group, minlength=groups).clamp(min=1)
