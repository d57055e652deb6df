"""The job and its result: the two JSON documents on either side of ``lfm run-job``. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from lfm_tasks.config import Config


class AirflowTask(Config):
    """Which Airflow task instance asked for the job."""

    dag_id: str = Field(description="DAG.")
    run_id: str = Field(description="DAG run.")
    task_id: str = Field(description="Task.")
    map_index: int = Field(-1, description="Index of a mapped task, else -1.")
    try_number: int = Field(1, ge=1, description="Which try.")
    url: str = Field("", description="Address of the task's log in Airflow.")
    dag_version: str = Field("", description="Version of the DAG.")
    user: str = Field("", description="Who triggered the run.")


class Job(Config):
    """One step to run: what ``lfm run-job JOB.json`` reads."""

    step: str = Field(description="Name of the step.")
    config: dict[str, Any] = Field(default_factory=dict, description="Values of the step's config.")
    inputs: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Input name to reference; of a list, the first reference that names something is taken. "
        "An input that takes many has an entry for each: <name>.0, <name>.1, …",
    )
    airflow: AirflowTask | None = Field(None, description="Set when an Airflow task asked for the job.")
    use_cache: bool = Field(True, description="Answer from the step cache where it holds the job's key.")

    @property
    def parent_key(self) -> str | None:
        """Key of the MLflow parent run: one per DAG run."""
        return None if self.airflow is None else f"{self.airflow.dag_id}/{self.airflow.run_id}"

    @property
    def attempt_name(self) -> str:
        if self.airflow is None:
            return self.step
        task = self.airflow
        index = f"[{task.map_index}]" if task.map_index >= 0 else ""
        return f"{task.task_id}{index} try {task.try_number}"


def numbered_inputs(inputs: Mapping[str, str | list[str]]) -> dict[str, str]:
    """References by the names that a job has for them: a list is all that one input takes, in order."""
    found: dict[str, str] = {}
    for name, value in inputs.items():
        found |= {f"{name}.{place}": one for place, one in enumerate(value)} if isinstance(value, list) else {name: value}
    return found


class JobError(Config):
    """Why a job failed."""

    type: str = Field(description="Class of the error.")
    message: str = Field(description="What was wrong, what is allowed, what to do.")
    retryable: bool = Field(description="Whether the same job may succeed later.")


class JobResult(Config):
    """What a job ended with: what ``lfm run-job`` writes and the operator reads."""

    state: str = Field(description="success, failed or killed.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Input name to what was given, as in the record.")
    outputs: dict[str, str] = Field(default_factory=dict, description="Output name to sha256 reference.")
    cache: str = Field("off", description="hit, miss or off.")
    record: str | None = Field(None, description="Address of the record.")
    run_id: str | None = Field(None, description="MLflow run of the attempt.")
    run_url: str | None = Field(None, description="Address of that run in MLflow's UI.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Summary metrics.")
    summary: dict[str, Any] = Field(default_factory=dict, description="Small facts for people.")
    error: JobError | None = Field(None, description="Set unless the state is success.")
