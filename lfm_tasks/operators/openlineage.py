"""What a step read and made, in OpenLineage's words. Needs the Airflow provider of that name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import attr
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import DatasetFacet, RunFacet, dataset_type_dataset, dataset_version_dataset

from lfm_tasks.registry import Step
from lfm_tasks.settings import settings

if TYPE_CHECKING:
    from lfm_tasks.runner.job import JobResult

FACET = "lfm"
SCHEMA = "https://raw.githubusercontent.com/OpenLineage/OpenLineage/main/spec/OpenLineage.json#/$defs/RunFacet"


@attr.define
class StepFacet(RunFacet):
    """The record behind a task's run; ``parents`` and ``outputs`` map names to ``sha256:…`` references."""

    step: str
    method: str | None
    parents: dict[str, str]
    outputs: dict[str, str]
    record: str | None
    cache: str
    mlflow_run_id: str | None
    error: str | None = None
    _additional_skip_redact: ClassVar[list[str]] = ["step", "method", "parents", "outputs", "record", "cache", "mlflow_run_id"]


def facets(step: Step, method: str | None, result: JobResult) -> OperatorLineage:
    """Datasets by the store's addresses, and one run facet, ``lfm``. A failed step has no outputs."""
    outputs = {name: (step.output_kind(name), reference) for name, reference in result.outputs.items()}
    facet = StepFacet(
        step=step.name,
        method=method,
        parents={name: f"sha256:{entry['sha256']}" for name, entry in result.inputs.items()},
        outputs=dict(result.outputs),
        record=result.record,
        cache=result.cache,
        mlflow_run_id=result.run_id,
        error=result.error.type if result.error else None,
    )
    return OperatorLineage(
        inputs=[_dataset(InputDataset, entry["kind"], entry["sha256"]) for entry in result.inputs.values()],
        outputs=[_dataset(OutputDataset, kind, reference.removeprefix("sha256:")) for kind, reference in outputs.values()],
        run_facets={FACET: facet},
    )


def _dataset(of: type[Dataset], kind: str, sha256: str) -> Any:
    """Named as OpenLineage names objects: ``s3://bucket`` and a key, or ``file`` and a path."""
    store = urlsplit(settings().store)
    namespace, root = (f"s3://{store.netloc}", store.path.strip("/")) if store.scheme == "s3" else ("file", store.path.rstrip("/"))
    facets: dict[str, DatasetFacet] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=sha256),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(datasetType=kind.upper()),
    }
    return of(namespace=namespace, name=f"{root}/artifacts/{kind}/{sha256}".removeprefix("" if namespace == "file" else "/"), facets=facets)
