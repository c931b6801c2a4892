"""The same programs run with TensorFlow 2.3, which is in the document's image and needs Python 3.8."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.demo.platform import FOLDERS, server_folder
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.examples import examples_folder
from tests.emulator.conftest import SERVINGS
from tests.golden_jobs import body_of, run_job

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]

IMAGE = """
[[image]]
pattern = "*"
python = {python}
requirements = ["tensorflow-cpu==2.3.4", "protobuf<3.21", "flask==3.0.3", "pillow==10.4.0"]
[image.files]
"/mnist-serving" = "{{dags}}/workloads/dense-mnist-tf/serving"
"""


def find_python() -> str:
    """Return an interpreter that works and is Python 3.8; "" if there is none."""
    versions = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    for found in (shutil.which("python3.8"), *map(str, versions.glob("3.8.*/bin/python3.8"))):
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return ""


PYTHON = find_python()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, image_cache: Path) -> Iterator[Emulator]:
    root = tmp_path_factory.mktemp("python 3.8")
    images = root / "images.toml"
    images.write_text(IMAGE.format(python=json.dumps(PYTHON)))
    with Emulator(root / "emulator", images=images, image_cache=image_cache) as emulator:
        platform.upload_programs(emulator.storage, examples_folder() / "workloads")
        folder = server_folder(emulator.storage, FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=root / "downloads", mirrors=())
        yield emulator


@pytest.mark.skipif(not PYTHON, reason="no Python 3.8 was found, which TensorFlow 2.3 needs")
def test_from_training_to_an_answer_on_tensorflow_2_3(emulator: Emulator) -> None:
    client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token))
    trained, predicted, evaluated = (f"{FOLDERS.outputs('old')}/{number}" for number in (1, 2, 3))
    try:
        run_job(client, "train_job", "old-train", trained, {})
        version = {f"{FOLDERS.model('dense-mnist-tf')[0]}": trained}
        run_job(client, "infer_job", "old-infer", predicted, version)
        run_job(client, "evaluate_job", "old-eval", evaluated, {f"{FOLDERS.outputs('mnist-infer-demo')}/1": predicted})
    finally:
        client.close()
    result = json.loads((server_folder(emulator.storage, evaluated) / "evaluation_result.json").read_text())
    assert result["accuracy"] > 0.88
    curve = (server_folder(emulator.storage, trained) / "dense-mnist-tf" / "metrics.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in curve] == [["accuracy", "loss", "step"]] * 2

    body = body_of("serving_create")
    body["model"]["path"] = trained
    headers = {"Authorization": f"Bearer {emulator.token}"}
    with httpx.Client(base_url=emulator.url, headers=headers, trust_env=False) as http:
        assert http.post(SERVINGS, json=body).status_code == 200
        while not is_healthy(url := told(http, str(body["name"]))["hosts"]):
            assert told(http, str(body["name"]))["status"] != "FAILED", told(http, str(body["name"]))
            time.sleep(0.2)
        sample = server_folder(emulator.storage, FOLDERS.dataset("MNIST")[0]) / "digit-7.png"
        answer = httpx.post(f"{url}/image", files={"files": sample.read_bytes()}, trust_env=False)
    assert answer.json()["data"]["predictions"] == [7], answer.text


def told(http: httpx.Client, name: str) -> dict[str, str]:
    data: dict[str, str] = http.get(f"{SERVINGS}/{name}").json()["data"]
    return data


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except (httpx.TransportError, httpx.UnsupportedProtocol):
        return False
