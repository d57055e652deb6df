"""What the platform adds to Airflow's UI. Loaded by every Airflow process: nothing heavy here."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from lfm_tasks.settings import settings


class LfmPlugin(AirflowPlugin):
    name = "lfm"
    external_views = (
        [{"name": "MLflow", "href": settings().mlflow_uri, "destination": "nav"}] if settings().mlflow_uri.startswith("http") else []
    )
