"""Datasets and facets of OpenLineage's own classes. It imports its client, which is there only with its provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attr
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    RunFacet,
    dataset_type_dataset,
    dataset_version_dataset,
    datasource_dataset,
    external_query_run,
    lifecycle_state_change_dataset,
    symlinks_dataset,
)

from airflow_bitahub.lineage.names import Material, name_in_storage, name_of

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook

JOB_FACET = "bitahub_job"
METRICS_FACET = "bitahub_metrics"
_TYPES = {"model": "MODEL", "serving": "SERVING", "folder": "FILE"}


@attr.define
class BitaHubJobRunFacet(RunFacet):
    """The job of a task's run. The schema that it names is that of any run facet: this one's has no public address.

    Its fields have the spelling of OpenLineage.
    """

    jobName: str
    url: str
    status: str | None = None
    image: str | None = None
    accelerator: str | None = None
    acceleratorCount: int | None = None
    attempt: int | None = None
    exitCode: int | None = None
    queueSeconds: float | None = None
    runSeconds: float | None = None
    codeDigest: str | None = None


@attr.define
class BitaHubMetricsDatasetFacet(DatasetFacet):
    """The metrics of what a task has written, such as those of a model's evaluation."""

    metrics: Mapping[str, float]


def operator_lineage(
    hook: BitaHubHook,
    inputs: Iterable[Material],
    outputs: Iterable[Material],
    job: Mapping[str, Any] | None,
    *,
    has_succeeded: bool,
) -> OperatorLineage[Any, Any]:
    """Return what a task tells.

    :param job: the fields of the job's facet; None: the task has no job
    :param has_succeeded: the task has: only then is there the version of what it writes
    """
    facets: dict[str, RunFacet] = {}
    if job is not None:
        facets["externalQuery"] = external_query_run.ExternalQueryRunFacet(
            externalQueryId=job["jobName"], source=hook.settings.base_url
        )
        facets[JOB_FACET] = BitaHubJobRunFacet(**job)
    return OperatorLineage(
        inputs=[dataset(hook, each) for each in inputs],
        outputs=[dataset(hook, each, is_there=has_succeeded) for each in outputs],
        run_facets=facets,
    )


def dataset(hook: BitaHubHook, material: Material, *, is_there: bool = True) -> Dataset:
    """Return the dataset of what a task reads or writes.

    :param is_there: False: this version of it does not exist (yet)
    """
    address = hook.settings.base_url
    storage = hook.storage.uri if hook.settings.text("storage_uri") else ""
    name = name_of(material.path, urlsplit(address).netloc, storage)
    facets: dict[str, DatasetFacet] = {
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(datasetType=_TYPES[name.kind])
    }
    if name.namespace.startswith("bitahub:"):
        facets["dataSource"] = datasource_dataset.DatasourceDatasetFacet(name=name.namespace, uri=address)
    version = material.version or name.version
    if is_there and version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
    if is_there and name.kind == "model" and storage:
        place = symlinks_dataset.Identifier(*name_in_storage(material.path, storage), type="DIRECTORY")
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(identifiers=[place])
    if is_there and material.metrics:
        facets[METRICS_FACET] = BitaHubMetricsDatasetFacet(metrics=dict(material.metrics))
    if is_there and material.is_removed:
        facets["lifecycleStateChange"] = lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet(
            lifecycleStateChange=lifecycle_state_change_dataset.LifecycleStateChange.DROP
        )
    return Dataset(namespace=name.namespace, name=name.name, facets=facets)
