"""What the triggers report to their tasks. It is imported when a DAG is parsed, so it imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

from airflow.sdk.configuration import conf

# How long after a trigger's own deadline Airflow's scheduler ends the waiting, in case no triggerer is running.
TRIGGERER_MARGIN = timedelta(minutes=5)
# Seconds within which a triggerer that has room for another task begins to watch it: each takes up 50 per second.
TAKE_UP_SECONDS = 60.0
MORE_TRIGGERERS = (
    "Each triggerer watches as many deferred tasks as its setting [triggerer] capacity says (1000 by default): start "
    "more triggerers, or raise the capacity."
)
# Seconds for the scheduler to record the end of a task's first part, once the worker has told it. On a busy machine
# the scheduler and the end of the first part's process take longer: with 2 s, and with 5 s without the time that the
# first part took, one to three of 100 jobs reported too early. That time shows how busy the machine is.
_HANDOVER_MARGIN = 5.0
_LONGEST_FIRST_PART = 15.0


class JobEvent(TypedDict, total=False):
    """What `BitaHubJobTrigger` reports.

    - ``finished``: `job` is the job as the platform reports it, however it ended.
    - ``timeout``: the job had not finished at the deadline.
    - ``queue_timeout``: the job had not started at the queue deadline.
    - ``lost``: the platform no longer has the job.
    - ``error``: the state of the job is unknown, because queries failed for too long. With `is_final`, they will
      always fail.
    """

    outcome: Literal["finished", "timeout", "queue_timeout", "lost", "error"]
    job: dict[str, Any]
    message: str
    is_final: bool
    subject: str  # see `job_subject`
    unwatched_seconds: float  # see `log_late_start`


class ServingEvent(TypedDict, total=False):
    """What `BitaHubServingTrigger` reports.

    - ``ready``: `serving` is RUNNING and its program answers.
    - ``failed``: the serving failed, was stopped, or was replaced by another one.
    - ``timeout``: the serving was not ready at the deadline.
    - ``error``: the state of the serving is unknown, because queries failed for too long. With `is_final`, they will
      always fail.
    """

    outcome: Literal["ready", "failed", "timeout", "error"]
    serving: dict[str, Any]
    message: str
    is_final: bool
    subject: str  # see `serving_subject`
    unwatched_seconds: float  # see `log_late_start`


def earliest_report(start: datetime, waited: float = 0) -> float:
    """Return when the trigger of a task that is deferred now may report, in seconds since the epoch.

    Airflow fails a task that resumes before its scheduler knows that the first part of the task has ended. A worker
    often tells the scheduler only after ``[workers] min_heartbeat_interval`` (seen on 3.3.2), so this is called where
    the worker runs.

    :param start: the start of the try
    :param waited: for how many seconds since then the task has only waited
    """
    now = time.time()
    heartbeat: float = conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)
    first_part = min(max(now - start.timestamp() - waited, 0.0), _LONGEST_FIRST_PART)
    return now + heartbeat + _HANDOVER_MARGIN + first_part


def job_subject(name: str) -> str:
    """Return the subject of events about a job."""
    return f"job {name}"


def serving_subject(name: str, version: str, created_at: float | None) -> str:
    """Return the subject of events about a serving. The time distinguishes it from later servings of the same name."""
    return f"serving {name} {version} of {created_at}"


def is_about(event: Mapping[str, Any], subject: str) -> bool:
    """Return whether an event is about the job or serving that the resumed task waits for.

    Airflow finds the task for an event by the id of its trigger, and some databases (SQLite) use the id of a deleted
    trigger again. A triggerer that was disconnected meanwhile still reports for the old trigger, and the event reaches
    the task of the new one.
    """
    return bool(event.get("subject", subject) == subject)


def log_late_start(event: Mapping[str, Any], log: Any) -> None:
    """Log that no triggerer watched the resumed task for a long time, if its trigger reports that.

    :param log: the task's logger
    """
    if "unwatched_seconds" in event:
        log.warning(
            "A triggerer began to watch this task only %.0f s after it was deferred. Unless a triggerer was restarted "
            "meanwhile, nothing watched it before. %s",
            event["unwatched_seconds"],
            MORE_TRIGGERERS,
        )
