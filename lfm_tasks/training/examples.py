"""The examples that a run learns from, those that it is validated on, and their order."""

from __future__ import annotations

from lfm_tasks.errors import DataError
from lfm_tasks.step import Input, StepContext
from lfm_tasks.training.batches import Plan
from lfm_tasks.training.config import TrainingConfig
from lfm_tasks.training.split import Split, read_split, sample, with_targets


def read_examples(config: TrainingConfig, dataset: Input, objective: str, context: StepContext) -> tuple[Split, Split]:
    """The splits train and validation. Raises :class:`DataError` where there is nothing to learn."""
    train, left_out = with_targets(read_split(dataset.path, "train", objective), objective)
    if left_out:
        context.log(f"{left_out} training examples have no token to learn (their completion was cut off) and are left out.")
    if not len(train):
        raise DataError("The training split has no example with a token to learn. Raise max_length in the step 'prepare'.")
    return train, sample(with_targets(read_split(dataset.path, "validation", objective), objective)[0], config.evaluate_examples)


def make_plan(config: TrainingConfig, count: int) -> Plan:
    plan = Plan(count, config.batch_size, steps=0, seed=config.seed)
    return Plan(count, config.batch_size, steps=config.max_steps or config.epochs * plan.per_epoch, seed=config.seed)
