"""
### Deploy a new model only if somebody agrees

    train -> save_model -> infer -> evaluate -> gate -> newest_only -> report -> approve -> deploy

| task | what happens |
|---|---|
| `train` | trains a model, as in `mnist_lifecycle` |
| `save_model` | saves it as a new version |
| `infer` | predicts the digits of the test pictures |
| `evaluate` | compares the predictions with the labels |
| `gate` | skips the rest of the run unless the accuracy is high enough, so nobody is asked about a bad model |
| `newest_only` | skips the rest of a scheduled run if there is a newer one, so nobody is asked about an old model |
| `report` | writes a table of the metrics beside those of the model that serves now, and shows the confusion matrix |
| `approve` | waits until somebody reads the report in Airflow (the task's tab *Required Actions*) and decides |
| `deploy` | tries the model beside the one that serves, and only then gives it the name |

*Reject* skips `deploy`, and the run ends as a success. Without an answer in three days, `approve` rejects.

**Before the first run**, prepare the connection and the platform as `mnist_lifecycle` says. The picture of the
confusion matrix is read by Airflow's web server, which must see the storage, too.

**Who decides** is up to you: `assigned_users=[{"id": "ann", "name": "Ann"}]` lets only Ann answer, administrators
neither. `notifiers=[...]` tells somebody that there is something to decide.

**A run waits for its own answer**, and counts in `max_active_runs` as long as it waits. It occupies no worker and no
slot of a pool. A program that answers through Airflow's API should do so at least 7 seconds after `approve` began to
wait. Airflow 3.3 sometimes fails a task that is answered sooner; then clear it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator


@task
def report(evaluation: dict[str, Any], serving_name: str, language: Any) -> str:
    """Return what the approval shows."""
    from airflow_bitahub.reports import evaluation_report

    return evaluation_report(evaluation, champion=serving_name, matrix_of="evaluate", language=language)


with DAG(
    dag_id="release_with_approval",
    # Every Monday. Without a start date, unpausing the DAG starts no run, so it costs no GPU hours.
    schedule=CronTriggerTimetable("0 6 * * 1", timezone="UTC", run_immediately=timedelta()),
    is_paused_upon_creation=True,  # whatever Airflow's own setting is
    catchup=False,
    max_active_runs=4,
    doc_md=__doc__,
    tags=["bitahub", "example"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "deferrable": True,  # wait in the triggerer, where a task occupies no worker slot
        "poll_interval": 5,
    },
    params={
        "threshold": Param(
            0.85,
            type="number",
            minimum=0,
            maximum=1,
            title="Required accuracy",
            description="Nobody is asked about a model below it.",
        ),
        "language": Param(
            "en", type="string", enum=["en", "zh"], values_display={"en": "English", "zh": "中文"}, title="Report"
        ),
        "image": Param(
            "10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0",
            type="string",
            minLength=1,
            title="Image of the jobs",
        ),
        "serving_image": Param(
            "registry.bitahub.com:5000/user-images/ypc-mnist-flask-serving:tf-2.4.3-gpu",
            type="string",
            minLength=1,
            title="Image of the service",
        ),
        "accelerator": Param(
            "gtx-1080-ti",
            type=["null", "string"],
            title="Accelerator",
            description="Device type. Empty: run on the CPU.",
        ),
        "serving_name": Param(
            "mnist-serving-demo",
            type="string",
            pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            maxLength=44,
            title="Name of the service",
        ),
    },
) as dag:
    train = BitaHubTrainOperator(
        task_id="train",
        project="mnist-train-demo",
        image="{{ params.image }}",
        accelerator="{{ params.accelerator or '' }}",
        datasets=["MNIST"],
        command=(
            "cd /code/dense-mnist-tf; python train.py --data-dir /data/{user_name}/MNIST/mnist "
            "--output-dir /output/dense-mnist-tf"
        ),
    )

    save_model = BitaHubSaveModelOperator(
        task_id="save_model",
        model="dense-mnist-tf",
        source=train.output,
        source_folder="dense-mnist-tf",
        image="{{ params.image }}",
    )

    infer = BitaHubInferOperator(
        task_id="infer",
        project="mnist-infer-demo",
        image="{{ params.image }}",
        accelerator="{{ params.accelerator or '' }}",
        datasets=["MNIST"],
        model=save_model.output["model_path"],
        command=(
            "cd /code/dense-mnist-tf; python predict.py --model-dir /model/{user_name}/dense-mnist-tf/dense-mnist-tf "
            "--data-dir /data/{user_name}/MNIST/mnist --output-dir /output"
        ),
    )

    evaluate = BitaHubEvaluateOperator(
        task_id="evaluate",
        project="mnist-eval-demo",
        image="{{ params.image }}",
        datasets=["MNIST"],
        predictions=infer.output["output_path"],
        command=(
            "cd /code/dense-mnist-tf; python evaluate.py --label-dir /data/{user_name}/MNIST/mnist "
            "--predictions /prediction/prediction_results.npy --output-dir /output"
        ),
    )

    gate = BitaHubMetricGateOperator(
        task_id="gate",
        metrics=evaluate.output["metrics"],
        champion="{{ params.serving_name }}",  # while nothing serves, the second condition is true
        conditions=["accuracy >= {{ params.threshold }}", "accuracy >= champion.accuracy - 0.005"],
    )

    newest_only = LatestOnlyOperator(task_id="newest_only")

    body = report(evaluate.output, "{{ params.serving_name }}", "{{ params.language }}")

    approve = ApprovalOperator(
        task_id="approve",
        subject="Deploy {{ params.serving_name }} from {{ ti.xcom_pull('save_model')['model_path'] }}?",
        body=body,
        response_timeout=timedelta(days=3),
        defaults="Reject",
        retries=0,  # each try would ask again
    )

    deploy = BitaHubDeployServingOperator(
        task_id="deploy",
        serving_name="{{ params.serving_name }}",
        image="{{ params.serving_image }}",
        accelerator="{{ params.accelerator or '' }}",
        model=save_model.output["model_path"],
        envs={"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"},
        commands="cd /mnist-serving; python serving.py",
        readiness_path="/health",
        metrics=evaluate.output["metrics"],
    )

    train >> save_model >> infer >> evaluate >> gate >> newest_only >> body >> approve >> deploy
