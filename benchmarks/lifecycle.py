"""Measures the time that Airflow and this package add to one run of the MNIST lifecycle, deferrable as in the demo."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.demo.airflow import LocalAirflow
from airflow_bitahub.demo.run import AIRFLOW_CONFIG
from airflow_bitahub.emulator.faults.faults import Effect, Fault, Match
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, dags_folder, load_images
from airflow_bitahub.emulator.server import Emulator

_DAG = "mnist_lifecycle"
_IMAGE = "tensorflow"
_SECONDS = 600

# The stages of a task in their order; each is measured in seconds until its title is reached. A task without a job does
# all of its work in the last stage. A serving has no end: for it, "run" ends when the triggerer
# reports it ready.
STAGES = {
    "queued": "queued by the scheduler",
    "executed": "executed by a worker",
    "submitted": "job submitted",
    "launched": "job launched",
    "run": "job finished",
    "noticed": "end reported by the triggerer",
    "resumed": "executed again",
    "ended": "task finished",
}
PLATFORM = {"launched", "run"}  # stages that depend on neither Airflow nor this package


class _Requests(Match):
    """Matches no request, and records the time of each. The ledger has only the requests about a job."""

    _times: list[float] = PrivateAttr(default_factory=list)

    def covers(self, method: str, path: str) -> bool:  # noqa: ARG002
        """Record a request."""
        self._times.append(time.time())
        return False

    def between(self, since: float, until: float) -> int:
        """Return the number of requests between two times."""
        return sum(since <= at < until for at in self._times)


def lifecycle_costs(home: Path, image_cache: Path) -> list[dict[str, Any]]:
    """Return the seconds of each stage of each task, and its requests to the platform; the last row is the whole run.

    The environment for the image is built first, where it is missing. The tasks run one after the other: the time of
    each begins at the end of the one before.

    :raises RuntimeError: the run fails
    """
    images = Images(load_images(DEFAULT_IMAGES), image_cache)
    asyncio.run(images.prepare(images.find(_IMAGE)))
    with (
        Emulator(home / "emulator", image_cache=image_cache) as emulator,
        LocalAirflow(home / "airflow", dags_folder(), config=AIRFLOW_CONFIG) as airflow,
    ):
        platform.upload_programs(emulator.storage, dags_folder() / "workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=home / "downloads", mirrors=())
        airflow.set_connection(platform.connection(emulator))
        airflow.await_dag(_DAG)
        requests = _Requests()
        emulator.faults.add(Fault(match=requests, effect=Effect(delay=0)))
        queued: dict[str, float] = {}

        def note(task: str, _: str, details: Mapping[str, Any]) -> None:
            if details["queued_when"]:  # a resumed task is queued again, and Airflow stores only the last time
                queued.setdefault(task, _seconds(details["queued_when"]))

        run_id = airflow.trigger(_DAG)
        if (state := airflow.wait(_DAG, run_id, seconds=_SECONDS, on_change=note)) != "success":
            raise RuntimeError(f"The run of {_DAG} ended in the state {state}.")
        rows: list[dict[str, Any]] = []
        run = airflow.call("GET", f"/dags/{_DAG}/dagRuns/{run_id}")
        start = before = _seconds(run["queued_at"])
        for task, details in sorted(airflow.tasks(_DAG, run_id).items(), key=lambda item: str(item[1]["end_date"])):
            end = _seconds(details["end_date"])
            marks = {"queued": queued[task], **_executions(airflow, run_id, task), "ended": end}
            if "noticed" in marks:
                _add_job(marks, emulator, airflow.xcom(_DAG, run_id, task))
            rows.append({"task": task, "requests": requests.between(before, end), **_stages(marks, before)})
            before = end
        end = _seconds(run["end_date"])
        rows.append({"task": "the run's end", "requests": requests.between(before, end), "ended": end - before})
    sums = {stage: sum(row.get(stage, 0.0) for row in rows) for stage in STAGES}
    rows.append({"task": "all", "requests": requests.between(start, end), **sums})
    return [{**row, "added": sum(row.get(stage, 0.0) for stage in STAGES if stage not in PLATFORM)} for row in rows]


def _executions(airflow: LocalAirflow, run_id: str, task: str) -> dict[str, float]:
    """Return, from a task's log, when its code started, when its trigger fired, and when its code started again."""
    log = airflow.call("GET", f"/dags/{_DAG}/dagRuns/{run_id}/taskInstances/{task}/logs/1?full_content=true")
    lines = (line for line in log["content"] if line.get("timestamp"))
    marks: dict[str, float] = {}
    group = ""
    for line in sorted(lines, key=lambda each: str(each["timestamp"])):
        event = line["event"]
        if event.startswith("::group::"):
            group = event
        elif event == "::endgroup::" and group == "::group::Pre Execute":
            marks["resumed" if "executed" in marks else "executed"] = _seconds(line["timestamp"])
        elif event == "Trigger fired event":
            marks["noticed"] = _seconds(line["timestamp"])
    return marks


def _add_job(marks: dict[str, float], emulator: Emulator, result: Mapping[str, Any]) -> None:
    """Add the times of the job or serving that a task waited for; the task's result has its name."""
    if "serving_name" in result:
        serving = next(record for record in emulator.state.servings() if record.key.name == result["serving_name"])
        marks.update(submitted=serving.created / 1000, run=marks.pop("noticed"))
    else:
        job = next(entry.record for entry in emulator.state.ledger() if entry.record.key.name == result["job_name"])
        marks.update(submitted=job.created / 1000, launched=job.launched / 1000, run=job.finished / 1000)


def _stages(marks: Mapping[str, float], before: float) -> dict[str, float]:
    stages = {}
    for stage in STAGES:
        if stage in marks:
            stages[stage] = marks[stage] - before
            before = marks[stage]
    return stages


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
