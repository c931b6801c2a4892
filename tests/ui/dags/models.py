"""A model that is trained, judged and served. The emulator's scripts say what the jobs print and how they end."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator

with DAG(
    dag_id="lifecycle",
    schedule=None,
    default_args={"image": "python:3", "poll_interval": 1, "deferrable": False, "preflight": False},
    params={"evaluation": Param("models-good", description="The project whose jobs evaluate.")},
):
    train = BitaHubTrainOperator(
        task_id="train", project="models-train", command="python train.py", code_path=None, accelerator="gtx-1080-ti"
    )
    save = BitaHubSaveModelOperator(task_id="save", project="models-save", model="net", source=train.output)
    evaluate = BitaHubEvaluateOperator(
        task_id="evaluate",
        project="{{ params.evaluation }}",
        command="python evaluate.py",
        code_path=None,
        predictions=train.output["output_path"],
        metrics_from="log",
    )
    gate = BitaHubMetricGateOperator(
        task_id="gate",
        metrics=evaluate.output["metrics"],
        champion="models-net",
        conditions=["accuracy >= 0.9", "accuracy >= champion.accuracy - 0.005"],
    )
    deploy = BitaHubDeployServingOperator(
        task_id="deploy",
        serving_name="models-net",
        model=save.output["model_path"],
        commands="python serve.py",
        strategy="recreate",  # a scripted serving does not show when it has been updated in place
        metrics=evaluate.output["metrics"],
    )
    save >> evaluate >> gate >> deploy
