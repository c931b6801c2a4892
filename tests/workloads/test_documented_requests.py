"""The requests in the emulator's documentation work exactly as written."""

from __future__ import annotations

import json
import os
import subprocess

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator
from tests.conftest import REPOSITORY, documented_example
from tests.emulator.conftest import SERVINGS

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]


def test_the_documents_own_requests_lead_from_training_to_an_answer(mnist_emulator: Emulator) -> None:
    emulator = mnist_emulator
    told = {"EMULATOR": emulator.url, "TOKEN": emulator.token, "STORAGE": str(emulator.storage)}
    done = subprocess.run(
        ["bash", "-eu", "-c", documented_example("docs/en/emulator.md", "bash", "send train_job")],
        cwd=REPOSITORY,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["data"]["predictions"] == [7], done.stdout
    items = httpx.get(emulator.url + SERVINGS, trust_env=False).json()["data"]["items"]
    assert [serving["name"] for serving in items] == ["mnist-serving-demo-1234"]
