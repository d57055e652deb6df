"""CPU-seconds per 1000 tokens of distillation, beside TRL's GKDTrainer for the same objective, each side in a process of its own.

SmolLM2-135M teaches a student of 10 of its 30 layers on BBC articles (the first third of each is the prompt): forward KL at temperature
1, float32, the same rows in the same order, batch, micro-batch, optimiser and schedule. Without recorded signals the losses of every step
must agree. Goals: as many tokens a CPU-second as TRL without the cache, 1.7 times as many with it (from the second epoch on: recording
is one pass of the teacher), and less memory. What is timed is training alone, without imports and opening the models; memory is the
whole process's anonymous peak.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_merge import run
from bench_tuning import MODEL, TEXTS, starter
from report import Measured, write_result

from lfm_tasks.data.prepare import SCHEMAS
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from lfm_tasks.settings import settings
from lfm_tasks.step import Input
from tests.environments import install
from tests.tuned import Context

TRL = "trl==1.16.0"
UNIT = "CPU-s per 1000 tokens"
DEPTH, SAME_LOSS, RATE = 10, 2e-3, 1e-4
SIDES = ("peer", "dense", "cached")
GOALS = {"dense": 1.0, "cached": 1.7}


def make_rows(model: Path, texts: Path, directory: Path, count: int, longest: int) -> None:
    """A prepared data set of instruction rows, each cut to ``longest`` tokens."""
    tokenizer = open_tokenizer(model)
    raw = pq.read_table(texts / "data.parquet", columns=["text"])["text"].to_pylist()
    chosen = sorted(raw, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]
    tokens = [np.array(tokenizer(text)["input_ids"][:longest]) for text in chosen]
    rows = [
        {"sample_id": f"{place:08}", "input_ids": ids, "prompt_tokens": len(ids) // 3, "prompt": "", "completion": "", "label": -1}
        for place, ids in enumerate(tokens)
    ]
    directory.mkdir()
    for split in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows if split == "train" else [], SCHEMAS["instruction"]), directory / f"{split}.parquet")
    described = {
        "format": 1,
        "task": "instruction",
        "tokenizer_sha256": tokenizer_digest(model),
        "vocabulary": len(tokenizer),
        "labels": [],
    }
    (directory / "dataset.json").write_text(json.dumps(described))


def inputs(root: Path) -> dict[str, Input]:
    kinds = {"teachers.0": "model", "student": "model", "dataset": "dataset"}
    return {name: Input(name, kind, "0" * 64, root / name) for name, kind in kinds.items()}


def settings_of(options: dict) -> dict:
    return {
        "method": "forward_kl",
        "alpha": 1.0,
        "temperature": 1.0,
        "batch_size": options["batch"],
        "micro_batch_size": options["micro"],
        "packing": False,
        "max_steps": options["steps"],
        "learning_rate": RATE,
        "precision": "float32",
    }


def ours(root: Path, options: dict, *, cached: bool) -> dict:
    from lfm_tasks.distillation import distill, recording
    from lfm_tasks.distillation.config import DistillConfig, RecordSignalsConfig

    given, context = inputs(root), Context(Path(tempfile.mkdtemp(dir=root)))
    found: dict = {}
    if cached:
        began = time.process_time()
        config = RecordSignalsConfig(temperatures=[1.0], top=64, dtype="float16")
        outcome = recording.run(config, {"teacher": given["teachers.0"], "dataset": given["dataset"]}, context)
        found |= {"recording_seconds": time.process_time() - began, "recording": outcome.metrics}
        given = {name: one for name, one in given.items() if name != "teachers.0"}
        given["signals.0"] = Input("signals", "signals", "0" * 64, outcome.outputs["signals"].path)
    training = distill.prepare(DistillConfig(**settings_of(options)), open_causal_lm(given["student"]), given, "completion", context)
    began = time.process_time()
    losses = [entry["loss"] for entry in training.run().history if "loss" in entry]
    return found | {"seconds": time.process_time() - began, "losses": losses, "tokens": training.progress.tokens}


def peer(root: Path, options: dict) -> dict:
    """In TRL's environment."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from lfm_tasks.training.batches import Plan

    given = inputs(root)
    rows = pq.read_table(given["dataset"].path / "train.parquet").to_pylist()
    plan = Plan(len(rows), options["batch"], options["steps"], 0)
    ordered = [rows[index] for step in range(options["steps"]) for index in plan.examples(step)]
    tokenizer = open_tokenizer(given["student"].path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    data = Dataset.from_list(
        [
            {
                "prompt": "-",
                "input_ids": row["input_ids"],
                "completion_mask": [0] * row["prompt_tokens"] + [1] * (len(row["input_ids"]) - row["prompt_tokens"]),
            }
            for row in ordered
        ]
    )
    arguments = GKDConfig(
        output_dir=tempfile.mkdtemp(dir=root),
        use_cpu=True,
        lmbda=0.0,
        beta=0.0,
        max_length=4096,
        per_device_train_batch_size=options["micro"],
        gradient_accumulation_steps=options["batch"] // options["micro"],
        max_steps=options["steps"],
        learning_rate=RATE,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    teacher, student = open_causal_lm(given["teachers.0"]), open_causal_lm(given["student"])
    trainer = GKDTrainer(student, teacher, args=arguments, train_dataset=data, processing_class=tokenizer)
    torch.set_num_threads(1)
    began = time.process_time()
    trainer.train()
    seconds = time.process_time() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "losses": losses, "tokens": sum(len(row["input_ids"]) for row in ordered)}


def child(side: str, root: Path, options: dict) -> None:
    found = peer(root, options) if side == "peer" else ours(root, options, cached=side == "cached")
    (root / f"{side}.json").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("steps", 4), ("rows", 16), ("batch", 8), ("micro", 4), ("longest", 256), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        model, texts = (starter(name, root / name) for name in (MODEL, TEXTS))
        (root / "teachers.0").symlink_to(model)
        cut(root, model)
        make_rows(model, texts, root / "dataset", options["rows"], options["longest"])
        measure(root, options)


def cut(root: Path, model: Path) -> None:
    from lfm_tasks.distillation import cut as cutting
    from lfm_tasks.distillation.config import CutStudentConfig

    made = cutting.run(CutStudentConfig(depth=DEPTH), {"teacher": Input("teacher", "model", "0" * 64, model)}, Context(root / "cut"))
    (root / "student").symlink_to(made.outputs["model"].path)


def measure(root: Path, options: dict) -> None:
    theirs = install(settings().home.resolve() / "test" / "trl", TRL, borrow=True)
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": f"{here.parents[2]}:{here.parent}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    costs: dict[str, list[float]] = {name: [] for name in SIDES}
    peaks: dict[str, list[int]] = {name: [] for name in SIDES}
    found: dict[str, dict] = {}
    for number in range(options["runs"]):
        for side in sorted(SIDES, key=lambda name, number=number: (SIDES.index(name) + number) % len(SIDES)):
            python = theirs if side == "peer" else sys.executable
            _, _, peak = run([python, here, "--child", side, root, json.dumps(options)], environment)
            found[side] = json.loads((root / f"{side}.json").read_text())
            costs[side].append(1000 * found[side]["seconds"] / found[side]["tokens"])
            peaks[side].append(peak)
            print(f"  run {number + 1}/{options['runs']} {side}: {costs[side][-1]:.3f} {UNIT}, {peak / 2**20:,.0f} MiB", flush=True)
    np.testing.assert_allclose(found["dense"]["losses"], found["peer"]["losses"], rtol=SAME_LOSS)
    for side, goal in GOALS.items():
        details = {
            "tokens of a run": found[side]["tokens"],
            "peak anonymous MiB, ours": max(peaks[side]) / 2**20,
            "peak anonymous MiB, peer": max(peaks["peer"]) / 2**20,
            **{key: value for key, value in found[side].items() if key.startswith("recording")},
        }
        write_result(f"distill-{side}", UNIT, Measured(costs[side], costs["peer"]), TRL, goal, details)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
    else:
        main()
