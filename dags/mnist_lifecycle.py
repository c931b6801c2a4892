"""
### From pictures to a served model

    train -> save_model -> infer -> evaluate -> gate -> newest_only -> deploy -> ask

| task | what happens on BitaHub |
|---|---|
| `train` | trains a dense network on MNIST |
| `save_model` | copies the network to a new version of the model `dense-mnist-tf` |
| `infer` | predicts the digits of the test pictures with this version |
| `evaluate` | compares the predictions with the labels |
| `gate` | skips the rest of the run unless the accuracy is high enough |
| `newest_only` | skips the rest of a backfill or late scheduled run, so an old run cannot replace today's model |
| `deploy` | serves this version, in place of the version of an earlier run |
| `ask` | sends a picture to the service and checks its answer |

**Before the first run**, create the connection `bitahub_default`. On the platform, create the dataset `MNIST` with the
four files in `mnist/`. Copy the programs from `workloads/dense-mnist-tf/` to the folder `code/dense-mnist-tf/` of their
projects: `train.py` to `mnist-train-demo`, `predict.py` to `mnist-infer-demo`, `evaluate.py` to `mnist-eval-demo`.
`airflow-bitahub demo` prepares all of this on an emulator.

**Several runs at the same time** do not affect each other before `deploy`: each run saves its own model version and
passes the path of this version to its later tasks.

**If GPUs are scarce**, create a pool in Airflow (Admin, Pools) with one slot for each job that may run at the same
time, tick *Include Deferred* (the task of a running job is deferred), and add `"pool": "its name"` to `default_args`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator

with DAG(
    dag_id="mnist_lifecycle",
    # Every midnight. Without a start date, unpausing the DAG starts no run, so it costs no GPU hours.
    schedule=CronTriggerTimetable("@daily", timezone="UTC", run_immediately=timedelta()),
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
            description="The gate opens at this accuracy or above.",
        ),
        "epochs": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=100,
            title="Epochs",
            description="Empty: as many as train.py trains by itself.",
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
            description="Built from workloads/dense-mnist-tf/serving.",
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
        "picture": Param(
            "/datasets/{user_id}/MNIST/digit-7.png",
            type="string",
            pattern="^/(projects|datasets|models)/.+$",
            title="Picture to send to the service",
            description="A path on the platform's storage.",
        ),
        "label": Param(7, type="integer", minimum=0, maximum=9, title="Digit in the picture"),
    },
) as dag:
    # {user_id} and {user_name} are replaced by the connection's values when the task runs.
    train = BitaHubTrainOperator(
        task_id="train",
        project="mnist-train-demo",
        image="{{ params.image }}",
        accelerator="{{ params.accelerator or '' }}",
        datasets=["MNIST"],
        command=(
            "cd /code/dense-mnist-tf; python train.py --data-dir /data/{user_name}/MNIST/mnist "
            "--output-dir /output/dense-mnist-tf{{ ' --epochs %d' % params.epochs if params.epochs else '' }};"
        ),
    )

    # `output` is the operator's XCom result. Passing it to another task also makes this task an upstream of it.
    save_model = BitaHubSaveModelOperator(
        task_id="save_model",
        model="dense-mnist-tf",
        source=train.output["output_path"],
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
        conditions="accuracy >= {{ params.threshold }}",
    )

    newest_only = LatestOnlyOperator(task_id="newest_only")

    deploy = BitaHubDeployServingOperator(
        task_id="deploy",
        serving_name="{{ params.serving_name }}",
        image="{{ params.serving_image }}",
        accelerator="{{ params.accelerator or '' }}",
        model=save_model.output["model_path"],
        envs={"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"},
        commands="cd /mnist-serving; python serving.py",
        readiness_path="/health",
        max_active_tis_per_dag=1,  # deployments of the same name must not overlap
    )

    ask = BitaHubInvokeServingOperator(
        task_id="ask",
        serving_name="{{ params.serving_name }}",
        image_file="{{ params.picture }}",
        expected_prediction="{{ params.label }}",
    )

    train >> save_model >> infer >> evaluate >> gate >> newest_only >> deploy >> ask
