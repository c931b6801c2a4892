"""Two jobs that nobody waits for to the end: one waited for on the worker, one in the triggerer."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(dag_id="both_ways", schedule=None):
    for task_id, deferrable in (("on-worker", False), ("in-triggerer", True)):
        BitaHubJobOperator(
            task_id=task_id,
            project=task_id,
            image="python:3",
            code_path=None,
            command="sleep 300",
            deferrable=deferrable,
            poll_interval=1,
        )
