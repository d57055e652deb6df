"""The child process: its environment, its end, its result."""

from __future__ import annotations

import sys

import pytest

from lfm_tasks.errors import ConfigError
from lfm_tasks.runner.launcher import child_environment, describe_exit, launch_command
from lfm_tasks.settings import Settings


def test_the_child_gets_none_of_the_orchestrators_secrets():
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://u:secret@h/d",
        "AIRFLOW__CORE__FERNET_KEY": "k",
        "AIRFLOW_CONN_AWS": "aws://a:b@",
        "PATH": "/bin",
        "LFM_STORE_URI": "file:///s",
    }
    kept = child_environment(environment, Settings(), {"AWS_SECRET_ACCESS_KEY": "from the connection"})
    assert not [name for name in kept if name.startswith("AIRFLOW")]
    assert kept["PATH"] == "/bin" and kept["LFM_STORE_URI"] == "file:///s"
    assert kept["AWS_SECRET_ACCESS_KEY"] == "from the connection"


def test_threads_wait_asleep_unless_told_otherwise():
    assert child_environment({}, Settings(), {})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert child_environment({"OMP_WAIT_POLICY": "ACTIVE"}, Settings(), {})["OMP_WAIT_POLICY"] == "ACTIVE"


def test_threads_reach_the_child():
    assert child_environment({}, Settings(threads=3), {})["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in child_environment({}, Settings(threads=0), {})


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ("python", [sys.executable, "-X", "dev", "-m", "lfm_tasks.cli"]),
        ("torchrun", [sys.executable, "-m", "torch.distributed.run", "-X", "dev", "-m", "lfm_tasks.cli"]),
        ("accelerate", [sys.executable, "-m", "accelerate.commands.launch", "-X", "dev", "-m", "lfm_tasks.cli"]),
    ],
)
def test_launch_command(launcher, expected):
    assert launch_command(Settings(launcher=launcher, launcher_args="-X dev")) == expected


def test_an_unknown_launcher_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"Unknown launcher 'torchrum'. Did you mean 'torchrun'\?.*LFM_LAUNCHER"):
        launch_command(Settings(launcher="torchrum"))


def test_an_exit_is_described_so_that_a_person_knows_where_to_look():
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(-9) == "was ended by SIGKILL (often the kernel's out-of-memory killer)"
    assert describe_exit(-11) == "was ended by SIGSEGV"
