"""Metrics on their way to MLflow: queued by the step, sent by a thread, so that training never waits for a request."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric

from lfm_tasks.tracking.mlflow_connection import Connection

SECONDS_BETWEEN_BATCHES = 2.0
SECONDS_BETWEEN_SAMPLES = 10.0
BATCH = 1000
KEPT = 50_000


class Reporter:
    """Sends one run's metrics, and samples the machine for MLflow's "System metrics" page."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._connection, self._run_id = connection, run_id
        self._queue: list[Metric] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._warned = False
        self._samples = 0
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        fresh = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        with self._lock:
            self._queue = (self._queue + fresh)[-KEPT:]

    def close(self) -> None:
        """Send what is left, once. What MLflow did not take is given up with a warning."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._flush()
        if self._queue:
            self._warn(f"{len(self._queue)} metric values were not logged to MLflow; the record holds the final ones.")

    def _work(self) -> None:
        monitors: list[Any] = []
        next_sample = 0.0
        while not self._stop.wait(SECONDS_BETWEEN_BATCHES):
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + SECONDS_BETWEEN_SAMPLES
                monitors = monitors or _monitors()
                self._sample(monitors)
            self._flush()

    def _flush(self) -> None:
        """Send the queue. Times were fixed when values were queued, so that sending one twice is the same as once."""
        with self._lock:
            batch, self._queue = self._queue, []
        while batch:
            try:
                self._connection.call(self._connection.client.log_batch, self._run_id, metrics=batch[:BATCH], retries=0)
            except Exception as error:
                with self._lock:
                    self._queue = (batch + self._queue)[-KEPT:]
                if not self._warned:
                    self._warned = True
                    self._warn(f"Metrics wait for MLflow: {error}")
                return
            batch = batch[BATCH:]

    def _sample(self, monitors: list[Any]) -> None:
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        self.put(self._samples, values)
        self._samples += 1

    @staticmethod
    def _warn(message: str) -> None:
        print(f"Warning: {message}", file=sys.stderr, flush=True)


def _monitors() -> list[Any]:
    """MLflow's own samplers, for the names that its page shows; a GPU's where there is one."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        found.append(GPUMonitor())
    except Exception as error:  # pynvml raises errors of its own where there is no driver
        del error
    return found
