"""Measures the time that Airflow and this package add to one run of the MNIST lifecycle, deferrable as in the demo."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from airflow_bitahub.emulator.faults.faults import Effect, Fault, Match
from benchmarks.stand import seconds_of

if TYPE_CHECKING:
    from airflow_bitahub.emulator.server import Emulator
    from benchmarks.stand import Stand

_DAG = "mnist_lifecycle"
_SECONDS = 600
# Lines of a task's log, on a worker and in a triggerer.
_NOTICED = re.compile(r"Trigger fired event$|The job .* is SUCCEEDED|The .* serves as ")

# The stages of a task in their order; each is measured in seconds until its title is reached. A task without a job does
# all of its work in the last stage. A serving has no end: for it, "run" ends when the task's log says that it serves.
# Only a task that was deferred is executed again.
STAGES = {
    "queued": "queued by the scheduler",
    "executed": "executed by a worker",
    "submitted": "job submitted",
    "launched": "job launched",
    "run": "job finished",
    "noticed": "end noticed",
    "resumed": "executed again",
    "ended": "task finished",
}
PLATFORM = {"launched", "run"}  # stages that depend on neither Airflow nor this package


class _Requests(Match):
    """Matches no request, and records the time of each. The ledger has only the requests about a job."""

    _times: list[float] = PrivateAttr(default_factory=list)

    def matches(self, method: str, path: str) -> bool:  # noqa: ARG002
        """Record a request."""
        self._times.append(time.time())
        return False

    def between(self, since: float, until: float) -> int:
        """Return the number of requests between two times."""
        return sum(since <= at < until for at in self._times)


def lifecycle_costs(stand: Stand) -> list[dict[str, Any]]:
    """Return the seconds of each stage of each task, and its requests to the platform; the last row is the whole run.

    The tasks run one after the other: the time of each begins at the end of the one before.
    """
    airflow, emulator = stand.airflow, stand.emulator
    requests = _Requests()
    emulator.faults.add(Fault(match=requests, effect=Effect(delay=0)))
    queued: dict[str, float] = {}

    def note(task: str, _: str, details: Mapping[str, Any]) -> None:
        if details["queued_when"]:  # a resumed task is queued again, and Airflow stores only the last time
            queued.setdefault(task, seconds_of(details["queued_when"]))

    run_id = stand.run(_DAG, _SECONDS, on_change=note)
    rows: list[dict[str, Any]] = []
    run = airflow.call("GET", f"/dags/{_DAG}/dagRuns/{run_id}")
    start = before = seconds_of(run["queued_at"])
    for task, details in sorted(airflow.tasks(_DAG, run_id).items(), key=lambda item: str(item[1]["end_date"])):
        end = seconds_of(details["end_date"])
        marks = {"queued": queued[task], **_executions(stand.log(details)), "ended": end}
        if "noticed" in marks:
            _add_job(marks, emulator, airflow.xcom(_DAG, run_id, task))
        rows.append({"task": task, "requests": requests.between(before, end), **_stages(marks, before)})
        before = end
    end = seconds_of(run["end_date"])
    rows.append({"task": "the run's end", "requests": requests.between(before, end), "ended": end - before})
    sums = {stage: sum(row.get(stage, 0.0) for row in rows) for stage in STAGES}
    rows.append({"task": "all", "requests": requests.between(start, end), **sums})
    return [{**row, "added": sum(row.get(stage, 0.0) for stage in STAGES if stage not in PLATFORM)} for row in rows]


def chain_costs(stand: Stand, lifecycle: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the seconds of a chain of as many PythonOperators, and what the lifecycle takes beside that."""
    seconds = stand.duration("python_chain", stand.run("python_chain", _SECONDS))
    added = lifecycle[-1]["added"]
    return [
        {"run": "the lifecycle without its jobs' own time", "seconds": added},
        {"run": "a chain of eight PythonOperators", "seconds": seconds},
        {"run": "the lifecycle above both", "seconds": added - seconds},
    ]


def _executions(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return, from a task's log, when its code started, when it noticed the end, and when its code started again."""
    marks: dict[str, float] = {}
    group = ""
    for line in log:
        event, at = line["event"], seconds_of(line["timestamp"])
        if event.startswith("::group::"):
            group = event
        elif event == "::endgroup::" and group == "::group::Pre Execute":
            marks["resumed" if "executed" in marks else "executed"] = at
        elif _NOTICED.match(event):
            marks["noticed"] = at
    if marks.get("resumed", 0) < marks.get("noticed", 0):
        marks.pop("resumed", None)  # a deferral before the last wait, which ended on a worker
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
