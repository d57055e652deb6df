"""Whether a run's Params ask for a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.errors import ConfigError, unknown_name


def skip_unasked(when: str, unless: str, params: Mapping[str, Any]) -> None:
    """Raise :class:`AirflowSkipException` where the condition ``when`` does not hold, or ``unless`` does; an empty one says nothing."""
    if when and not holds(when, params):
        name = when.partition("=")[0]
        raise AirflowSkipException(f"'{name}' is {params[name] or 'off'}.")
    if unless and holds(unless, params):
        name = unless.partition("=")[0]
        raise AirflowSkipException(f"The {name} is {params[name]}.")


def holds(condition: str, params: Mapping[str, Any]) -> bool:
    """Whether the Param ``condition`` is filled in or on; of ``"name=value"``, whether it has that value."""
    name, compared, value = condition.partition("=")
    if name not in params:
        raise ConfigError(unknown_name("Param", name, params))
    return params[name] == value if compared else bool(params[name])
