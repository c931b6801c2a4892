"""Deployments for the page of a serving. The emulator's scripts say how the served program answers: 7, to anything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator

PICTURE = "iVBORw0KGgo="


def deploy(task_id: str, model: int, *, expected: int = 7, **arguments: Any) -> BitaHubDeployServingOperator:
    return BitaHubDeployServingOperator(
        task_id=task_id,
        serving_name="shown",
        model=f"/models/{{user_id}}/digits/{model}",
        commands="python serving.py",
        envs={"TITLE": "<img src=x onerror=document.title='hacked'>"},
        secret_envs={"API_TOKEN": "hunter2-hunter2"},
        checks=[{"image_base64": PICTURE, "expected": expected}],
        metrics={"accuracy": 0.9 + model / 100, "<b>loss</b>": 0.123456},
        bake_seconds=1,
        launch_timeout=30,  # half of it is how long an update in place may go unseen
        **arguments,
    )


with DAG(
    dag_id="servings",
    schedule=None,
    default_args={
        "image": "python:3",
        "poll_interval": 1,
        "preflight": False,
        "execution_timeout": timedelta(minutes=5),
    },
):
    first = deploy("first", 1)
    better = deploy("better", 2)
    worse = deploy("worse", 3, expected=3, deferrable=True, defer_after=0)
    ask = BitaHubInvokeServingOperator(
        task_id="ask", serving_name="shown", image_base64=PICTURE, trigger_rule="all_done"
    )
    first >> better >> worse >> ask
    EmptyOperator(task_id="other")
