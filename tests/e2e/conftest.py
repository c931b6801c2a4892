"""A real Airflow, an emulator that runs real TensorFlow, and between them the connection that the demo makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.demo.airflow import LocalAirflow
from airflow_bitahub.emulator.server import Emulator
from tests.leaks import ProcessArguments

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENT = "the tests'"


@dataclass
class World:
    """Both sides."""

    airflow: LocalAirflow
    emulator: Emulator
    arguments: ProcessArguments

    def ledger(self, prefix: str) -> list[dict[str, Any]]:
        """Give every job that ever existed whose name begins so."""
        jobs = httpx.get(f"{self.emulator.url}/emulator/ledger", trust_env=False).json()["data"]
        return [job for job in jobs if job["name"].startswith(prefix)]

    def servings(self) -> list[str]:
        """Give the names of all servings."""
        address = "/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving"
        items = httpx.get(self.emulator.url + address, trust_env=False).json()["data"]["items"]
        return [serving["name"] for serving in items]

    def model_versions(self) -> set[str]:
        """Give the versions of the demo's model, half-copied ones included."""
        folder = platform.server_folder(self.emulator.storage, platform.FOLDERS.model("dense-mnist-tf")[0])
        return {version.name for version in folder.iterdir()} if folder.exists() else set()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, image_cache: Path, tensorflow_python: Path) -> Iterator[World]:  # noqa: ARG001
    root = tmp_path_factory.mktemp("e2e")
    dags = root / "dags"
    shutil.copytree(REPOSITORY / "dags", dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    config = {
        "scheduler.task_instance_heartbeat_timeout": "10",
        "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    }
    with (
        ProcessArguments() as arguments,
        Emulator(root / "emulator", image_cache=image_cache) as emulator,
        LocalAirflow(root / "airflow", dags, config=config) as airflow,
    ):
        platform.upload_programs(emulator.storage, dags / "workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=root / "downloads", mirrors=())
        connection = platform.connection(emulator)
        extra = {**json.loads(str(connection["extra"])), "deployment": DEPLOYMENT}
        airflow.set_connection({**connection, "extra": json.dumps(extra)})
        for dag in ("mnist_lifecycle", "one_job", "both_ways", "gates", "endings", "again"):
            airflow.await_dag(dag)
        yield World(airflow, emulator, arguments)
