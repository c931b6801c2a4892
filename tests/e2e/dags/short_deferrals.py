"""Many jobs that end a moment after their tasks were deferred."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

# Each holds a worker's place for a whole heartbeat, so the limit leaves some for the other DAGs.
with DAG(dag_id="short_deferrals", schedule=None, max_active_tasks=6):
    BitaHubJobOperator.partial(
        task_id="job",
        project="short-deferral",
        image="python:3",
        code_path=None,
        deferrable=True,
        defer_after=0,
        poll_interval=1,
    ).expand(command=[f"job {number}" for number in range(100)])
