"""Measures what Airflow and this package add to the MNIST lifecycle: one run, deferrable as shipped, as in the demo."""

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
from airflow_bitahub.emulator.faults.faults import Effect, Fault, Match
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, dags_folder, load_images
from airflow_bitahub.emulator.server import Emulator

_DAG = "mnist_lifecycle"
_IMAGE = "tensorflow"
_SECONDS = 600

# What a task's time passes with, in this order: the seconds until ... Without a job, all of its own work is the last. A
# service has no end: its start, until the triggerer reports that it answers, counts as the job's run.
STAGES = {
    "queued": "queued by the scheduler",
    "executed": "executed by a worker",
    "submitted": "job submitted",
    "launched": "job launched",
    "run": "job over",
    "noticed": "triggerer reports that",
    "resumed": "executed again",
    "ended": "task over",
}
PLATFORM = {"launched", "run"}  # neither Airflow's doing nor this package's


class _Requests(Match):
    """Strikes none, and notes when each came; the ledger has only those about a job."""

    _times: list[float] = PrivateAttr(default_factory=list)

    def covers(self, method: str, path: str) -> bool:  # noqa: ARG002
        """Note a request."""
        self._times.append(time.time())
        return False

    def between(self, since: float, until: float) -> int:
        """Count."""
        return sum(since <= at < until for at in self._times)


def lifecycle_costs(home: Path, image_cache: Path) -> list[dict[str, Any]]:
    """Give the seconds of each stage of each task, and its requests to the platform; the last row is the whole run.

    The environment that stands for the image is built before, where it is missing. The tasks run one after the other:
    the time of one begins with the end of the one before.

    :raises RuntimeError: the run fails
    """
    images = Images(load_images(DEFAULT_IMAGES), image_cache)
    asyncio.run(images.prepare(images.find(_IMAGE)))
    with (
        Emulator(home / "emulator", image_cache=image_cache) as emulator,
        LocalAirflow(home / "airflow", dags_folder()) as airflow,
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
            if details["queued_when"]:  # a resumed task is queued again, and only the last time is kept
                queued.setdefault(task, _seconds(details["queued_when"]))

        run_id = airflow.trigger(_DAG)
        if (state := airflow.wait(_DAG, run_id, seconds=_SECONDS, on_change=note)) != "success":
            raise RuntimeError(f"The run of {_DAG} has ended as {state}.")
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
    """Give when a task's code began, when its trigger reported, and when its code began again, from its log."""
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
    """Add the times of the job or service that a task has waited for; its result has the name."""
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
