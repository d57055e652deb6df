"""Text that goes to people or into MLflow, without the secrets it may have picked up on the way."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_KEY|FERNET|CREDENTIAL|_CONN_|LEDGER_URI)", re.IGNORECASE)
_SHAPES = (
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"),
    re.compile(r"(?i)(?<=authorization: )\S+(?: \S+)?"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)


def redact(text: str) -> str:
    """``text`` with known shapes of secrets, and values of environment variables that are named like secrets, hidden."""
    for value in sorted(_environment_secrets(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(HIDDEN, text)
    return text


def _environment_secrets() -> set[str]:
    return {value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAME.search(name)}
