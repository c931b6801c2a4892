"""Tasks that fail, each in its own way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator

with DAG(dag_id="endings", schedule=None):

    def job(task_id: str, **arguments: Any) -> None:
        defaults = {"project": task_id, "image": "python:3", "code_path": None, "command": "sleep 300"}
        BitaHubJobOperator(task_id=task_id, poll_interval=1, **{**defaults, **arguments})

    counting = "n=0; while true; do n=$((n + 1)); echo line $n 训练; sleep 0.5; done"
    for where, deferrable in (("on-worker", False), ("in-triggerer", True)):
        limits = {"execution_timeout": timedelta(seconds=60), "log_interval": 2}
        job(f"too-long-{where}", command=counting, deferrable=deferrable, defer_after=5, **limits)
    job("unknown-image", image="nobody-has-this", retries=2, retry_delay=timedelta(seconds=1))
    job("fails-once-more", command="echo out of luck; exit 3", retries=1, retry_delay=timedelta(seconds=1))
