"""
### From pictures to a served model

    train -> save_model -> infer -> evaluate -> gate -> deploy -> ask

| task | what happens on BitaHub |
|---|---|
| `train` | trains a dense network on MNIST |
| `save_model` | copies the network to a new version of the model `dense-mnist-tf` |
| `infer` | predicts the digits of the test pictures with this version |
| `evaluate` | compares the predictions with the labels |
| `gate` | skips the rest of the run unless the accuracy is high enough, also compared with what serves now |
| `deploy` | tries this version beside the one that serves, asks it about pictures, and only then gives it the name |
| `ask` | sends a picture to the service and checks its answer |

**Before the first run**, create the connection `bitahub_default` with a `storage_uri`, through which the metrics and
the pictures are read. Copy the programs from `workloads/dense-mnist-tf/` to the folder `code/dense-mnist-tf/` of their
projects: `train.py` to `mnist-train-demo`, `predict.py` to `mnist-infer-demo`, `evaluate.py` to `mnist-eval-demo`.
Create the dataset `MNIST` with the four files in `mnist/`, a picture `digit-7.png`, and in `sample/` some pictures of
the test set with a file `labels.csv` (`file,label`). With `pip install 'airflow-bitahub[demo]'`, this makes the whole
dataset in the folder `MNIST` and prints its source. Where MNIST cannot be downloaded, that is another set of digits.

    python -c "from pathlib import Path; from airflow_bitahub.demo.dataset import prepare
    print(prepare(Path('MNIST'), cache=Path('download')))"

`airflow-bitahub demo` prepares all of this on an emulator.

**Several runs at the same time** do not affect each other before `deploy`: each run saves its own model version and
passes the path of this version to its later tasks. They deploy one after the other, and a run never replaces what a
newer run has deployed: then its `deploy` is skipped. A run that you trigger is as new as the moment you do so.

**A backfill** trains a model for each of its days. It deploys those that are newer than what serves: none of them, if
you have deployed by hand today. If it is the first one, Airflow also starts today's scheduled run immediately.

**If GPUs are scarce**, create a pool in Airflow (Admin, Pools) with one slot for each job that may run at the same
time, tick *Include Deferred* (the task of a running job is deferred), and add `"pool": "its name"` to `default_args`.
If there is none for a second service, set `strategy="recreate"` in `deploy`; the service is then away while the new
version starts.
"""

from __future__ import annotations

from datetime import timedelta

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
        "sample": Param(
            "/datasets/{user_id}/MNIST/sample",
            type="string",
            pattern="^/(projects|datasets|models)/.+$",
            title="Pictures to ask a new version about",
            description="A folder on the platform's storage, with a file labels.csv.",
        ),
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

    deploy = BitaHubDeployServingOperator(
        task_id="deploy",
        serving_name="{{ params.serving_name }}",
        image="{{ params.serving_image }}",
        accelerator="{{ params.accelerator or '' }}",
        model=save_model.output["model_path"],
        envs={"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"},
        commands="cd /mnist-serving; python serving.py",
        readiness_path="/health",
        checks=[
            {"image_file": "{{ params.picture }}", "expected": "{{ params.label }}"},
            # The gate has judged the model. This finds a service that does not answer as the model does.
            {"folder": "{{ params.sample }}", "labels": "labels.csv", "at_least": 0.7},
        ],
        metrics=evaluate.output["metrics"],  # what the gates of later runs compare with
    )

    ask = BitaHubInvokeServingOperator(
        task_id="ask",
        serving_name="{{ params.serving_name }}",
        image_file="{{ params.picture }}",
        expected_prediction="{{ params.label }}",
    )

    train >> save_model >> infer >> evaluate >> gate >> deploy >> ask
