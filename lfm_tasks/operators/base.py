"""The operator that runs one step as a child process and hands its outputs on. Thin: the work is in ``lfm run-job``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

from airflow.sdk import BaseOperator, BaseOperatorLink, Context
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTerminated

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError, LfmError, unknown_name
from lfm_tasks.form import config_values, override
from lfm_tasks.operators.conditions import skip_unasked
from lfm_tasks.operators.connections import environment_from_connections
from lfm_tasks.operators.events import announce
from lfm_tasks.page.mount import PREFIX
from lfm_tasks.registry import Step
from lfm_tasks.runner.job import AirflowTask, Job, JobResult, numbered_inputs
from lfm_tasks.runner.launcher import Child
from lfm_tasks.settings import settings
from lfm_tasks.step import numbered
from lfm_tasks.steps import STEPS

Planned = TypeVar("Planned")

NOTHING = ""
"""What a skipped task hands on: the tasks after it go on without that input."""
PARTITION = "{partition}"
PARTITION_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,249}"
SECONDS_TO_STOP = 3.0
"""Airflow sends SIGKILL five seconds after SIGTERM; marking the run needs some of them."""


class MlflowRunLink(BaseOperatorLink):
    name = "MLflow run"
    xcom_key = "run_url"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        return getattr(operator, "run_url", "")


class LineageLink(BaseOperatorLink):
    name = "Lineage"
    xcom_key = "lineage_url"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """The lineage page inside Airflow, about this task; an address below Airflow's own."""
        asked = urlencode({"dag_id": ti_key.dag_id, "run_id": ti_key.run_id, "task_id": ti_key.task_id, "map_index": ti_key.map_index})
        return f"{conf.get('api', 'base_url', fallback='/').rstrip('/')}/plugin/lineage{PREFIX}/?{asked}"


