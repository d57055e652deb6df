"""Toy teachers, students and data sets of the step *distill*, and its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lfm_tasks.data import prepare
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.distillation import distill, recording
from lfm_tasks.distillation.config import DistillConfig, RecordSignalsConfig
from lfm_tasks.models.opening import open_causal_lm, open_classifier
from lfm_tasks.step import Input
from tests.toys import CORPUS
from tests.tuned import LABELS, Context, bert_input, llama_input, write_dataset

OBJECTIVES = {"causal_lm": "completion", "classification": "labels"}


def decoders(root: Path) -> dict[str, Input]:
    """A teacher whose words are not all alike, a smaller student, and rows of both."""
    teacher = loud(llama_input(root / "teacher", seed=1))
    student = llama_input(root / "student", layers=1, hidden=16)
    return {"teacher": teacher, "student": student, "dataset": write_dataset(root / "data", student.path, "instruction", rows=16)}


def strangers(root: Path) -> dict[str, Input]:
    """Decoders of other tokenizers, and the same completions prepared for each."""
    teacher, student = loud(llama_input(root / "teacher", seed=1, vocabulary=290)), llama_input(root / "student", layers=1, hidden=16)
    texts = [text for text in CORPUS for text in (text, text[::-1])]
    rows = [{"prompt": f"{place} {text[:9]}", "completion": text[9:40] + "é→"} for place, text in enumerate(texts)]
    (root / "raw").mkdir()
    (root / "raw" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {"teacher": teacher, "student": student}
    options = {"task": "instruction", "prompt_template": "{prompt}", "completion_template": " {completion}", "label_choices": False}
    for name, model in (("dataset", student), ("teacher_dataset", teacher)):
        raw = {"data": Input("raw", "dataset", "", root / "raw"), "model": model}
        outcome = prepare.run(PrepareConfig(**options, max_length=200, validation_fraction=0.1), raw, Context(root / name))
        found[name] = Input(name, "dataset", "d" * 64, outcome.outputs["dataset"].path)
    return found


def encoders(root: Path) -> dict[str, Input]:
    teacher = loud(bert_input(root / "teacher", labels=LABELS, seed=1))
    student = bert_input(root / "student", layers=1, hidden=16)
    return {"teacher": teacher, "student": student, "dataset": write_dataset(root / "data", student.path, "classification", rows=16)}


def loud(model: Input, factor: float = 12.0) -> Input:
    """The same weights, larger: an untrained toy says nearly the same everywhere."""
    from safetensors.torch import load_file, save_file

    path = model.path / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * factor if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}, path, {"format": "pt"})
    return Input(model.reference, "model", f"{factor:064.0f}", model.path)


def config(**values: Any) -> DistillConfig:
    return DistillConfig(**({"batch_size": 8, "max_steps": 3, "learning_rate": 1e-2} | values))


def given(toys: dict[str, Input], **more: Input) -> dict[str, Input]:
    """Inputs of the step: the teacher, unless ``signals`` are among ``more``."""
    named = {name: toys[name] for name in ("student", "dataset", "teacher_dataset") if name in toys} | {
        name.replace("_", "."): one for name, one in more.items()
    }
    return named if any(name.startswith(("signals", "teachers")) for name in named) else named | {"teachers.0": toys["teacher"]}


def prepared(toys: dict[str, Input], directory: Path, task: str = "causal_lm", inputs: dict[str, Input] | None = None, **values: Any):
    model = open_causal_lm(toys["student"]) if task == "causal_lm" else open_classifier(toys["student"], LABELS)
    return distill.prepare(config(**values), model, inputs or given(toys), OBJECTIVES[task], Context(directory))


def recorded(toys: dict[str, Input], directory: Path, **values: Any) -> Input:
    outcome = recording.run(RecordSignalsConfig(**values), {"teacher": toys["teacher"], "dataset": toys["dataset"]}, Context(directory))
    return Input(f"signals {directory.name}", "signals", "5" * 64, outcome.outputs["signals"].path)


def step_gradients(training) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first optimiser step, before they are clipped."""
    training.run()
    return training.progress.history[0]["loss"], {
        name: one.grad.clone() for name, one in training.parameters.items() if one.grad is not None
    }


def chunks_of(ours: list[str], theirs: list[str], text: str) -> list[tuple[list[int], list[int]]]:
    """Members of each chunk, by walking along the bytes that the tokens' pieces stand for, one piece a byte; chunks that end inside
    of a character are joined with the next."""
    ends = []
    size = 0
    for character in text:
        size += len(character.encode())
        ends.append(size)
    borders = {0, *ends, ends[-1] + 1}
    found, i, j, a, b = [], 0, 0, 0, 0
    here: tuple[list[int], list[int]] = ([], [])
    while i < len(ours) or j < len(theirs):
        if a <= b and i < len(ours):
            here[0].append(i)
            a += 1 if ours[i] == "END" else len(ours[i])
            i += 1
        else:
            here[1].append(j)
            b += 1 if theirs[j] == "END" else len(theirs[j])
            j += 1
        if a == b and a in borders:
            found.append(here)
            here = ([], [])
    return found
