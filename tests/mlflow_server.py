"""A real MLflow server for tests, on a free loopback port, that can be killed and started again on the same database."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


class MlflowServer:
    """Serves ``<store>/mlflow`` (default: ``<root>/store``) and ``<root>/mlflow.db``, which begins as a copy of ``migrated``."""

    def __init__(self, root: Path, migrated: Path, store: Path | None = None) -> None:
        self.root, self.store = root, store or root / "store"
        shutil.copy(migrated, root / "mlflow.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.root}/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", f"{self.store}/mlflow"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.root, start_new_session=True)
        self._await()

    @property
    def pid(self) -> int:
        """Leader of the server's process group."""
        return self._process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)
        self._process.wait(20)

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(20)

    @property
    def _log(self) -> Path:
        return self.root / "log"

    def _await(self) -> None:
        for _ in range(600):
            assert self._process.poll() is None, self._log.read_text()
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self._log.read_text())
