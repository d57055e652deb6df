"""A form as Airflow ``Param`` objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from airflow.sdk import DAG, Param

from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.form import form_fields
from lfm_tasks.proposals import What, proposals
from lfm_tasks.settings import settings
from lfm_tasks.steps import STEPS

REFERENCE = "`starter://NAME`, `hf://ORG/NAME`, `models:/NAME@ALIAS`, `sha256:…`, or `file://…` / `s3://…` below an allowed prefix."


@contextmanager
def tasks_of(dag: DAG) -> Iterator[None]:
    """``with tasks_of(dag):`` instead of ``with dag:``: tasks that are made inside copy none of the DAG's Params.

    Airflow gives each task a copy of all of them, validates the copies and writes them out with the DAG: of a form with a hundred fields
    a megabyte, and a second whenever the file is processed. A task needs no copy: its ``params`` are the DAG's, overridden by its own.
    """
    params, dag.params = dag.params, type(dag.params)()
    try:
        with dag:
            yield
    finally:
        dag.params = params


def step_params(
    step: str,
    prefix: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    skip: Iterable[str] = (),
    methods: Sequence[str] = (),
) -> dict[str, Any]:
    """The form of a step as Airflow ``Param`` objects (see :func:`~lfm_tasks.form.form_fields`); a field for a registered model's name
    proposes those that are known."""
    fields = form_fields(STEPS[step], prefix or step, defaults, skip, methods)
    name = f"{prefix or step}_model_name"
    if name in fields and (known := proposals(settings(), "names")):
        fields[name]["examples"] = known
    return airflow_params(fields)


def airflow_params(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Airflow ``Param`` objects for the given schemas."""
    return {name: Param(**schema) for name, schema in fields.items()}


def with_defaults(params: Mapping[str, Param], values: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with other defaults, checked by their own schemas. Raises :class:`ConfigError` for a name that is not there."""
    for name in values:
        if name not in params:
            raise ConfigError(unknown_name("Param", name, params))
    return {name: Param(values.get(name, param.value), description=param.description, **param.schema) for name, param in params.items()}


def reference_param(
    what: What,
    default: str | None,
    title: str,
    description: str,
    *,
    section: str = "What to work on",
    extra: Iterable[str] = (),
    optional: bool = False,
) -> Param:
    """A field for a reference: free text, with proposals (see :mod:`lfm_tasks.proposals`); one without a default may be empty."""
    return Param(
        default,
        type=["null", "string"] if optional or not default else "string",
        maxLength=1024,
        title=title,
        description=f"{description} {REFERENCE}",
        examples=[*extra, *(one for one in proposals(settings(), what) if one not in extra)],
        section=section,
    )


def references_param(title: str, description: str, *, section: str = "What to work on") -> Param:
    """A field for several references, one on each line, in order; empty at first."""
    return Param(
        [],
        type="array",
        items={"type": "string", "minLength": 1, "maxLength": 1024},
        maxItems=64,
        title=title,
        description=f"{description} Each is {REFERENCE}",
        section=section,
    )


def sources_params(judged: str) -> dict[str, Param]:
    """The models that a reuse DAG starts from, their data, and who ``judged`` is compared with."""
    return {
        "models": references_param("Models", "The models to merge, two or more, in order."),
        "data": references_param("Data", "Rows of each model's task, in the order of the models."),
        "base": reference_param("models", "starter://minilm-l6", "Base", "The model that they were made from.", optional=True),
        "heads": Param(
            True,
            type="boolean",
            title="Exchange heads",
            description="Measure everybody on a task with the head of that task's own model; for classifiers. Off for language models.",
            section="What to work on",
        ),
        "champion": reference_param("models", None, "Champion", f"What the {judged} is compared with by the gate; empty for the base."),
    }


def methods_param(step: str, title: str, description: str, default: Iterable[str] = ()) -> Param:
    """A choice of several methods of a step."""
    cards = STEPS[step].config_class.methods()
    return Param(
        list(default),
        type="array",
        items={"type": "string"},
        maxItems=len(cards),
        title=title,
        description=description,
        examples=[card.name for card in cards],
        values_display={card.name: card.title for card in cards},
        section=f"{STEPS[step].title}: Method",
    )
