"""What the platform adds to Airflow's UI. Loaded by every Airflow process: nothing heavy here."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from lfm_tasks.page.mount import PREFIX, lineage_page
from lfm_tasks.settings import settings

# Relative addresses: they survive a reverse proxy that serves Airflow below a path.
PAGE = PREFIX.lstrip("/") + "/"
ICON = PAGE + "static/icon.svg"
RUN = "?dag_id={DAG_ID}&run_id={RUN_ID}"


class LfmPlugin(AirflowPlugin):
    name = "lfm"
    fastapi_apps = [{"app": lineage_page, "url_prefix": PREFIX, "name": "Lineage"}]
    external_views = [
        {"name": "Lineage", "href": PAGE, "destination": "nav", "url_route": "lineage", "nav_top_level": True, "icon": ICON},
        {"name": "Lineage", "href": PAGE + RUN, "destination": "dag_run", "url_route": "run-lineage", "icon": ICON},
        {
            "name": "Lineage",
            "href": PAGE + RUN + "&task_id={TASK_ID}&map_index={MAP_INDEX}",
            "destination": "task_instance",
            "url_route": "task-lineage",
            "icon": ICON,
        },
    ]
    if settings().mlflow_uri.startswith("http"):
        external_views.append({"name": "MLflow", "href": settings().mlflow_uri, "destination": "nav"})
