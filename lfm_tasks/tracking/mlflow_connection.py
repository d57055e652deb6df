"""One connection to MLflow: short timeouts, few retries, and errors that say what to do."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lfm_tasks.errors import ConfigError, TrackingUnavailable
from lfm_tasks.settings import Settings
from lfm_tasks.tracking.rest import without_credentials

SECONDS_BEFORE_RETRY = 0.5
AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}
REFUSED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"}

Result = TypeVar("Result")


class Connection:
    def __init__(self, settings: Settings) -> None:
        self.uri = settings.tracking_uri
        self.shown_uri = without_credentials(self.uri)
        self._retries = settings.mlflow_retries
        # Repeating is done in `call`: MLflow's own repetition would also re-send a create whose answer was lost.
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(math.ceil(settings.mlflow_timeout))
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        if not self.is_server:
            mlflow.set_tracking_uri(self.uri)  # MLflow's registry tables look up LoggedModels through the global address.
        self.client = self._attempt(lambda: MlflowClient(tracking_uri=self.uri, registry_uri=self.uri), 0)

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    def call(self, function: Callable[..., Result], *arguments: Any, retries: int | None = None, **options: Any) -> Result:
        """``function(*arguments, **options)``, repeated when MLflow does not answer. For requests that may be sent twice.

        Raises :class:`TrackingUnavailable` in the end; MLflow's own error where it answered with a refusal.
        """
        return self._attempt(lambda: function(*arguments, **options), self._retries if retries is None else retries)

    def create(self, find: Callable[[], Result | None], make: Callable[[], Result]) -> Result:
        """What ``find`` finds, else what ``make`` makes. After a create without an answer, it looks again before re-sending."""
        for remaining in range(self._retries, -1, -1):
            found = self.call(find)
            if found is not None:
                return found
            try:
                return self.call(make, retries=0)
            except TrackingUnavailable:
                if remaining == 0:
                    raise
        raise AssertionError("unreachable")

    def _attempt(self, function: Callable[[], Result], retries: int) -> Result:
        for attempt in range(retries + 1):
            try:
                return function()
            except Exception as error:
                code = _code(error)
                if code in REFUSED:
                    raise ConfigError(
                        f"MLflow at {self.shown_uri} refused the request ({_reason(error)}). "
                        "For credentials, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; "
                        "a refused Host needs the server's --allowed-hosts."
                    ) from error
                if code not in AWAY:
                    raise
                if attempt == retries:
                    raise TrackingUnavailable(
                        f"MLflow at {self.shown_uri} did not answer ({_reason(error)}). "
                        "Start it (`lfm up`, or your server) or set LFM_MLFLOW_URI."
                    ) from error
                time.sleep(SECONDS_BEFORE_RETRY * 2**attempt)
        raise AssertionError("unreachable")


def is_missing(error: MlflowException) -> bool:
    """True where MLflow answered that the thing is not there (for an alias it says that the parameter is invalid)."""
    return error.error_code in MISSING or (
        error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)
    )


def _code(error: Exception) -> str:
    import requests
    import sqlalchemy.exc

    if isinstance(error, MlflowException):
        return error.error_code
    away = (requests.exceptions.RequestException, sqlalchemy.exc.OperationalError, ConnectionError, TimeoutError)
    return "TEMPORARILY_UNAVAILABLE" if isinstance(error, away) else ""


def _reason(error: Exception) -> str:
    """The innermost words of a chain of connection errors."""
    text = str(error).splitlines()[0]
    for known in ("Connection refused", "timed out", "Name or service not known", "No route to host", "unable to open database file"):
        if known.lower() in str(error).lower():
            return known
    return text if len(text) <= 200 else text[:199] + "…"
