"""Start ``lfm run-job`` as a child in its own process group, follow it, stop it. Light to import.

The launcher and the interpreter come from the settings: ``python`` runs one process; ``torchrun`` and ``accelerate``
run one job on many devices or machines with the arguments in ``LFM_LAUNCHER_ARGS``.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from lfm_tasks.config import parse_config
from lfm_tasks.errors import AttemptCrashed, ConfigError, unknown_name
from lfm_tasks.runner.job import Job, JobError, JobResult
from lfm_tasks.settings import Settings

MODULE = "lfm_tasks.cli"
# A step needs none of the orchestrator's secrets.
WITHHELD = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_")
# A thread that waits for others sleeps. Spinning, the default, makes a step three times slower as soon as it shares its cores.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class Child:
    """A running job. ``run_id`` is the MLflow run of its attempt, known once the attempt is open."""

    def __init__(self, job: Job, settings: Settings, extra_environment: Mapping[str, str] | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="lfm-job-")
        root = Path(self._directory.name)
        self._result, self._opened = root / "result.json", root / "opened.json"
        job_file = root / "job.json"
        job_file.write_text(job.model_dump_json())
        arguments = ["run-job", str(job_file), "--result", str(self._result), "--opened", str(self._opened)]
        self.process = subprocess.Popen(
            [*launch_command(settings), *arguments, "--parent-pid", str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=child_environment(os.environ, settings, extra_environment or {}),
            start_new_session=True,
            text=True,
            errors="replace",
            bufsize=1,
        )

    def follow(self, line: Callable[[str], None]) -> JobResult:
        """Pass each line of the child's output to ``line``; return its result once it ended."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line(text.rstrip("\n"))
        code = self.process.wait()
        try:
            return parse_config(JobResult, json.loads(self._result.read_text()), where="result of the job")
        except (FileNotFoundError, json.JSONDecodeError):
            crash = AttemptCrashed(f"The step's process {describe_exit(code)} and left no result. Its last lines are in the log above.")
            return JobResult(state="failed", error=JobError(type="AttemptCrashed", message=str(crash), retryable=True), **self._known())
        finally:
            self._directory.cleanup()

    @property
    def opened(self) -> dict[str, str] | None:
        """``run_id`` and ``run_url`` of the attempt, or None before it is open."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(self._opened.read_text())
        return None

    def stop(self, seconds: float) -> bool:
        """Ask the process group to stop (it checkpoints); True if it ended within ``seconds``, else it goes on alone."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _known(self) -> dict[str, str]:
        return self.opened or {}


def launch_command(settings: Settings) -> list[str]:
    """The command up to ``run-job``; raises :class:`ConfigError` for an unknown launcher."""
    arguments = shlex.split(settings.launcher_args)
    interpreter = settings.interpreter
    commands = {
        "python": [interpreter, *arguments, "-m", MODULE],
        "torchrun": [interpreter, "-m", "torch.distributed.run", *arguments, "-m", MODULE],
        "accelerate": [interpreter, "-m", "accelerate.commands.launch", *arguments, "-m", MODULE],
    }
    if settings.launcher not in commands:
        raise ConfigError(unknown_name("launcher", settings.launcher, commands) + " Set LFM_LAUNCHER.")
    return commands[settings.launcher]


def child_environment(environment: Mapping[str, str], settings: Settings, extra: Mapping[str, str]) -> dict[str, str]:
    """What the child inherits: everything but the orchestrator's own secrets, with what connections hold laid over it."""
    kept = PATIENT | {name: value for name, value in environment.items() if not name.startswith(WITHHELD)}
    if settings.threads:
        kept |= {"OMP_NUM_THREADS": str(settings.threads), "MKL_NUM_THREADS": str(settings.threads)}
    package_root = str(Path(__file__).parents[2])
    paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    if settings.interpreter == sys.executable and package_root not in paths:
        kept["PYTHONPATH"] = os.pathsep.join([*paths, package_root])
    return kept | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(extra)


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
