"""Every kind of task that tells OpenLineage something: on a worker, deferred, mapped, failing."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_bitahub.assets import BitaHubModel
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.rollback import BitaHubRollbackServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator

WRITE_PARENT = 'printf "%s %s" "$OPENLINEAGE_PARENT_ID" "$OPENLINEAGE_ROOT_PARENT_ID" > /output/parent; '
MODEL = BitaHubModel("told-model")

with DAG(dag_id="told", schedule=None, default_args={"poll_interval": 1, "image": "python:3"}):
    job: dict[str, Any] = {"project": "told", "code_path": None}
    deferred: dict[str, Any] = {"deferrable": True, "defer_after": 0}
    train = BitaHubTrainOperator(
        task_id="train",
        datasets=["MNIST"],
        command=f"{WRITE_PARENT} mkdir /output/weights; API_KEY=told-secret echo 1 > /output/weights/1",
        accelerator="gtx-1080-ti",
        **job,
    )
    evaluate = BitaHubEvaluateOperator(
        task_id="evaluate",
        predictions=train.output["output_path"],
        command="""echo '{"accuracy": 0.9}' > /output/evaluation_result.json""",
        **job,
        **deferred,
    )
    BitaHubJobOperator.partial(task_id="sweep", **job, **deferred).expand(
        command=[f"{WRITE_PARENT} sleep 3; echo {number}" for number in (0, 1)]
    )
    BitaHubJobOperator(task_id="fail", command="sleep 3; exit 3", datasets=["MNIST"], **job, **deferred)
    save = BitaHubSaveModelOperator(
        task_id="save",
        model=MODEL.name,
        source=train.output["output_path"],
        source_folder="weights",
        metrics=evaluate.output["metrics"],
        **deferred,
    )
    deploy, redeploy = (
        BitaHubDeployServingOperator(
            task_id=task_id,
            serving_name="told",
            model=save.output["model_path"],
            commands=f"python serve.py --of {task_id}",
            secret_envs={"API_KEY": "told-secret"},
        )
        for task_id in ("deploy", "redeploy")
    )
    roll_back = BitaHubRollbackServingOperator(
        task_id="roll_back", serving_name="told", secret_envs={"API_KEY": "told-secret"}
    )
    ask = BitaHubInvokeServingOperator(task_id="ask", serving_name="told", json={})

    @task(inlets=[MODEL.asset])
    def read() -> None:
        """Read the model, as the inlets say."""

    deploy >> redeploy >> roll_back >> ask >> read()
