"""Two short mapped jobs a day, for tests that run them again."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(dag_id="again", schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), catchup=False):
    BitaHubJobOperator.partial(
        task_id="job",
        project="again",
        image="python:3",
        code_path=None,
        deferrable=True,
        defer_after=0,
        poll_interval=1,
    ).expand(command=["sleep 2; echo one", "sleep 2; echo two"])
