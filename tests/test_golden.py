"""The platform's document, held as JSON in `tests/golden`: the models produce its bodies, and read its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, Mount, TaskRole, submit_job
from airflow_bitahub.api.metering import Metering, get_metered_serving
from airflow_bitahub.api.platform import Platform, ServingStatus
from airflow_bitahub.api.protocol import Call, Response
from airflow_bitahub.api.servings import (
    Serving,
    ServingModel,
    ServingProtocol,
    ServingResource,
    ServingSpec,
    create_serving,
    get_serving,
    invoke_serving,
)
from airflow_bitahub.api.wire import Accelerator

GOLDEN = Path(__file__).parent / "golden"
USER_ID, USER_NAME = "_2f1fe8d0df7a48f6b471e02e054b4852", "PengchengYang"
MNIST = Mount.of(f"/datasets/{USER_ID}/MNIST", f"/data/{USER_NAME}/MNIST")
MODEL = (f"/models/{USER_ID}/dense-mnist-tf", f"/model/{USER_NAME}/dense-mnist-tf")
GPU = Accelerator(device_type="gtx-1080-ti")


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    return content


def answer_of(name: str) -> Response:
    return Response(200, {}, json.dumps(golden(name)["response"]["json"]).encode())


def job(
    kind: str, command: str, datasets: list[Mount], models: list[Mount] | None, device: Accelerator | None
) -> JobSpec:
    project = f"/projects/{USER_ID}/mnist-{kind}-demo"
    return JobSpec(
        job_name=f"mnist-{kind}-demo-1234",
        code=Mount.of(f"{project}/code", "/code"),
        datasets=datasets,
        output=Mount.of(f"{project}/outputs/1", "/output"),
        models=models,
        task_roles=[
            TaskRole(
                image="10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0",
                command=f"cd /code/dense-mnist-tf; python {command}",
                acc_device=device,
            )
        ],
    )


TRAIN = job(
    "train",
    f"train.py --data-dir /data/{USER_NAME}/MNIST/mnist --output-dir /output/dense-mnist-tf;",
    [MNIST],
    [],
    GPU,
)
INFER = job(
    "infer",
    f"predict.py --model-dir {MODEL[1]}/dense-mnist-tf --data-dir /data/{USER_NAME}/MNIST/mnist --output-dir /output",
    [MNIST],
    [Mount.of(*MODEL)],
    GPU,
)
EVALUATE = job(
    "eval",
    f"evaluate.py --label-dir /data/{USER_NAME}/MNIST/mnist --predictions /prediction/prediction_results.npy "
    "--output-dir /output",
    [MNIST, Mount.of(f"/projects/{USER_ID}/mnist-infer-demo/outputs/1", "/prediction")],
    None,
    None,
)
SERVING = ServingSpec(
    name="mnist-serving-demo-1234",
    model=ServingModel(path=MODEL[0], mount_path=MODEL[1]),
    image="registry.bitahub.com:5000/user-images/ypc-mnist-flask-serving:tf-2.4.3-gpu",
    resource=ServingResource(acc_device=GPU),
    protocols=[ServingProtocol()],
    envs={"MODEL_PATH": f"{MODEL[1]}/dense-mnist-tf"},
    commands=["cd /mnist-serving; python serving.py"],
)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("train_job", submit_job(TRAIN)),
        ("infer_job", submit_job(INFER)),
        ("evaluate_job", submit_job(EVALUATE)),
        ("serving_create", create_serving(SERVING)),
    ],
)
def test_requests_are_exactly_the_documents(name: str, call: Call[None]) -> None:
    expected = golden(name)["request"]
    assert Platform().locate(call.request.operation, call.request.names) == (expected["method"], expected["path"])
    assert call.request.json_body == expected["json"]
    assert not call.request.query


def test_the_documents_bodies_are_read_as_they_were_written() -> None:
    for name in ("train_job", "infer_job", "evaluate_job"):
        body = golden(name)["request"]["json"]
        assert JobSpec.model_validate(body).body() == body
    body = golden("serving_create")["request"]["json"]
    assert ServingSpec.model_validate(body).body() == body


def test_the_documents_serving_is_read() -> None:
    asked = golden("serving_get_response")["request"]
    call = get_serving("mnist-serving-demo-1234")
    assert Platform().locate(call.request.operation, call.request.names) == (asked["method"], asked["path"])
    assert call.request.query == asked["query"]
    assert call.read(answer_of("serving_get_response"), Platform()) == Serving(
        name="mnist-serving-demo-1234",
        status=ServingStatus.RUNNING,
        raw_state="RUNNING",
        url="http://mnist-serving-demo-1234-testinference.bitahub.com",
        token="6fFvTrWb5BN9FEn5NTBO89Kkj53IMVL1",
        replicas=1,
        created_at=1663470891.571,
        launched_at=1663470891,
    )


def test_the_documents_metering_is_read() -> None:
    serving, metering = get_metered_serving("m").read(answer_of("serving_get_response"), Platform())
    assert serving.status is ServingStatus.RUNNING
    assert metering == Metering(running=54.8882, cpu_cores=110.343, memory_gb=220.6859, accelerators={"": 584.1382})


def test_the_documents_prediction_is_read() -> None:
    asked = golden("serving_invoke_response")["request"]
    serving = get_serving("x").read(answer_of("serving_get_response"), Platform())
    call = invoke_serving(serving, asked["path"], form=asked["form"])
    assert call.request.operation == f"POST {serving.url}/image"
    assert call.request.form == asked["form"]
    answer = call.read(answer_of("serving_invoke_response"), Platform())
    assert answer == golden("serving_invoke_response")["response"]["json"]["data"]
    assert answer["predictions"] == [7]
