"""What `make bench` runs beside the lifecycle: a chain of trivial tasks, jobs of known lengths, and many short jobs."""

from __future__ import annotations

import json
import os
from typing import Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.bases.operator import chain

from airflow_bitahub.operators.job import BitaHubJobOperator

# Set by `benchmarks.stand`.
SIZES: dict[str, Any] = json.loads(os.environ.get("BENCHMARK_SIZES", '{"burst": 1, "rounds": 1, "lengths": [1]}'))
JOB = {"image": "any", "code_path": None, "command": "scripted"}


def nothing() -> None:
    """Do nothing."""


with DAG(dag_id="python_chain", schedule=None):
    chain(*(PythonOperator(task_id=f"task{number}", python_callable=nothing) for number in range(8)))

WAYS: dict[str, dict[str, Any]] = {
    "default": {"deferrable": True},
    "worker": {"deferrable": False},
    "triggerer": {"deferrable": True, "defer_after": 0},
}
with DAG(dag_id="noticing", schedule=None):
    before: list[Any] = []
    for way, arguments in WAYS.items():
        tasks = [
            BitaHubJobOperator.partial(task_id=f"{way}_{number}", **JOB, **arguments).expand(
                project=[f"notice-{number}"] * SIZES["rounds"]
            )
            for number in range(len(SIZES["lengths"]))
        ]
        for task in tasks:
            if before:
                task.set_upstream(before)
        before = tasks

for dag_id, arguments in (("burst", {}), ("burst_deferred", {"defer_after": 0})):
    with DAG(dag_id=dag_id, schedule=None, max_active_tasks=1000):
        BitaHubJobOperator.partial(task_id="job", deferrable=True, **JOB, **arguments).expand(
            project=["burst"] * SIZES["burst"]
        )
