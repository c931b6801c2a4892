"""
### Try several learning rates, and deploy the best model

    read_learning_rates -> train -> best -> save_model -> infer -> evaluate -> gate -> deploy

| task | what happens |
|---|---|
| `read_learning_rates` | reads the learning rates from the run's parameters |
| `train` | trains a model for each of them, and measures it on pictures that it has held out |
| `best` | picks the model with the best accuracy on these pictures |
| `save_model` | saves this model as a new version |
| `infer` | predicts the digits of the test pictures, which no training has seen |
| `evaluate` | compares the predictions with the labels |
| `gate` | skips `deploy` unless the model is good enough, and no worse than what serves now |
| `deploy` | tries the model beside the one that serves, and only then gives it the name |

A training that fails, or that diverges, does not end the sweep: `best` leaves it out. The sweep fails if none is left.
In the grid, each training is shown with its learning rate. `best` has the ranking of all of them in its XCom result.

**Before the first run**, create the pool `bitahub_gpus` with a slot for each training that may run at the same time:

    airflow pools set bitahub_gpus 2 "GPUs of BitaHub" --include-deferred

`--include-deferred` (in the UI: *Include Deferred*) is what makes it a limit of jobs: the task of a job that runs is
deferred most of the time, and other pools do not count it. All DAGs that use the pool share it. To limit this task
alone, use `max_active_tis_per_dag` instead of a pool: it counts deferred tasks, too.

Everything else is as in `mnist_lifecycle`, whose documentation says what the connection and the platform must have.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_bitahub.operators.best import BitaHubBestOperator
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator


@task
def read_learning_rates(params: dict[str, Any] | None = None) -> list[float]:
    """Return the learning rates of this run."""
    return list((params or {})["learning_rates"])


def training_with(learning_rate: float) -> str:
    """Return the command of one training."""
    return (
        "cd /code/dense-mnist-tf; python train.py --data-dir /data/{user_name}/MNIST/mnist "
        f"--learning-rate {learning_rate} --validation-share 0.1 --output-dir /output/dense-mnist-tf"
    )


with DAG(
    dag_id="parameter_sweep",
    schedule=None,  # run by hand
    max_active_runs=1,
    doc_md=__doc__,
    tags=["bitahub", "example"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "deferrable": True,  # wait in the triggerer, where a task occupies no worker slot
        "poll_interval": 5,
    },
    params={
        "learning_rates": Param(
            [0.01, 0.1, 0.5],
            type="array",
            items={"type": "number", "exclusiveMinimum": 0},
            minItems=1,
            maxItems=20,
            title="Learning rates",
            description="A model is trained with each of them.",
        ),
        "threshold": Param(
            0.85, type="number", minimum=0, maximum=1, title="Required accuracy", description="Of the best model."
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
    learning_rates = read_learning_rates()

    train = BitaHubTrainOperator.partial(
        task_id="train",
        project="mnist-train-demo",
        image="{{ params.image }}",
        accelerator="{{ params.accelerator or '' }}",
        datasets=["MNIST"],
        outputs={"validation": "dense-mnist-tf/validation.json"},
        pool="bitahub_gpus",
        map_index_template="learning rate {{ task.command.split('--learning-rate ')[1].split(' ')[0] }}",
    ).expand(command=learning_rates.map(training_with))

    best = BitaHubBestOperator(task_id="best", results=train.output, metric="validation.accuracy")

    save_model = BitaHubSaveModelOperator(
        task_id="save_model",
        model="dense-mnist-tf",
        source=best.output,
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
        champion="{{ params.serving_name }}",
        conditions=["accuracy >= {{ params.threshold }}", "accuracy >= champion.accuracy - 0.005"],
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

    train >> best >> save_model >> infer >> evaluate >> gate >> deploy
