"""Two replicas of a job train together, with real TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import Job, JobSpec, read_job_log, submit_job
from airflow_bitahub.api.procedures import wait_for_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS, server_folder
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(world: World) -> Iterator[BitaHubClient]:
    client = BitaHubClient(world.emulator.url, auth=BearerToken(world.emulator.token))
    yield client
    client.close()


def run(client: BitaHubClient, golden: str, name: str, replaced: dict[str, str], **role: Any) -> Job:
    """Run one of the document's jobs under another name, in another project and with changes to its role."""
    text = json.dumps(json.loads((REPOSITORY / "tests/golden" / f"{golden}.json").read_text())["request"]["json"])
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    body = json.loads(text)
    body["output"]["mountSource"]["path"] = f"{FOLDERS.outputs('two-workers')}/{name}"
    body["taskRoles"][0].update(role)
    client.send(submit_job(JobSpec.model_validate({**body, "jobName": name})))
    job = client.run(wait_for_job(name, poll_interval=0.2))
    assert job.status.is_successful, client.send(read_job_log(name))
    return job


def test_two_workers_train_one_model(world: World, client: BitaHubClient) -> None:
    storage, outputs = world.emulator.storage, FOLDERS.outputs("two-workers")
    together = {"train.py": "train.py --strategy"}
    run(client, "train_job", "two-train", together, taskRoleName="worker", taskNumber=2)
    log = client.send(read_job_log("two-train"))
    assert log.count("Epoch 2, 2 replicas") == 2
    assert log.count("Model saved") == 1

    model = FOLDERS.model("two-workers")[0]
    server_folder(storage, model).parent.mkdir(parents=True, exist_ok=True)
    server_folder(storage, f"{outputs}/two-train").rename(server_folder(storage, model))
    run(client, "infer_job", "two-infer", {FOLDERS.model("dense-mnist-tf")[0]: model})
    run(client, "evaluate_job", "two-evaluate", {f"{FOLDERS.outputs('mnist-infer-demo')}/1": f"{outputs}/two-infer"})
    result = server_folder(storage, f"{outputs}/two-evaluate") / "evaluation_result.json"
    assert json.loads(result.read_text())["accuracy"] > 0.85
