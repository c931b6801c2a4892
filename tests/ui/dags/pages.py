"""Jobs for the page "BitaHub job", and a task that has none. The emulator's scripts say how the jobs end."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(
    dag_id="pages",
    schedule=None,
    default_args={
        "image": "python:3",
        "code_path": None,
        "poll_interval": 1,
        "deferrable": False,
        "retry_delay": timedelta(seconds=1),
    },
):
    BitaHubJobOperator(
        task_id="succeeds",
        project="succeeds",
        command="export API_TOKEN=never-shown; python train.py --epochs 12",
        datasets=["mnist"],
        accelerator="A100",
        accelerator_count=2,
    )
    BitaHubJobOperator(task_id="fails", project="fails", command="python train.py", retries=1)
    BitaHubJobOperator(task_id="runs", project="runs", command="python train.py", accelerator="A100")
    BitaHubJobOperator(task_id="waits", project="waits", command="python train.py", deferrable=True, defer_after=0)
    BitaHubJobOperator.partial(task_id="mapped", project="mapped").expand(command=["exit 0", "exit 1"])
    EmptyOperator(task_id="other")
