"""The operators send what the platform's document shows, byte for byte where that means anything."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from tests.conftest import IMAGE, REPOSITORY, Asked, Gateway, TaskRun

MISSING = (404, {"status": {"code": 404, "msg": "there is none"}, "data": None})


def golden(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((REPOSITORY / "tests" / "golden" / f"{name}.json").read_text("utf-8"))
    return document


def success(data: Any) -> tuple[int, Any]:
    return 200, {"status": {"code": 0, "msg": "success"}, "data": data}


def assert_asked_as_documented(asked: Asked, request: dict[str, Any]) -> None:
    assert (asked.method, asked.path, asked.query) == (request["method"], request["path"], request.get("query", {}))
    if "json" in request:
        assert asked.headers["Content-Type"] == "application/json"
        assert json.loads(asked.body) == request["json"]
    elif "form" in request:
        assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert dict(parse_qsl(asked.body.decode())) == request["form"]


TRAIN = BitaHubTrainOperator(
    task_id="task",
    project="mnist-train-demo",
    job_name="mnist-train-demo-1234",
    output_version="1",
    image=IMAGE,
    datasets=["MNIST"],
    command=(
        "cd /code/dense-mnist-tf; python train.py --data-dir /data/{user_name}/MNIST/mnist "
        "--output-dir /output/dense-mnist-tf;"
    ),
    accelerator="gtx-1080-ti",
    wait_for_completion=False,
    preflight=False,  # this user's folders are not in the emulator
)
INFER = BitaHubInferOperator(
    task_id="task",
    project="mnist-infer-demo",
    job_name="mnist-infer-demo-1234",
    output_version="1",
    image=IMAGE,
    datasets=["MNIST"],
    model="dense-mnist-tf",
    command=(
        "cd /code/dense-mnist-tf; python predict.py --model-dir /model/{user_name}/dense-mnist-tf/dense-mnist-tf "
        "--data-dir /data/{user_name}/MNIST/mnist --output-dir /output"
    ),
    accelerator="gtx-1080-ti",
    wait_for_completion=False,
    preflight=False,  # this user's folders are not in the emulator
)
EVALUATE = BitaHubEvaluateOperator(
    task_id="task",
    project="mnist-eval-demo",
    job_name="mnist-eval-demo-1234",
    output_version="1",
    image=IMAGE,
    datasets=["MNIST"],
    predictions="/projects/{user_id}/mnist-infer-demo/outputs/1",
    command=(
        "cd /code/dense-mnist-tf; python evaluate.py --label-dir /data/{user_name}/MNIST/mnist "
        "--predictions /prediction/prediction_results.npy --output-dir /output"
    ),
    wait_for_completion=False,
    preflight=False,  # this user's folders are not in the emulator
)


@pytest.mark.parametrize(
    ("operator", "document"), [(TRAIN, "train_job"), (INFER, "infer_job"), (EVALUATE, "evaluate_job")]
)
def test_job_is_submitted_as_documented(
    operator: BitaHubJobOperator, document: str, gateway: Gateway, task_run: TaskRun
) -> None:
    request = golden(document)["request"]

    def answer(asked: Asked) -> tuple[int, Any]:
        submitted = any(earlier.method == "POST" for earlier in gateway.asked)
        if asked.method == "GET" and not submitted:
            return MISSING
        return success({"jobName": operator.job_name, "state": "RUNNING"})

    gateway.answer = answer
    operator.execute(task_run.context())
    [post] = [asked for asked in gateway.asked if asked.method != "GET"]
    assert_asked_as_documented(post, request)


def test_serving_is_created_and_asked_for_as_documented(
    gateway: Gateway, task_run: TaskRun, variables: dict[str, str]
) -> None:
    create, get = golden("serving_create")["request"], golden("serving_get_response")
    answered = {**get["response"]["json"]["data"], "hosts": gateway.url}

    def answer(_: Asked) -> tuple[int, Any]:
        created = any(earlier.method == "POST" for earlier in gateway.asked)
        return success(answered) if created else MISSING

    gateway.answer = answer
    result = BitaHubDeployServingOperator(
        task_id="task",
        serving_name="mnist-serving-demo-1234",
        model="dense-mnist-tf",
        image="registry.bitahub.com:5000/user-images/ypc-mnist-flask-serving:tf-2.4.3-gpu",
        commands="cd /mnist-serving; python serving.py",
        envs={"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"},
        accelerator="gtx-1080-ti",
        readiness_path="/health",
        preflight=False,  # this user's models are not in the emulator
    ).execute(task_run.context())
    assert (result["serving_name"], result["status"], result["url"]) == (answered["name"], "RUNNING", gateway.url)
    [post] = [asked for asked in gateway.asked if asked.method != "GET"]
    assert_asked_as_documented(post, create)
    looks = [asked for asked in gateway.asked if asked.method == "GET" and asked.path != "/health"]
    assert looks
    for look in looks:
        if not look.path.endswith("-next"):  # nobody may have the name of a candidate
            assert_asked_as_documented(look, get["request"])
    assert any(asked.path == "/health" for asked in gateway.asked)
    assert answered["token"] not in json.dumps([result, task_run.xcoms, variables])


def test_served_model_is_asked_as_documented_and_without_the_platforms_token(
    gateway: Gateway, task_run: TaskRun
) -> None:
    get, invoke = golden("serving_get_response"), golden("serving_invoke_response")

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.method == "POST":
            return 200, invoke["response"]["json"]
        return success({**get["response"]["json"]["data"], "hosts": gateway.url})

    gateway.answer = answer
    result = BitaHubInvokeServingOperator(
        task_id="task",
        serving_name="mnist-serving-demo-1234",
        image_url=invoke["request"]["form"]["urls"],
        expected_prediction=7,
    ).execute(task_run.context())
    assert result == invoke["response"]["json"]["data"]
    look, ask = gateway.asked
    assert_asked_as_documented(look, get["request"])
    assert_asked_as_documented(ask, invoke["request"])
    assert "Authorization" in look.headers
    assert ask.headers["Authorization"] == f"Bearer {get['response']['json']['data']['token']}"
