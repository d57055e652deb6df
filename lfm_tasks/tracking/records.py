"""What MLflow is told about a record: parameters, metrics, tags, data sets. Pure: a record in, MLflow's entities out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from lfm_tasks.tracking import cost
from lfm_tasks.tracking.cost import Prices
from lfm_tasks.tracking.logged_models import KINDS
from lfm_tasks.tracking.redact import redact

PARAM_LENGTH = 6000
TAG_LENGTH = 8000
DIGEST_LENGTH = 36
RECORD = "lfm.record"
_KEY = re.compile(r"[A-Za-z0-9_][\w.-]{0,200}", re.ASCII)
Record = Mapping[str, Any]


def milliseconds(stamp: str) -> int:
    """MLflow's time of an ISO 8601 time stamp."""
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def params(record: Record) -> list[Param]:
    """The config, flattened: ``a.b`` for nested keys, JSON for lists."""
    return [Param(key, value[:PARAM_LENGTH]) for key, value in _flat(record["config"], "")]


def metrics(record: Record, models: Mapping[str, str], prices: Prices) -> list[Metric]:
    """The record's metrics and cost at its end; the metrics are bound to their model and to the data set they were measured on."""
    sha256 = measured_model(record)
    bound: dict[str, Any] = {"model_id": models.get(sha256)} if sha256 else {}
    data = record["inputs"].get("dataset")
    if sha256 and data:
        bound |= {"dataset_name": _dataset_name(data), "dataset_digest": data["sha256"][:DIGEST_LENGTH]}
    end = milliseconds(record["finished"])
    numbers = {**record["metrics"], **cost.metrics(record, prices)}
    return [
        Metric(key, float(value), end, 0, **(bound if key in record["metrics"] else {}))
        for key, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]


def measured_model(record: Record) -> str | None:
    """Address of the one model that the metrics are about: what the step made (not one of many), or what it evaluated."""
    made = {output["kind"]: output["sha256"] for name, output in record["outputs"].items() if "." not in name}
    if kind := next((kind for kind in KINDS if kind in made), None):
        return made[kind]
    given = record["inputs"].get("model") if record["step"] == "evaluate" else None
    return None if given is None else given["sha256"]


def tags(record: Record) -> dict[str, str]:
    """Everything that a search or an auditor asks for."""
    cache, found = record["cache"], {f"lfm.output.{name}": output["sha256"] for name, output in record["outputs"].items()}
    found |= {f"lfm.input.{name}": given["sha256"] for name, given in record["inputs"].items()}
    found |= {f"airflow.{name}": value for name, value in (record.get("airflow") or {}).items()}
    found |= {
        "lfm.step": record["step"],
        "lfm.method": record.get("method"),
        "lfm.key": record["attempt"]["key"],
        "lfm.job_id": record["job_id"],
        "lfm.cache_key": record["cache_key"],
        "lfm.cache": "hit" if cache["hit"] else "miss",
        "lfm.cache.record": cache.get("record"),
        "lfm.cache.run_id": cache.get("run_id"),
        "lfm.code_sha256": record["code"]["sha256"],
        "lfm.git_commit": record["code"].get("git_commit"),
        "lfm.env_sha256": record["environment"]["sha256"],
        "lfm.python": record["environment"].get("python"),
        "lfm.packages": json.dumps(record["environment"].get("packages", {}), sort_keys=True),
        "lfm.device": record["environment"].get("device"),
        "lfm.seed": record.get("seed"),
        "lfm.inputs": _addresses(record["inputs"]),
        "lfm.outputs": _addresses(record["outputs"]),
        "lfm.final": "true",
        "mlflow.note.content": _note(record),
    }
    return clean_tags(found)


def _addresses(named: Mapping[str, Mapping[str, Any]]) -> str | None:
    """As JSON; None of more than a tag holds, all of which have tags of their own."""
    text = json.dumps({name: one["sha256"] for name, one in named.items()}, sort_keys=True)
    return text if len(text) <= TAG_LENGTH else None


def clean_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow takes them: text, short enough, nothing empty, no secret."""
    return {key: redact(str(value))[:TAG_LENGTH] for key, value in found.items() if value not in (None, "")}


def run_tags(found: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in found.items()]


def datasets(record: Record) -> list[DatasetInput]:
    """Every artifact that is no model, in and out, as an MLflow data set; its full sha256 is in a tag and in the source.

    MLflow knows data sets as inputs of runs alone, so what a run *made* is an input too, with the context ``output: NAME``.
    """
    given = [(name, entry) for name, entry in record["inputs"].items() if entry["kind"] not in KINDS]
    made = [(f"output: {name}", entry) for name, entry in record["outputs"].items() if entry["kind"] not in KINDS]
    return [_dataset(context, entry) for context, entry in (*given, *made)]


def models(record: Record, side: str) -> dict[str, str]:
    """{sha256: kind} of the models and adapters among the ``inputs`` or ``outputs``."""
    return {entry["sha256"]: entry["kind"] for entry in record[side].values() if entry["kind"] in KINDS}


def input_models(record: Record) -> dict[str, str]:
    """{sha256: kind} of every model that went in, with the base of an adapter that went in."""
    bases = {entry["base_sha256"]: "model" for entry in record["inputs"].values() if entry.get("base_sha256")}
    return bases | models(record, "inputs")


def _dataset(context: str, entry: Mapping[str, Any]) -> DatasetInput:
    sha256 = entry["sha256"]
    source = json.dumps(
        {"uri": f"sha256:{sha256}", "reference": redact(entry.get("reference") or f"sha256:{sha256}"), "kind": entry["kind"]}
    )
    dataset = Dataset(name=_dataset_name(entry), digest=sha256[:DIGEST_LENGTH], source_type="lfm", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context), InputTag("sha256", sha256), InputTag("kind", entry["kind"])])


def _dataset_name(entry: Mapping[str, Any]) -> str:
    return f"{entry['kind']}-{entry['sha256'][:12]}"


def _note(record: Record) -> str:
    what = " · ".join(part for part in (record["step"], record.get("method")) if part)
    hit = f" Cache hit: the work was done by record `{record['cache']['record']}`." if record["cache"]["hit"] else ""
    links = {"Task log in Airflow": (record.get("airflow") or {}).get("url"), "Lineage": page_url(record)}
    return f"**{what}**.{hit}" + "".join(f" [{name}]({url})" for name, url in links.items() if url)


def page_url(record: Record) -> str | None:
    """Address of the lineage page in the Airflow that ran the record's task."""
    airflow = record.get("airflow") or {}
    base, found, _ = (airflow.get("url") or "").partition("/dags/")
    asked = {name: airflow.get(name) for name in ("dag_id", "run_id", "task_id")}
    return f"{base}/plugin/lineage/lfm/?{urlencode(asked)}" if found else None


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and all(_KEY.fullmatch(str(key)) for key in value) and (value or not path):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
