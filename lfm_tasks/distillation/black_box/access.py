"""Which teachers may be asked, and with which key. Neither comes from the config: it only names them."""

from __future__ import annotations

import os

from lfm_tasks.artifacts.references import below_prefix
from lfm_tasks.distillation.black_box.config import CONNECTION_KEY, BlackBoxConfig
from lfm_tasks.errors import ConfigError
from lfm_tasks.settings import settings


def address(options: BlackBoxConfig) -> str:
    """The URL that is posted to. Raises :class:`ReferenceRefused` unless an administrator allows the endpoint."""
    base = below_prefix(options.endpoint.rstrip("/"), settings().teachers, "LFM_TEACHER_ENDPOINTS")
    return f"{base}/chat/completions" if options.api == "chat" else f"{base}/completions"


def api_key(options: BlackBoxConfig) -> str:
    """The key, or an empty text where none is named. Raises :class:`ConfigError` where it is named and not there."""
    name = CONNECTION_KEY if options.key_connection else options.key_variable
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        where = (
            f"the connection {options.key_connection!r}, through {name}" if options.key_connection else f"the environment variable {name}"
        )
        raise ConfigError(f"The key of {options.endpoint} is not there: it was looked for in {where}. Set it where the step runs.")
    return key
