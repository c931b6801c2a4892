"""An approval with a report on an evaluation, whose job the emulator's scripts define."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, task

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator


@task
def report(evaluation: Any) -> str:
    from airflow_bitahub.reports import evaluation_report

    return evaluation_report(evaluation, matrix_of="evaluate")


with DAG(dag_id="approval", schedule=None):
    evaluate = BitaHubEvaluateOperator(
        task_id="evaluate",
        project="approved",
        image="python:3",
        command="true",
        code_path=None,
        predictions="/projects/{user_id}/p/outputs/1",
        preflight=False,
        poll_interval=1,
    )
    ApprovalOperator(task_id="approve", subject="Deploy it?", body=report(evaluate.output))
