"""The step *statistics*: what a model's activations or gradients on its data say of its tensors, kept for any merge."""

from __future__ import annotations

import time
from collections.abc import Mapping

from lfm_tasks.catalogue import METHODS
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.statistics import TENSORS, write_statistics
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.statistics.subject import Gathered, open_subject
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: StatisticsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    subject = open_subject(inputs["model"], inputs["dataset"], config, context)
    gathered: Gathered = METHODS[config.method].function(subject, config.method_config())
    counts = {"rows": len(subject.rows), "tokens": sum(len(one) for one in subject.rows.input_ids)}
    description = {
        "kind": config.method,
        "model": inputs["model"].sha256,
        "dataset": inputs["dataset"].sha256,
        "tokenizer_sha256": subject.rows.description["tokenizer_sha256"],
        "options": config.method_config().model_dump(),
        "split": config.split,
        **counts,
        "tensors": gathered.described,
    }
    directory = context.workdir / "statistics"
    write_statistics(directory, gathered.tensors, description)
    metrics = {
        **{name: float(count) for name, count in counts.items()},
        "tensors": float(len(gathered.described)),
        "bytes_written": float((directory / TENSORS).stat().st_size),
        "cpu_seconds": time.process_time() - began,
        "peak_memory_bytes": float(peak_rss_bytes()),
    }
    summary = {"method": config.method, "model": inputs["model"].reference, "split": config.split, **counts}
    return Outcome(outputs={"statistics": Output("statistics", directory)}, metrics=metrics, summary=summary)
