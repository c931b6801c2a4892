"""Jobs for the page "BitaHub job", and a task that has none. The emulator's scripts say how the jobs end."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(
    dag_id="pages",
    schedule=None,
    default_args={"image": "python:3", "code_path": None, "poll_interval": 1, "deferrable": False},
):
    BitaHubJobOperator(task_id="succeeds", project="succeeds", command="python train.py")
    EmptyOperator(task_id="other")
