"""When the retraining DAG runs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronPartitionTimetable, CronTriggerTimetable

from lfm_tasks.assets import DATASET
from lfm_tasks.operators.base import PARTITION
from lfm_tasks.settings import settings


def retrain_schedule(data: str) -> Any:
    """By time or by a changed data set; by time and partition where ``data`` names ``{partition}``: the key is the day."""
    cron = settings().retrain_schedule
    if PARTITION in data:
        return CronPartitionTimetable(cron, timezone="UTC", key_format="%Y-%m-%d")
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=[DATASET])
