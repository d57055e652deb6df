"""One attempt, from job to record. See the README, section "The way of a step"."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lfm_tasks.artifacts.checkpoints import StoreCheckpoints
from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import Config, canonical_json, parse_config
from lfm_tasks.errors import AttemptKilled, IntegrityError, LfmError, ReferenceRefused, TrackingUnavailable
from lfm_tasks.registry import Step
from lfm_tasks.runner.context import RunningContext
from lfm_tasks.runner.environment import code_digest, code_files, environment, git_commit
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.ranks import compute
from lfm_tasks.runner.remote import RemoteReads
from lfm_tasks.runner.resolve import Resolved, Resolver
from lfm_tasks.runner.revoked import refuse_revoked
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.runner.usage import Usage
from lfm_tasks.settings import Settings
from lfm_tasks.step import Outcome
from lfm_tasks.steps import STEPS
from lfm_tasks.tracking.cost import seconds
from lfm_tasks.tracking.tracker import Tracker


@dataclass(frozen=True)
class Attempt:
    """Everything that is known before the work begins."""

    job: Job
    project: str
    step: Step
    config: Config
    inputs: dict[str, Resolved]
    cache_key: str
    parent_run_id: str | None
    run_id: str
    started: datetime
    usage: Usage


def run_job(job: Job, settings: Settings, stop: StopSignal, opened: Callable[[str, str], None] = lambda run_id, url: None) -> JobResult:
    """Run ``job`` to its record. ``opened`` is told the MLflow run and its address as soon as the attempt is open.

    Raises what the step raises; the attempt is then closed as FAILED or KILLED. Raises :class:`TrackingUnavailable`
    before any work when MLflow does not answer, and after it (work and record are in the store) when it went away.
    """
    started = datetime.now(UTC)
    step = STEPS[job.step]
    config = parse_config(step.config_class, job.config, where=f"config of step {step.name}")
    store = Store.open(settings.store)
    usage = Usage.now(store)
    tracker = Tracker.open(settings, store)
    with _workdir(settings) as workdir:
        parent = tracker.parent(job.parent_key, job.parent_key, _parent_tags(job)) if job.parent_key else None
        run_id = tracker.open_attempt(parent, _attempt_key(job, started), job.attempt_name, _attempt_tags(job, step, config))
        opened(run_id, tracker.run_url(run_id))
        try:
            resolver = Resolver(store, tracker, settings, workdir)
            inputs = resolver.resolve(step, job.inputs)
            refuse_revoked(step, inputs, store, tracker.ledger)
            attempt = Attempt(job, settings.project, step, config, inputs, _cache_key(step, config, inputs), parent, run_id, started, usage)
            result = _from_cache(attempt, store, tracker) or _work(attempt, resolver, store, tracker, stop, workdir)
        except AttemptKilled as error:
            tracker.close_attempt(run_id, "KILLED", str(error))
            raise
        except TrackingUnavailable:
            raise
        except Exception as error:
            tracker.close_attempt(run_id, "FAILED", f"{type(error).__name__}: {error}")
            raise
        tracker.close_attempt(run_id, "FINISHED")
        return result


def _work(attempt: Attempt, resolver: Resolver, store: Store, tracker: Tracker, stop: StopSignal, workdir: Path) -> JobResult:
    opened = {name: resolver.open(one, attempt.step.reads_by_range(name, attempt.inputs)) for name, one in attempt.inputs.items()}
    remote = RemoteReads(opened, StoreCheckpoints(store, attempt.cache_key, workdir / "checkpoints"))
    checkpoints = remote.checkpoints
    context = RunningContext(workdir, remote, tracker.registry, stop, tracker, attempt.run_id, resolver.settings)
    if stop:
        raise AttemptKilled("Stopped on request before the work began.")
    with remote.verified():
        outcome = compute(attempt.step, attempt.config, opened, context)
    store.bytes_read += remote.bytes_read
    outputs = {name: store.commit(output.path, output.kind) for name, output in outcome.outputs.items()}
    store.put_code(code_files(attempt.step.code))
    record = _record(attempt, outcome, {name: {"kind": a.kind, "sha256": a.sha256} for name, a in outputs.items()}, store)
    address = store.put_record(record)
    if attempt.step.cached:
        store.put_cached(attempt.cache_key, address)
    checkpoints.clear()
    _log(tracker, address, record, outcome.figures)
    return _result(attempt, record, address, "miss" if attempt.job.use_cache and attempt.step.cached else "off", tracker)


def _from_cache(attempt: Attempt, store: Store, tracker: Tracker) -> JobResult | None:
    """The result of an equal job that ended well, as a record of its own that points at the one that did the work."""
    if not (attempt.job.use_cache and attempt.step.cached):
        return None
    address = store.cached(attempt.cache_key)
    if address is None:
        return None
    try:
        made = store.get_record(address)
        for output in made["outputs"].values():
            store.find(output["sha256"])
    except (ReferenceRefused, IntegrityError) as error:
        print(f"The cached result is not used: {error}", flush=True)
        return None
    print(f"cache hit: step {attempt.step.name} was done by run {made['mlflow']['run_id']} (record {address[:12]})", flush=True)
    outcome = Outcome(outputs={}, metrics=made["metrics"], summary=made["summary"])
    hit = {"hit": True, "record": address, "run_id": made["mlflow"]["run_id"]}
    record = _record(attempt, outcome, made["outputs"], store) | {"cache": hit, "saved": seconds(made)}
    address = store.put_record(record)
    _log(tracker, address, record, ())
    return _result(attempt, record, address, "hit", tracker)


def _log(tracker: Tracker, address: str, record: dict[str, Any], figures: tuple[Path, ...]) -> None:
    try:
        tracker.log_record(address, record, figures)
    except TrackingUnavailable as error:
        raise TrackingUnavailable(
            f"The work is done and in the store as record {address}, but MLflow could not be told: {error} "
            "Run `lfm records sync` when it answers again; a retry finds the work in the cache."
        ) from error


def _cache_key(step: Step, config: Config, inputs: dict[str, Resolved]) -> str:
    key = {
        "step": step.name,
        "config": config.cache_fields(),
        "inputs": {name: resolved.content() for name, resolved in inputs.items()},
        "code": code_digest(step.code),
        "environment": environment()["sha256"],
    }
    return sha256_bytes(canonical_json(key))


def _record(attempt: Attempt, outcome: Outcome, outputs: dict[str, dict[str, str]], store: Store) -> dict[str, Any]:
    job = attempt.job
    return {
        "format": 2,
        "step": attempt.step.name,
        "method": getattr(attempt.config, "method", None),
        "job_id": attempt.cache_key,
        "cache_key": attempt.cache_key,
        "cache": {"hit": False, "record": None, "run_id": None},
        "config": attempt.config.model_dump(mode="json"),
        "inputs": {name: _input_entry(resolved) for name, resolved in attempt.inputs.items()},
        "outputs": outputs,
        "metrics": outcome.metrics,
        "summary": outcome.summary,
        "code": {"sha256": code_digest(attempt.step.code), "git_commit": git_commit()},
        "environment": environment(),
        "seed": getattr(attempt.config, "seed", None),
        "project": attempt.project,
        "parent": {"key": job.parent_key, "name": job.parent_key},
        "attempt": {
            "key": _attempt_key(job, attempt.started),
            "name": job.attempt_name,
            "try_number": job.airflow.try_number if job.airflow else 1,
        },
        "mlflow": {"run_id": attempt.run_id, "parent_run_id": attempt.parent_run_id},
        "airflow": job.airflow.model_dump(mode="json") if job.airflow else None,
        "started": attempt.started.isoformat(),
        "finished": datetime.now(UTC).isoformat(),
        **attempt.usage.since(store),
    }


def _input_entry(resolved: Resolved) -> dict[str, Any]:
    artifact = resolved.artifact
    entry = {"reference": resolved.reference, "kind": artifact.kind, "sha256": artifact.sha256, "version": resolved.version}
    return entry | ({"base_sha256": resolved.base.sha256} if resolved.base else {})


def _result(attempt: Attempt, record: dict[str, Any], address: str, cache: str, tracker: Tracker) -> JobResult:
    return JobResult(
        state="success",
        inputs=record["inputs"],
        outputs={name: f"sha256:{output['sha256']}" for name, output in record["outputs"].items()},
        cache=cache,
        record=address,
        run_id=attempt.run_id,
        run_url=tracker.run_url(attempt.run_id),
        metrics=record["metrics"],
        summary=record["summary"],
    )


def _attempt_key(job: Job, started: datetime) -> str:
    """One key per attempt: a request that is sent twice opens one run."""
    if job.airflow is None:
        return f"cli/{job.step}/{started.isoformat()}"
    task = job.airflow
    return f"{task.dag_id}/{task.run_id}/{task.task_id}/{task.map_index}/{task.try_number}"


def _attempt_tags(job: Job, step: Step, config: Config) -> dict[str, str]:
    tags = {"lfm.step": step.name, "lfm.code_sha256": code_digest(step.code), "lfm.env_sha256": environment()["sha256"]}
    if method := getattr(config, "method", None):
        tags["lfm.method"] = method
    return tags | _airflow_tags(job)


def _parent_tags(job: Job) -> dict[str, str]:
    return {name: value for name, value in _airflow_tags(job).items() if name in ("airflow.dag_id", "airflow.run_id", "airflow.user")}


def _airflow_tags(job: Job) -> dict[str, str]:
    if job.airflow is None:
        return {}
    return {f"airflow.{name}": str(value) for name, value in job.airflow.model_dump().items() if value not in ("", None)}


class _workdir:
    """A scratch directory below the home, removed however the attempt ends."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.home / "work"

    def __enter__(self) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="attempt-", dir=self._root.resolve()))
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def error_result(error: BaseException) -> dict[str, Any]:
    """The JSON form of an error for a job's result."""
    retryable = error.retryable if isinstance(error, LfmError) else True
    return {"type": type(error).__name__, "message": str(error), "retryable": retryable}
