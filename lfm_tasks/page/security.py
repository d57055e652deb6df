"""Who may see what, by Airflow's own token and auth manager. The one module that knows these internals of Airflow's core.

A plugin's app gets no authentication from Airflow. Its session cookie is HttpOnly and SameSite=Lax: it comes with the
requests of a page in Airflow's UI and not with those of a foreign page, and a script never sees it.
"""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel
from fastapi import Depends


class Reader:
    """The user behind a request. Decisions are asked for once and kept for this request."""

    def __init__(self, user: Any) -> None:
        self._user = user
        self._known: dict[str | None, bool] = {}

    def may_read(self, dag_id: str | None) -> bool:
        """Whether the runs of this DAG may be read; None asks for runs in general, as for what no DAG has made."""
        if dag_id not in self._known:
            details = None if dag_id is None else DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
            self._known[dag_id] = get_auth_manager().is_authorized_dag(
                method="GET", access_entity=DagAccessEntity.RUN, details=details, user=self._user
            )
        return self._known[dag_id]


def _reader(user: GetUserDep) -> Reader:
    return Reader(user)


ReaderDep = Annotated[Reader, Depends(_reader)]
"""A route with this parameter answers 401 without a valid token."""
