"""One job that takes 40 seconds; its task waits on the worker."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(dag_id="one_job", schedule=None):
    BitaHubJobOperator(
        task_id="job",
        project="one-job",
        image="python:3",
        code_path=None,
        command="sleep 40; echo done > /output/result.txt",
        deferrable=False,
        poll_interval=1,
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
