"""What Airflow connections hold, as the environment variables that a step reads. Secrets take no other way."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from lfm_tasks.distillation.black_box.config import CONNECTION_KEY
from lfm_tasks.errors import ConfigError
from lfm_tasks.settings import Settings, settings


def connect() -> Settings:
    """Settings for work in the task's own process, which is this task's alone: with what the connections hold."""
    if found := environment_from_connections(settings()):
        os.environ.update(found)
        settings.cache_clear()
    return settings()


def environment_from_connections(settings: Settings) -> dict[str, str]:
    """Variables from the connections that ``LFM_STORE_CONNECTION``, ``LFM_MLFLOW_CONNECTION`` and
    ``LFM_LEDGER_CONNECTION`` name; an unset name leaves the worker's own environment in force."""
    found: dict[str, str] = {}
    if settings.store_connection:
        found |= _store(settings.store_connection)
    if settings.mlflow_connection:
        found |= _mlflow(settings.mlflow_connection)
    if settings.ledger_connection:
        from airflow.sdk import BaseHook

        found["LFM_LEDGER_URI"] = BaseHook.get_connection(settings.ledger_connection).get_uri()
    return found


def teacher_key(name: str, endpoint: str) -> dict[str, str]:
    """The key of a teacher behind an API: the password of the connection ``name``, whose host must be the endpoint's.

    Raises :class:`ConfigError` where it is not, so that nobody can have another connection's password sent to an endpoint.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise ConfigError(f"There is no Airflow connection {name!r}. Make one of type http with the endpoint's host and the key.") from None
    host, wanted = (connection.host or "").removeprefix("https://").removeprefix("http://"), urlsplit(endpoint).hostname
    if urlsplit(f"//{host}").hostname != wanted:
        raise ConfigError(
            f"The connection {name!r} is for the host {host!r}, the endpoint's is {wanted!r}. Its password is sent nowhere else; "
            "name the connection of that endpoint."
        )
    return {CONNECTION_KEY: connection.password or ""}


def _store(name: str) -> dict[str, str]:
    """An ``aws`` connection: login and password are the key pair; ``endpoint_url``, ``region_name`` come from its extra."""
    from airflow.sdk import BaseHook

    connection = BaseHook.get_connection(name)
    extra = connection.extra_dejson
    pairs = {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
        "LFM_S3_ENDPOINT_URL": extra.get("endpoint_url"),
        "LFM_S3_REGION": extra.get("region_name"),
    }
    return {key: value for key, value in pairs.items() if value}


def _mlflow(name: str) -> dict[str, str]:
    """An ``http`` connection to the tracking server."""
    from airflow.sdk import BaseHook

    connection = BaseHook.get_connection(name)
    scheme = connection.schema or "http"
    port = f":{connection.port}" if connection.port else ""
    pairs = {
        "LFM_MLFLOW_URI": f"{scheme}://{connection.host}{port}",
        "MLFLOW_TRACKING_USERNAME": connection.login,
        "MLFLOW_TRACKING_PASSWORD": connection.password,
    }
    return {key: value for key, value in pairs.items() if value}
