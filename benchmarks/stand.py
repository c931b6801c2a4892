"""The demo's Airflow and emulator, on which the rows about whole tasks are measured."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.demo.airflow import LocalAirflow
from airflow_bitahub.demo.run import AIRFLOW_CONFIG
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.examples import examples_folder

_IMAGE = "tensorflow"
BURST_SECONDS = 1.0  # length of each job of the burst


@dataclass(frozen=True)
class Sizes:
    """How much to measure.

    :param burst: jobs at once
    :param rounds: jobs of each length
    :param lengths: of the jobs whose ends are to be noticed, in seconds
    """

    burst: int = 200
    rounds: int = 5
    lengths: Sequence[float] = (0.1, 5, 60)


@dataclass(frozen=True)
class Stand:
    """A running Airflow with a running emulator."""

    airflow: LocalAirflow
    emulator: Emulator
    sizes: Sizes

    def run(self, dag_id: str, seconds: float, **options: Any) -> str:
        """Run a DAG and return the run's id. Raises RuntimeError if it fails."""
        self.airflow.await_dag(dag_id)
        run_id = self.airflow.trigger(dag_id)
        if (state := self.airflow.wait(dag_id, run_id, seconds=seconds, **options)) != "success":
            raise RuntimeError(f"The run of {dag_id} ended in the state {state}.")
        return run_id

    def duration(self, dag_id: str, run_id: str) -> float:
        """Return for how many seconds a run took."""
        run = self.airflow.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return seconds_of(run["end_date"]) - seconds_of(run["queued_at"])

    def log(self, task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the lines of the log of a task's last try that have a time, in their order.

        :param task: the API's entry of the task instance
        """
        path = (
            f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/logs/"
            f"{task['try_number']}?full_content=true&map_index={task['map_index']}"
        )
        lines = [line for line in self.airflow.call("GET", path)["content"] if line.get("timestamp")]
        return sorted(lines, key=lambda each: str(each["timestamp"]))


@contextmanager
def open_stand(home: Path, image_cache: Path, sizes: Sizes) -> Iterator[Stand]:
    """Start Airflow and the emulator. The environment for the jobs' image is built first, where it is missing."""
    images = Images(load_images(DEFAULT_IMAGES), image_cache)
    asyncio.run(images.prepare(images.find(_IMAGE)))
    dags = home / "dags"
    shutil.copytree(examples_folder(), dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    os.environ["BENCHMARK_SIZES"] = json.dumps(vars(sizes))
    with (
        Emulator(home / "emulator", image_cache=image_cache, max_running=2 * sizes.burst + 20) as emulator,
        LocalAirflow(home / "airflow", dags, config=AIRFLOW_CONFIG) as airflow,
    ):
        platform.upload_programs(emulator.storage, dags / "workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=home / "downloads", mirrors=())
        emulator.scripts.add(ScriptedJob(job_name="burst-*", run_seconds=BURST_SECONDS))
        for number, length in enumerate(sizes.lengths):
            emulator.scripts.add(ScriptedJob(job_name=f"notice-{number}-*", run_seconds=length))
        airflow.set_connection(platform.connection(emulator))
        stand = Stand(airflow, emulator, sizes)
        stand.run("python_chain", 600)  # the first task of a new Airflow waits for its API server
        yield stand


def seconds_of(text: str) -> float:
    """Return a time of Airflow's as seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
