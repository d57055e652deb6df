"""Mail to a real server on loopback; nobody is told unless an address is set."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from lfm_tasks.operators.notify import deadline_missed, failure_notifiers, question_notifiers
from lfm_tasks.settings import settings
from tests.smtp_server import mail_server


@pytest.fixture
def mail(monkeypatch):
    with mail_server() as server:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", server.connection())
        monkeypatch.setenv("LFM_NOTIFY_EMAIL", "ann@localhost, bob@localhost")
        settings.cache_clear()
        yield server
        settings.cache_clear()


def test_nobody_is_told_by_default():
    assert failure_notifiers() == question_notifiers() == []


def test_a_failure_is_told_with_the_run_that_failed(mail):
    (notifier,) = failure_notifiers()
    notifier({"dag": DAG("lfm_promote"), "run_id": "manual__1"})
    assert mail.subjects == ["lfm_promote manual__1 failed"]
    assert "ann@localhost" in mail.messages[0]["To"] and "bob@localhost" in mail.messages[0]["To"]


def test_a_missed_deadline_is_logged_and_told(mail, caplog):
    deadline_missed(context={"dag_run": {"dag_id": "lfm_retrain", "dag_run_id": "scheduled__1"}})
    text = "The run lfm_retrain scheduled__1 has not ended within 12 hours of its queueing."
    assert text in caplog.text
    assert mail.subjects == ["lfm_retrain scheduled__1 is late"] and text in mail.texts[0]
