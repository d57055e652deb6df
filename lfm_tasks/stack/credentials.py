"""Generated secrets of the embedded stack: made once, kept in files that only their owner may read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

USER = "admin"


def password_file(home: Path) -> Path:
    """The file in which Airflow's simple auth manager looks for passwords."""
    return home / "airflow" / "passwords.json"


def password(home: Path) -> str:
    """The password of :data:`USER`, made at the first start."""
    return _kept(password_file(home), lambda: {USER: secrets.token_hex(12)})[USER]


def keys(home: Path) -> dict[str, str]:
    """Keys that Airflow's components share: ``fernet``, ``jwt``, ``session``."""
    return _kept(home / "airflow" / "keys.json", _new_keys)


def _new_keys() -> dict[str, str]:
    return {
        "fernet": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "jwt": secrets.token_urlsafe(64),
        "session": secrets.token_urlsafe(32),
    }


def _kept(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The JSON in ``path``; made there, with mode 600 from its first byte, where it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(make(), file)
    path.chmod(0o600)
    return json.loads(path.read_text())
