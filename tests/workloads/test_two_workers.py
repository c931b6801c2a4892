"""Two replicas of a job train together, with real TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import read_job_log
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS, server_folder
from airflow_bitahub.emulator.server import Emulator
from tests.golden_jobs import run_job

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]


@pytest.fixture
def client(mnist_emulator: Emulator) -> Iterator[BitaHubClient]:
    client = BitaHubClient(mnist_emulator.url, auth=BearerToken(mnist_emulator.token))
    yield client
    client.close()


def test_two_workers_train_one_model(mnist_emulator: Emulator, client: BitaHubClient) -> None:
    storage, outputs = mnist_emulator.storage, FOLDERS.outputs("two-workers")
    together = {"train.py": "train.py --strategy"}
    run_job(client, "train_job", "two-train", f"{outputs}/1", together, taskRoleName="worker", taskNumber=2)
    log = client.send(read_job_log("two-train"))
    assert log.count("Epoch 2, 2 replicas") == 2
    assert log.count("Model written to") == 1

    curve = (server_folder(storage, f"{outputs}/1") / "dense-mnist-tf" / "metrics.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in curve] == [["loss", "step"]] * 2
    model = FOLDERS.model("two-workers")[0]
    server_folder(storage, model).parent.mkdir(parents=True, exist_ok=True)
    server_folder(storage, f"{outputs}/1").rename(server_folder(storage, model))
    run_job(client, "infer_job", "two-infer", f"{outputs}/2", {FOLDERS.model("dense-mnist-tf")[0]: model})
    predictions = {f"{FOLDERS.outputs('mnist-infer-demo')}/1": f"{outputs}/2"}
    run_job(client, "evaluate_job", "two-evaluate", f"{outputs}/3", predictions)
    result = server_folder(storage, f"{outputs}/3") / "evaluation_result.json"
    assert json.loads(result.read_text())["accuracy"] > 0.85
