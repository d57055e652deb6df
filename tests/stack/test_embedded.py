from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lfm_tasks.settings import Settings
from lfm_tasks.stack import credentials
from lfm_tasks.stack.components import Addresses, airflow_components, airflow_environment, mlflow_component
from lfm_tasks.stack.embedded import _interruptible, _only_one, embedded
from lfm_tasks.stack.supervisor import StackFailed

ADDRESSES = Addresses(airflow_port=1001, mlflow_port=1002)
URLS = {"airflow": "sqlite:////a.db", "mlflow": "postgresql://u:p@h/mlflow", "lfm": "sqlite:////l.db"}


def test_second_start_in_the_same_home_is_refused_with_the_first_one_s_process_id(tmp_path):
    holder = "import sys, time\nfrom pathlib import Path\nfrom lfm_tasks.stack.embedded import _only_one\n"
    holder += "with _only_one(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(StackFailed, match=rf"in use by process {first.pid} .*LFM_HOME"), embedded(Settings(home=tmp_path)):
            pass
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    with _only_one(tmp_path):
        assert (tmp_path / "up.lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_interrupts_and_later_ones_do_not_disturb_the_stopping(number):
    before = signal.getsignal(number)
    stopped = False
    with _interruptible():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            os.kill(os.getpid(), number)
            stopped = True
    assert stopped
    assert signal.getsignal(number) is before


def test_airflow_s_environment_holds_generated_keys_and_this_stack_s_places(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "SomebodyElses")
    environment = airflow_environment(Settings(home=tmp_path), ADDRESSES, URLS, tmp_path / "dags")
    keys = credentials.keys(tmp_path)
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environment["AIRFLOW__API_AUTH__JWT_SECRET"] == keys["jwt"]
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1001/execution/"
    assert environment["LFM_MLFLOW_URI"] == "http://127.0.0.1:1002"
    assert environment["LFM_LEDGER_URI"] == URLS["lfm"]
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_mlflow_is_told_no_airflow_secret_and_no_command_line_holds_a_secret(tmp_path):
    settings = Settings(home=tmp_path)
    environment = airflow_environment(settings, ADDRESSES, URLS, tmp_path)
    mlflow = mlflow_component(settings, ADDRESSES, URLS["mlflow"])
    secrets = [*credentials.keys(tmp_path).values(), credentials.password(tmp_path)]
    assert not set(secrets) & set(mlflow.environment.values())
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"] == URLS["mlflow"]
    words = [word for component in (mlflow, *airflow_components(ADDRESSES, environment)) for word in component.command]
    assert not [word for word in words if any(secret in word for secret in (*secrets, URLS["mlflow"]))]


def test_servers_listen_on_loopback_only(tmp_path):
    settings = Settings(home=tmp_path)
    command = mlflow_component(settings, ADDRESSES, "").command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-hosts") + 1] == "127.0.0.1:1002,localhost:1002"
    environment = airflow_environment(settings, ADDRESSES, URLS, tmp_path)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    scheduler = next(one for one in airflow_components(ADDRESSES, environment) if one.name == "airflow-scheduler")
    assert "--skip-serve-logs" in scheduler.command
