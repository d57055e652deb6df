"""The disk of the store is full when a step's result is committed."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import ROOT
from tests.small_disk import on_small_disk


def test_the_attempt_fails_with_the_reason_nothing_is_cached_and_a_retry_does_the_work(tmp_path, home):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = on_small_disk(disk, "5m", [sys.executable, "-m", "tests.runner.full_disk_job", str(disk), str(home)])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    reason = f"No space left while writing to {disk}/store. Nothing was committed; free space and run the step again."
    assert told["said"] == {"type": "StoreUnavailable", "message": reason, "retryable": True}
    assert told["mlflow"] == {"status": "FAILED", "error": f"StoreUnavailable: {reason}"}
    assert [key.split("/")[0] for key in told["left"]] == ["checkpoints", "checkpoints"]
    assert told["retry"] == "miss"
