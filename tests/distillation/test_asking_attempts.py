"""Whole attempts of *ask_teacher*, from job to record: killed by the kernel, answered from the cache, replayed, silent about the key."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import ConfigError
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings, settings
from tests.distillation.conftest import QUICK, numbered, write
from tests.teacher_server import Fault, TeacherServer

KEY = "sesame-open-8d1f"


@pytest.fixture
def job(tmp_path, server, monkeypatch):
    write(numbered(20), tmp_path / "rows")
    monkeypatch.setenv("LFM_ALLOWED_PREFIXES", f"file://{tmp_path}")
    settings.cache_clear()

    def make(inputs=None, **options) -> Job:
        options = QUICK | {"endpoint": server.url, "model": "oracle", "concurrency": 3} | options
        return Job(
            step="ask_teacher",
            config={"method": "black_box", "prompt_template": "{text}", "options": options},
            inputs={"data": f"file://{tmp_path}/rows"},
        )

    return make


def do(job: Job, home: Path) -> JobResult:
    (home / "mlflow").mkdir(parents=True, exist_ok=True)
    return run_job(job, Settings(home=home), StopSignal())


def kept(home: Path) -> list[str]:
    return list(Store.open(Settings(home=home).store).backend.list("answers/"))


def killed_after(answers: int, job: Job, home: Path, server: TeacherServer) -> None:
    """A child works on ``job`` until so many more questions are answered, is held there, and gets SIGKILL."""
    held, count, before = threading.Event(), iter(range(1000)), len(kept(home))

    def fault(number: int, text: str) -> Fault | None:
        if next(count) < answers:
            return None
        held.set()
        return Fault(hold=True)

    server.fault = fault
    pid = os.fork()
    if pid == 0:
        try:
            do(job, home)
        finally:
            os._exit(1)
    assert held.wait(60)
    while len(kept(home)) < before + answers:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    server.fault = lambda number, text: None


def test_killed_twice_while_asking_it_ends_with_the_rows_of_an_undisturbed_run_and_asks_nothing_again(
    job, home, tmp_path, server, migrated
):
    killed_after(4, job(), home, server)
    killed_after(7, job(), home, server)
    result = do(job(), home)
    assert len(kept(home)) == 20 and set(server.answered.values()) == {1}
    assert (result.metrics["asked/kept"], result.metrics["asked/answered"], result.metrics["asked/rows"]) == (11, 9, 20)
    (tmp_path / "other" / "mlflow").mkdir(parents=True)
    (tmp_path / "other" / "mlflow" / "mlflow.db").write_bytes(migrated.read_bytes())
    undisturbed = do(job(), tmp_path / "other")
    assert undisturbed.outputs == result.outputs and set(server.answered.values()) == {2}


def test_an_equal_job_costs_nothing_and_a_replay_asks_nobody(job, home, server):
    first, second = do(job(), home), do(job(), home)
    assert (first.cache, second.cache) == ("miss", "hit") and len(server.bodies) == 20
    server.fault = lambda number, text: Fault(401)
    replay = Job(step="replay", inputs={"artifact": first.outputs["dataset"]})
    assert do(replay, home).summary["verdict"] == "identical" and len(server.bodies) == 20
    store = Store.open(Settings(home=home).store)
    store.backend.delete(kept(home)[0])
    summary = do(replay, home).summary
    assert summary["verdict"] == "failed" and "a replay asks no teacher anew" in str(summary["first_difference"])


def test_an_answer_that_was_changed_is_not_used(job, home, server):
    do(job(), home)
    path = home / "store" / kept(home)[0]
    path.write_text(path.read_text().replace("day-", "night-"))
    with pytest.raises(Exception, match="was changed after it was written. Delete it to ask again"):
        do(job().model_copy(update={"use_cache": False}), home)


def test_the_key_is_sent_and_is_in_no_file_log_record_or_parameter(job, home, server, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("TOY_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login x password from-netrc\n")
    server.key, server.answer = KEY, lambda text: f"I was told {KEY}"
    result = do(job(key_variable="TOY_API_KEY"), home)
    row = json.loads(
        (home / "store" / "artifacts" / "dataset" / result.outputs["dataset"].split(":")[1] / "rows.jsonl").read_text().splitlines()[0]
    )
    assert row["completion"] == "I was told ***"
    server.key = "changed"
    with pytest.raises(ConfigError, match=r"answered HTTP 401: wrong key: Bearer \*\*\*"):
        do(job(key_variable="TOY_API_KEY", revision="2"), home)
    server.key, server.fault = KEY, lambda number, text: Fault(400, KEY.encode())
    with pytest.raises(Exception, match=r"HTTP 400: \*\*\*"):
        do(job(key_variable="TOY_API_KEY", revision="3"), home)
    said = capfd.readouterr()
    assert KEY not in said.out + said.err and "requests" in said.out
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 25 and [path for path in files if KEY.encode() in path.read_bytes()] == []
