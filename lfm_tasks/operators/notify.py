"""Tell people by mail: a run failed, a question waits, a deadline passed. Nobody is told unless ``LFM_NOTIFY_EMAIL`` is set."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback

from lfm_tasks.settings import settings

RUN = "{{ dag.dag_id }} {{ run_id }}"


def failure_notifiers() -> list[Any]:
    """For a DAG's ``on_failure_callback``."""
    return _mail(f"{RUN} failed", f"The run {RUN} failed. Airflow shows which task, and its log.")


def question_notifiers() -> list[Any]:
    """For an :class:`~lfm_tasks.operators.approve.AskOperator`."""
    text = f"The run {RUN} asks whether a model may be promoted. Answer in Airflow under Browse, Required Actions."
    return _mail(f"{RUN} asks for an answer", text)


def retrain_deadline() -> DeadlineAlert:
    """``LFM_RETRAIN_HOURS`` after a run was queued it should have ended. A synchronous callback needs no triggerer."""
    interval = timedelta(hours=settings().retrain_hours)
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, SyncCallback(deadline_missed))


def deadline_missed(context: dict[str, Any] | None = None, **_: Any) -> None:
    """Log it, and tell people where that is set up."""
    run = ((context or {}).get("dag_run")) or {}
    name = f"{run.get('dag_id', 'a DAG')} {run.get('dag_run_id') or run.get('run_id', '')}".strip()
    text = f"The run {name} has not ended within {settings().retrain_hours:g} hours of its queueing."
    logging.getLogger(__name__).warning(text)
    for notifier in _mail(f"{name} is late", text):
        notifier.notify(context or {})


def _mail(subject: str, text: str) -> list[Any]:
    addresses = [address.strip() for address in settings().notify_email.split(",") if address.strip()]
    if not addresses:
        return []
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return [SmtpNotifier(to=addresses, subject=subject, html_content=text, smtp_conn_id=settings().notify_connection)]