class StepOperator(BaseOperator):
    """Run one step.

    :param references: input name to a reference, or a list of which the first that exists is taken. ``{name}`` in it
        stands for the Param of that name, and ``{partition}`` in the outcome for the run's partition key.
    :param inputs: input name to another task's output, ``task.output["dataset"]``; a list for an input that takes many, a tuple for
        alternatives, of which the first that was handed on is taken. Where ``references`` has the name too, this is the last choice.
    :param prefix: Params named ``<prefix>_<field>`` fill the step's config; default: the step's name.
    :param config: values that the DAG fixes, method options by their own names; they win over Params.
    :param when: Param that asks for the task, or ``"name=value"``; where it does not, the task skips itself. Tasks after it go on
        without its outputs by ``trigger_rule="none_failed"``.
    :param unless: the same, the other way round.

    With :data:`lfm_tasks.assets.NEW_MODEL` or ``NEW_DATASET`` among its ``outlets`` it announces what it made.
    """

    step: ClassVar[str]
    template_fields: Sequence[str] = ("inputs", "config")
    operator_extra_links = (MlflowRunLink(), LineageLink())

    def __init__(
        self,
        *,
        references: Mapping[str, str | list[str]] | None = None,
        inputs: Mapping[str, Any] | None = None,
        prefix: str | None = None,
        config: Mapping[str, Any] | None = None,
        when: str = "",
        unless: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.references = dict(references or {})
        self.inputs = {} if inputs is None else inputs
        self.prefix = prefix or self.step
        self.config = {} if config is None else config
        self.when, self.unless = when, unless
        self.run_url = ""
        self._child: Child | None = None
        self._lineage: tuple[str | None, JobResult] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            job = self.job(context)
            self._child = Child(job, settings(), self.environment(job))
        except LfmError as error:
            raise AirflowFailException(str(error)) from error
        except AirflowSkipException:
            for name in STEPS[self.step].outputs:
                context["ti"].xcom_push(key=name, value=NOTHING)
            raise
        result = self._child.follow(self.log.info)
        self.run_url = result.run_url or ""
        self._lineage = (job.config.get("method"), result)
        if result.state != "success":
            raise _failure(result)
        announce(context, self.outlets, STEPS[self.step], job, result)
        return self.hand_on(context, job, result)

    def job(self, context: Context) -> Job:
        """The job of this task instance. Raises, before anything starts, :class:`ConfigError` when a Param is wrong, and
        :class:`AirflowSkipException` when a Param does not ask for the task or an input is not there."""
        step, params = STEPS[self.step], dict(context["params"])
        skip_unasked(self.when, self.unless, params)
        check_params(params, context["dag"].params)
        values = override(step, config_values(step, self.prefix, params), self.fixed(context))
        config = parse_config(step.config_class, values, where=f"Params {self.prefix}_*")
        inputs = self._references(step, params, context.get("partition_key"))
        return Job(step=step.name, config=config.model_dump(mode="json"), inputs=inputs, airflow=airflow_task(context))

    def environment(self, job: Job) -> dict[str, str]:
        """Environment variables of the step's process beside the worker's own: what connections hold."""
        return environment_from_connections(settings())

    def fixed(self, context: Context) -> Mapping[str, Any]:
        """Config values that win over Params."""
        return self.config

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        """Give the outputs to the tasks after this one, each under its name, many as a list; returns the task's own result."""
        many = {name: [result.outputs[key] for key in numbered(result.outputs, name)] for name in STEPS[self.step].outputs}
        for name, value in {**result.outputs, **{name: found for name, found in many.items() if found}}.items():
            context["ti"].xcom_push(key=name, value=value)
        return result.model_dump(mode="json", exclude={"error", "state", "inputs"})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Called by Airflow's OpenLineage provider, where that is installed, when the task ended well or failed."""
        if self._lineage is None:
            return None
        from lfm_tasks.operators.openlineage import facets

        return facets(STEPS[self.step], *self._lineage)

    def on_kill(self) -> None:
        """Called on SIGTERM, the only thing that is: stop the child (it checkpoints), close its run, end the task.

        Airflow may call it twice.
        """
        child, self._child = self._child, None
        if child is None:
            return
        ended = child.stop(SECONDS_TO_STOP)
        opened = child.opened
        if opened is not None and not ended:
            from lfm_tasks.tracking.rest import set_terminated

            set_terminated(settings().tracking_uri, opened["run_id"], "KILLED", timeout=1.0)
        raise AirflowTaskTerminated(f"Step {self.step} was asked to stop; its checkpoint is kept for the next run of the same job.")

    def _references(self, step: Step, params: Mapping[str, Any], partition: str | None) -> dict[str, str | list[str]]:
        handed_on = {name: first_handed_on(value) for name, value in self.inputs.items()}
        found: dict[str, str | list[str]] = dict(numbered_inputs({name: value for name, value in handed_on.items() if value}))
        for name, pattern in self.references.items():
            filled = [text for one in ([pattern] if isinstance(pattern, str) else pattern) if (text := fill(one, params))]
            if filled:
                last = [found[name]] if isinstance(found.get(name), str) else []
                found[name] = [*(of_partition(text, partition) for text in filled), *last]
        names = {key.partition(".")[0] for key in found}
        missing = [name for name, spec in step.inputs.items() if spec.required and name not in names]
        if missing:
            raise AirflowSkipException(f"No {missing[0]} was given for task {self.task_id}.")
        return found


def first_handed_on(value: Any) -> Any:
    """Of alternatives, a tuple, the first that is not :data:`NOTHING`; all else as it is."""
    return next(filter(None, value), NOTHING) if isinstance(value, tuple) else value


def fill(pattern: str, params: Mapping[str, Any]) -> str:
    """``pattern`` with each ``{name}`` replaced by that Param; text from a Param is never interpreted further."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in params:
            raise ConfigError(unknown_name("Param", match[1], params))
        return str(params[match[1]] or "")

    return re.sub(r"\{(\w+)\}", value, pattern).strip()


def of_partition(reference: str, partition: str | None) -> str:
    """``reference`` with ``{partition}`` replaced by the run's partition key, which names the snapshot of the data."""
    if PARTITION not in reference:
        return reference
    if not partition:
        raise ConfigError(f"{reference!r} names {PARTITION}, but this run has no partition key. Trigger it with one, or name one snapshot.")
    if not re.fullmatch(PARTITION_PATTERN, partition):
        raise ConfigError(f"Partition key {partition!r} cannot be part of a reference. Use letters, digits and '.', '_', ':', '+', '-'.")
    return reference.replace(PARTITION, partition)


def check_params(given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Refuse Params that the DAG does not declare: Airflow passes them through."""
    for name in given:
        if name not in declared:
            raise ConfigError(unknown_name("Param", name, declared))


def of_params(context: Context, plan: Callable[[dict[str, Any]], Planned]) -> Planned:
    """What ``plan`` makes of the run's Params. What is refused would be refused again: the task fails without a retry."""
    params = dict(context["params"])
    try:
        check_params(params, context["dag"].params)
        return plan(params)
    except ConfigError as error:
        raise AirflowFailException(str(error)) from error


def mapped_outputs(context: Context, task_id: str, output: str, count: int) -> list[str | None]:
    """What the ``count`` instances of a mapped task handed on under the name ``output``, in order; None for one that did not."""
    return list(context["ti"].xcom_pull(task_ids=task_id, key=output, map_indexes=range(count)))


def airflow_task(context: Context) -> AirflowTask:
    ti, run = context["ti"], context["dag_run"]
    return AirflowTask(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        try_number=max(1, ti.try_number),
        url=str(getattr(ti, "log_url", "") or ""),
        dag_version=str(getattr(ti, "dag_version_id", "") or ""),
        user=str(getattr(run, "triggering_user_name", "") or ""),
    )


def _failure(result: JobResult) -> AirflowException:
    assert result.error is not None
    message = f"{result.error.type}: {result.error.message}"
    return AirflowException(message) if result.error.retryable else AirflowFailException(message)
