"""Two jobs that never end by themselves: one task waits on its worker, the other in the triggerer."""

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
            command="sleep 3000",
            deferrable=deferrable,
            defer_after=0,
            poll_interval=1,
        )
