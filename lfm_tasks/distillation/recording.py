"""The step *record_signals*: what a teacher says of every target of a data set, once for all epochs, students and sweeps."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lfm_tasks.distillation.config import RecordSignalsConfig
from lfm_tasks.distillation.divergences import entropy, log_probabilities
from lfm_tasks.distillation.stored import DESCRIPTION, FORMAT, digest_of, part_name, places
from lfm_tasks.distillation.teachers import LogitTeacher, open_teacher
from lfm_tasks.errors import AttemptKilled, DataError
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.heads import chunk_rows, chunks
from lfm_tasks.models.prepared import read_description
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input, Outcome, Output, StepContext
from lfm_tasks.training.batches import chunk_by_length, padded_batch
from lfm_tasks.training.objectives import to_device
from lfm_tasks.training.split import Split, choose_objective, read_split, with_targets

PASS_TOKENS = 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16}
IDENTITY = "recording.json"


def run(config: RecordSignalsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    source, dataset = inputs["teacher"], inputs["dataset"]
    description = read_description(dataset.path)
    objective = choose_objective(config.objective, description["task"])
    labels = description["labels"] if objective == "labels" else []
    split, _ = with_targets(read_split(dataset.path, "train", objective), objective)
    if not len(split):
        raise DataError("The training split has no example with a token to learn. Raise max_length in the step 'prepare'.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = open_teacher(source, description, labels, ("logits",), device)
    recording = Recording(config, teacher, split, bool(labels), context, device)
    began = time.monotonic()
    recording.run()
    classes = len(labels) or description["vocabulary"]
    about = recording.about(classes) | {
        "teacher_sha256": source.sha256,
        "dataset_sha256": dataset.sha256,
        "tokenizer_sha256": description["tokenizer_sha256"],
        "rows_sha256": digest_of(split),
        "labels": labels,
        "objective": objective,
    }
    (recording.directory / DESCRIPTION).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    metrics = {
        "targets": float(recording.offsets[-1]),
        "bytes_per_target": about["bytes_per_target"],
        "bytes_per_target_dense": about["bytes_per_target_dense"],
        "targets_per_second": recording.offsets[-1] / max(time.monotonic() - began, 1e-9),
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    summary = {name: about[name] for name in ("form", "temperatures", "top", "samples", "rows", "parts", "bytes_per_target", "objective")}
    return Outcome(outputs={"signals": Output("signals", recording.directory)}, metrics=metrics, summary=summary)


@dataclass
class Recording:
    """Part after part, each whole rows in their order. A stopped job goes on with the first part that it does not have."""

    config: RecordSignalsConfig
    teacher: LogitTeacher
    split: Split
    labels: bool
    context: StepContext
    device: torch.device

    def __post_init__(self) -> None:
        self.offsets = places(self.split, labels=self.labels)
        self.directory = self.context.workdir / "signals"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.parts = -(-len(self.split) // self.config.rows_per_part)
        self.lengths = self.split.lengths.tolist()
        self.identity = {"config": self.config.cache_fields(), "rows": digest_of(self.split)}

    def run(self) -> None:
        """Raises :class:`AttemptKilled` with all finished parts kept. Checkpoints hold all parts: they come the more seldom the more
        there are, so that what is copied in all stays in proportion to what is recorded."""
        kept = self._resume()
        for number in range(kept, self.parts):
            first = number * self.config.rows_per_part
            rows = range(first, min(first + self.config.rows_per_part, len(self.split)))
            save_file(self._record(rows), self.directory / part_name(number))
            every, done = self.config.checkpoint_every, number + 1
            if every and done - kept >= max(every, kept // 4) and done < self.parts:
                self._keep(done)
                kept = done
            try:
                self.context.report(done, self.parts)
            except AttemptKilled:
                self._stop(done)

    def about(self, classes: int) -> dict[str, Any]:
        """What ``signals.json`` says of the files."""
        config = self.config
        size = sum((self.directory / part_name(number)).stat().st_size for number in range(self.parts))
        kept = classes if self._whole(classes) else config.top + config.samples
        return {
            "format": FORMAT,
            "form": "whole" if self._whole(classes) else "sampled" if config.samples else "top_k",
            "temperatures": config.temperatures,
            "top": min(config.top, classes),
            "samples": 0 if self._whole(classes) else config.samples,
            "kept": kept,
            "classes": classes,
            "dtype": config.dtype,
            "rows": len(self.split),
            "rows_per_part": config.rows_per_part,
            "parts": self.parts,
            "bytes_per_target": size / self.offsets[-1],
            "bytes_per_target_dense": 4.0 * classes,
        }

    def _whole(self, classes: int) -> bool:
        return self.labels or (self.config.top >= classes and not self.config.samples)

    def _record(self, rows: range) -> dict[str, Tensor]:
        """The tensors of one part."""
        start, found = self.offsets[rows.start], {}
        for group in chunk_by_length(rows, self.lengths, self.config.batch_size, PASS_TOKENS):
            batch = to_device(padded_batch(self.split, group, 0, labels=self.labels), self.device)
            if self.context.stop_requested():
                self._stop(rows.start // self.config.rows_per_part)
            pieces = self._said(self.teacher.ask(batch, 1.0), self.offsets[np.array(group) + 1] - self.offsets[group], group)
            at = np.concatenate([np.arange(self.offsets[one], self.offsets[one + 1]) for one in group]) - start
            for name, piece in pieces.items():
                if name not in found:
                    found[name] = torch.zeros(int(self.offsets[rows.stop] - start), *piece.shape[1:], dtype=piece.dtype)
                found[name][torch.from_numpy(at)] = piece.cpu()
        return found

    def _said(self, said: Any, counts: np.ndarray, group: list[int]) -> dict[str, Tensor]:
        """The tensors of one pass; ``counts`` are the places of each of its examples."""
        generators = [self._generator(example) for example in group]
        owners = np.repeat(np.arange(len(group)), counts)
        pieces: list[dict[str, Tensor]] = []
        for rows in chunks(len(owners), chunk_rows(self.teacher.width)):
            pieces.append(self._kept(said[rows].log_p, [generators[owner] for owner in owners[rows]]))
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _kept(self, log_p: Tensor, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """Of log-probabilities ``[n, classes]`` at 1, what is stored."""
        config, classes = self.config, log_p.shape[-1]
        dtype = DTYPES[config.dtype]
        lse = torch.stack([torch.logsumexp(log_p / t, -1) for t in config.temperatures], -1)
        if self._whole(classes):
            return {"log_p": log_p.to(dtype), "lse": lse}
        top = log_p.topk(min(config.top, classes), dim=-1, sorted=True)
        ids, kept = top.indices, {"lse": lse}
        if config.samples:
            left = log_p.scatter(-1, ids, -torch.inf)
            proposal = torch.log_softmax(left, -1)
            drawn = torch.stack([_draw(one, config.samples, g) for one, g in zip(proposal, generators, strict=True)]).to(ids.device)
            ids = torch.cat([ids, drawn], -1)
            kept["log_proposal"] = proposal.gather(-1, drawn)
            kept["entropy"] = torch.stack([entropy(log_probabilities(log_p, t)) for t in config.temperatures], -1)
        return kept | {"ids": ids.to(torch.int32), "log_p": log_p.gather(-1, ids).to(dtype)}

    def _generator(self, example: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.config.seed, "signals", self.split.sample_ids[example]))

    def _stop(self, done: int) -> None:
        self._keep(done)
        raise AttemptKilled(f"Stopped on request. {done} of {self.parts} parts are kept; the same job goes on from there.")

    def _keep(self, done: int) -> None:
        def write(directory: Path) -> None:
            for number in range(done):
                shutil.copyfile(self.directory / part_name(number), directory / part_name(number))
            (directory / IDENTITY).write_text(json.dumps({"identity": self.identity, "done": done}))

        self.context.checkpoints.save(done, write)

    def _resume(self) -> int:
        """Parts that an earlier attempt of the job made."""
        newest = self.context.checkpoints.latest()
        if newest is None:
            return 0
        content = json.loads((newest / IDENTITY).read_text())
        if content["identity"] != self.identity:
            return 0
        for number in range(content["done"]):
            shutil.copyfile(newest / part_name(number), self.directory / part_name(number))
        self.context.log(f"Resumed after {content['done']} of {self.parts} parts.")
        return content["done"]


def _draw(log_p: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """On the CPU, whose generator gives the same on every machine."""
    return torch.multinomial(log_p.exp().cpu(), count, replacement=True, generator=generator)
