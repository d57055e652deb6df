"""The training loop: keyed order and dropout, so that a run stopped anywhere and resumed is the run that was never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lfm_tasks.errors import AttemptKilled, NonFiniteLoss
from lfm_tasks.models.attention import can_segment, segmented
from lfm_tasks.models.ranks import Ranks
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import StepContext
from lfm_tasks.training import checkpoint
from lfm_tasks.training.batches import Batch, Plan, chunk_by_length, count_targets, pack, packed_batch, padded_batch
from lfm_tasks.training.checkpoint import Progress
from lfm_tasks.training.config import TrainingConfig
from lfm_tasks.training.objectives import CrossEntropy, loss_sum, row_of, to_device
from lfm_tasks.training.parts import weighed
from lfm_tasks.training.schedules import factor, warmup_steps
from lfm_tasks.training.snapshots import Snapshots
from lfm_tasks.training.split import Split

PASS_TOKENS = {"cpu": 1024, "cuda": 16_384}
"""Tokens of a forward pass by kind of device: activations that stay in a processor's cache; enough work for a GPU."""


@dataclass
class Training:
    """One run. ``model`` is what the method made: its ``requires_grad`` says what trains, beside what the objective adds."""

    model: nn.Module
    base: nn.Module
    """The transformers model inside ``model`` (the same one, where the method wraps nothing)."""
    objective: CrossEntropy
    config: TrainingConfig
    plan: Plan
    train: Split
    validation: Split
    context: StepContext
    device: torch.device = torch.device("cpu")
    identity: Any = None
    kept_steps: Sequence[int] = ()
    """Steps of which the model is kept."""
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    ranks: Ranks = field(default_factory=Ranks.current)

    def __post_init__(self) -> None:
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.parameters = trained | self.objective.parameters()
        self.optimizer = make_optimizer(self.parameters, self.config)
        self.warmup = warmup_steps(self.config.warmup_steps, self.config.warmup_ratio, self.plan.steps)
        self.counts = parameter_counts(self.model)
        self.pass_tokens = self.config.pack_length or PASS_TOKENS.get(self.device.type, PASS_TOKENS["cuda"])
        self.segments = not self.labels and can_segment(self.base)
        self.packs = self.config.packing and self.segments and self.objective.packs and not self.objective.whole_steps
        self.snapshots = Snapshots(self.context.workdir / "snapshots", frozenset(self.kept_steps if self.ranks.leads else ()))

    @property
    def labels(self) -> bool:
        """True: classification; False: language modelling."""
        return self.objective.labels

    def run(self) -> Progress:
        """Train to the end. Raises :class:`AttemptKilled` (with a checkpoint kept) and :class:`NonFiniteLoss`."""
        self._resume()
        with torch.random.fork_rng(), self._modes():
            while not self._evaluate_if_due() and self.progress.step < self.plan.steps:
                self._step()
                every = self.config.checkpoint_every
                if every and self.progress.step % every == 0 and self.progress.step < self.plan.steps:
                    self._save()
        if self.best:
            with torch.no_grad():
                for name, tensor in self.best.items():
                    self.parameters[name].copy_(tensor)
        self.model.eval()
        return self.progress

    def _modes(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.objective.modes())
        if self.segments:
            stack.enter_context(segmented(self.base))
        if self.config.gradient_checkpointing:
            self.base.activation_checkpointing_enable({"use_reentrant": False})
            stack.callback(self.base.activation_checkpointing_disable)
        return stack

    def _step(self) -> None:
        started = time.monotonic()
        step, config = self.progress.step, self.config
        train, examples = self.objective.rows(self.train, self.plan.examples(step), step)
        train = weighed(train, examples)
        count = self.objective.count(train, examples)
        rate = config.learning_rate * factor(config.schedule, step, self.warmup, self.plan.steps)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for micro, batch in self._batches(train, examples):
            torch.manual_seed(derive_seed(config.seed, "dropout", step, micro))
            with row_of(batch):
                with self._autocast():
                    loss = self.objective.loss_sum(self.model, batch) / count
                loss.backward()
            total += loss.detach()
            self._poll()
        self.ranks.sum(total)
        self.ranks.sum_gradients(self.parameters.values())
        norm = clip(self.parameters.values(), config.max_grad_norm)
        loss_value, norm_value = torch.stack([total, norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise NonFiniteLoss(self._explain_non_finite(loss_value, norm_value, [train.sample_ids[index] for index in examples]))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.objective.stepped()
        tokens = int(sum(len(train.tokens[index]) for index in examples))
        elapsed = time.monotonic() - started
        self.seconds += elapsed
        self.progress.step += 1
        self.snapshots.take(self.progress.step, self.parameters)
        self.progress.tokens += tokens
        self.progress.history.append({"step": step + 1, "loss": loss_value, "learning_rate": rate, "grad_norm": norm_value})
        measured = {"loss": loss_value, "learning_rate": rate, "grad_norm": norm_value, "tokens_per_second": tokens / max(elapsed, 1e-9)}
        self._report(measured)

    def _evaluate_if_due(self) -> bool:
        """Evaluate where it is time to. True: there is no use in going on."""
        progress, config = self.progress, self.config
        every = config.evaluate_every or self.plan.per_epoch
        due = progress.step > 0 and (progress.step % every == 0 or progress.step >= self.plan.steps)
        if due and progress.evaluated != progress.step and len(self.validation):
            value = self.evaluate(self.validation)
            progress.evaluated = progress.step
            progress.history.append({"step": progress.step, "validation_loss": value})
            self._keep_best(value)
            self.objective.validated(value)
            self._report({"validation_loss": value})
        return progress.stopped_early

    def _keep_best(self, value: float) -> None:
        progress, patience = self.progress, self.config.early_stopping_patience
        if progress.best_loss is None or value < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = value, progress.step, 0
            if patience:
                self.best = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
        else:
            progress.worse += 1
            progress.stopped_early = bool(patience) and progress.worse >= patience

    def evaluate(self, split: Split) -> float:
        """Mean cross-entropy in nats a target over all of ``split``, whatever the objective."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        everything = range(len(split))
        split = weighed(split, everything)
        with torch.inference_mode():
            for _, batch in self._batches(split, everything):
                with row_of(batch), self._autocast():
                    total += loss_sum(self.model, batch).double()
                self._poll()
        return self.ranks.sum(total).item() / count_targets(split, everything, labels=self.labels)

    def _batches(self, split: Split, examples: Any) -> Iterator[tuple[int, Batch]]:
        """This process's share of the forward passes, each with its number among all of them."""
        lengths = [len(ids) for ids in split.tokens]
        if self.objective.whole_steps and split is not self.validation:
            groups = [sorted(examples, key=lambda index: (-lengths[index], index))]
        elif self.packs:
            groups = pack(examples, lengths, self.pass_tokens)
        else:
            groups = chunk_by_length(examples, lengths, self.config.micro_batch_size, self.pass_tokens)
        pad = self.base.config.pad_token_id or 0
        for number, group in self.ranks.share(groups):
            batch = packed_batch(split, group) if self.packs else padded_batch(split, group, pad, labels=self.labels)
            yield number, to_device(batch, self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if uses_bfloat16(self.config, self.device) else nullcontext()

    def _poll(self) -> None:
        if self.context.stop_requested():
            self._stop()

    def _report(self, measured: dict[str, float]) -> None:
        try:
            self.context.report(self.progress.step, self.plan.steps, measured)
        except AttemptKilled:
            self._stop()

    def _stop(self) -> None:
        """Parameters change in the last act of a step, so a checkpoint made anywhere is one of the last whole step."""
        self._save()
        raise AttemptKilled(
            f"Stopped on request after step {self.progress.step} of {self.plan.steps}; its checkpoint is kept, "
            "and a retry goes on from there."
        )

    def _save(self) -> None:
        def write(directory: Path) -> None:
            checkpoint.save(directory, self.parameters, self.optimizer, self.progress, self.best, self.objective.state(), self.identity)
            self.snapshots.copy_to(directory)

        self.context.checkpoints.save(self.progress.step, write)

    def _resume(self) -> None:
        newest = self.ranks.tell(self.context.checkpoints.latest())
        if newest is None:
            return
        loaded = checkpoint.load(newest, self.parameters, self.optimizer, self.identity)
        if loaded is None:
            self.context.log("The checkpoint found belongs to another run; starting from the beginning.")
            return
        self.progress, self.best, state = loaded
        if state:
            self.objective.restore(state)
        self.snapshots.copy_from(newest)
        self.context.log(f"Resumed from the checkpoint of step {self.progress.step}.")

    def _explain_non_finite(self, loss: float, norm: float, sample_ids: Sequence[str]) -> str:
        ids = ", ".join(sample_ids)
        return (
            f"Step {self.progress.step + 1}: the loss is {loss} and the gradient norm {norm}. Look at these samples of its batch, or lower "
            f"the learning rate ({self.config.learning_rate}): {ids}."
        )


def make_optimizer(parameters: dict[str, Tensor], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over what trains; weight decay on matrices only."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    others = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters.values()),
    )


def clip(parameters: Any, limit: float) -> Tensor:
    """Scale the gradients down to the norm ``limit`` (0: leave them); return the norm that they had."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def parameter_counts(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "total_parameters": sum(parameter.numel() for parameter in parameters),
    }


def uses_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bfloat16"
