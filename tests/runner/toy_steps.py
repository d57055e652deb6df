"""Steps that do next to nothing, for the runner's own laws. Each leaves a trace of every time it worked."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from pydantic import Field

from lfm_tasks.config import Config
from lfm_tasks.errors import AttemptKilled
from lfm_tasks.registry import InputSpec, Step
from lfm_tasks.step import Outcome, Output


class ToyConfig(Config):
    text: str = Field("hello", description="What to write.")
    trace: str = Field("", description="File that gets a line each time the step works.", json_schema_extra={"cache": False})
    units: int = Field(1, ge=1, description="Units of work.")
    stop_at: int = Field(0, ge=0, description="Ask oneself to stop at this unit, once.", json_schema_extra={"cache": False})
    kill: int = Field(0, ge=0, description="Process group to kill -9 while working.", json_schema_extra={"cache": False})
    fail: bool = Field(False, description="Raise instead of finishing.")
    seed: int = Field(0, ge=0, description="Seed.")


def run(config: ToyConfig, inputs, context) -> Outcome:
    done = 0
    if (checkpoint := context.checkpoints.latest()) is not None:
        done = int((checkpoint / "done.txt").read_text())
    started_at = done
    _trace(config, f"began at {started_at}")
    for unit in range(done + 1, config.units + 1):
        context.checkpoints.save(unit, lambda directory, unit=unit: (directory / "done.txt").write_text(str(unit)))
        if unit == config.stop_at and started_at == 0:
            raise AttemptKilled(f"Stopped on request at {unit}.")
        context.report(unit, config.units, {"loss": 1 / unit})
    if config.kill:
        while "loss" not in context.tracker.connection.client.get_run(context.run_id).data.metrics:
            time.sleep(0.1)  # what is killed before a metric was sent has no way to know it later
        os.killpg(config.kill, signal.SIGKILL)
    if config.fail:
        raise RuntimeError("the toy was told to fail")
    out = context.workdir / "out"
    out.mkdir()
    source = inputs["data"].path if "data" in inputs else None
    (out / "rows.jsonl").write_text(config.text + ("" if source is None else source.joinpath("rows.jsonl").read_text()))
    return Outcome({"dataset": Output("dataset", out)}, {"units": float(config.units)}, {"text": config.text})


def learn(config: ToyConfig, inputs, context) -> Outcome:
    """Makes a model of a model and rows: the rows, beside the model's own files."""
    outcome = run(config, inputs, context)
    out = context.workdir / "model"
    shutil.copytree(inputs["model"].path, out)
    shutil.copy(outcome.outputs["dataset"].path / "rows.jsonl", out / "learned.jsonl")
    return Outcome({"model": Output("model", out)}, outcome.metrics, outcome.summary)


def _trace(config: ToyConfig, line: str) -> None:
    if config.trace:
        with Path(config.trace).open("a") as file:
            file.write(line + "\n")


TOY = Step(
    name="toy",
    title="Toy",
    config="tests.runner.toy_steps:ToyConfig",
    run="tests.runner.toy_steps:run",
    inputs={"data": InputSpec(("dataset",), "Rows.", required=False)},
    outputs={"dataset": "dataset"},
    code=("lfm_tasks.runner",),
)

TOY_LEARN = Step(
    name="toy_learn",
    title="Toy that learns",
    config="tests.runner.toy_steps:ToyConfig",
    run="tests.runner.toy_steps:learn",
    inputs={"model": InputSpec(("model",), "Model."), "data": InputSpec(("dataset",), "Rows.")},
    outputs={"model": "model"},
    code=("lfm_tasks.runner",),
)
