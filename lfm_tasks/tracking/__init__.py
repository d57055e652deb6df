"""MLflow, the ledger and the lineage graph. The way into MLflow is :class:`lfm_tasks.tracking.tracker.Tracker`."""

import os

# Read by MLflow when it is imported: no telemetry, no search for a git program.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
