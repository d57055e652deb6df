"""An auth manager whose viewers may not read the DAG ``secret``: the simple one knows no right on a single DAG."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class OneDagDenied(SimpleAuthManager):
    def is_authorized_dag(self, *, user: Any, details: Any = None, **others: Any) -> bool:
        denied = details is not None and details.id == "secret" and user.role == "viewer"
        return not denied and super().is_authorized_dag(user=user, details=details, **others)
