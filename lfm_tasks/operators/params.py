"""A form as Airflow ``Param`` objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lfm_tasks.form import form_fields
from lfm_tasks.steps import STEPS


def step_params(
    step: str, prefix: str | None = None, defaults: Mapping[str, Any] | None = None, skip: Iterable[str] = ()
) -> dict[str, Any]:
    """The form of a step as Airflow ``Param`` objects."""
    return airflow_params(form_fields(STEPS[step], prefix or step, defaults, skip))


def airflow_params(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Airflow ``Param`` objects for the given schemas."""
    from airflow.sdk import Param

    return {name: Param(**schema) for name, schema in fields.items()}
