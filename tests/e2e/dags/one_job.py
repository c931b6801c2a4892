"""One job that takes 40 seconds and runs code from beside this file; its task waits on the worker."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(dag_id="one_job", schedule=None):
    BitaHubJobOperator(
        task_id="job",
        project="one-job",
        image="python:3",
        code="one_job_code",
        command="sh run.sh /output",
        deferrable=False,
        poll_interval=1,
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
