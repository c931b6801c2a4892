"""A model that is saved in every way, and DAGs that wait for its versions."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher, PartitionedAssetTimetable, chain, task

from airflow_bitahub.assets import BitaHubModel
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.triggers.job_event import BitaHubJobEventTrigger

MODEL = BitaHubModel("announced")

with DAG(dag_id="saves", schedule=None):
    make = BitaHubJobOperator(
        task_id="make", project="saves", image="python:3", code_path=None, command="echo 1 > /output/weights"
    )
    saved: dict[str, Any] = {
        "model": MODEL.name,
        "source": make.output,
        "image": "python:3",
        "metrics": {"accuracy": 0.9},
    }
    chain(
        BitaHubSaveModelOperator(task_id="deferred", deferrable=True, defer_after=0, poll_interval=1, **saved),
        BitaHubSaveModelOperator.partial(task_id="mapped", copy_by="storage", outlets=[MODEL.versions], **saved).expand(
            output_version=["a", "b", "c"]
        ),
    )

with DAG(dag_id="newest", schedule=MODEL.asset):

    @task(inlets=[MODEL.asset])
    def newest(inlet_events: Any = None) -> dict[str, Any]:
        return MODEL.newest(inlet_events)

    newest()

with DAG(dag_id="each_version", schedule=PartitionedAssetTimetable(assets=MODEL.versions)):
    EmptyOperator(task_id="empty")

# Airflow starts a watcher when it reads the file of a DAG that is not paused.
with DAG(dag_id="watched", schedule=MODEL.watched(poll_interval=1), is_paused_upon_creation=False):
    EmptyOperator(task_id="empty")

trigger = BitaHubJobEventTrigger("outside-*", statuses=["SUCCEEDED"], poll_interval=1)
outside = Asset("jobs outside", watchers=[AssetWatcher(name="jobs", trigger=trigger)])

with DAG(dag_id="on_jobs", schedule=outside, is_paused_upon_creation=False):
    EmptyOperator(task_id="empty")
