"""The states of a job over time, as the rectangles of a picture. Places and lengths are percentages of its width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.state.records import LoggedRequest, StoredJob

_LEAST = 0.5  # percent: what is shorter could not be seen
_MAX_ROWS = 16  # also of marks


class Segment(NamedTuple):
    """A time in one state; `milliseconds` is how long it was, or is so far."""

    state: str
    start: float
    length: float
    milliseconds: int


class Row(NamedTuple):
    """What is drawn in one line; `name` is "" for the job itself."""

    name: str
    segments: list[Segment]


class Mark(NamedTuple):
    """A request that changed something."""

    method: str
    place: float
    time: int


class Timeline(NamedTuple):
    """A picture of a job from its creation to its end, or until now."""

    rows: list[Row]
    marks: list[Mark]
    start: int
    end: int


def timeline(job: StoredJob, requests: Iterable[LoggedRequest], now: int) -> Timeline:
    """Return the picture of a job.

    :param requests: those about it
    :param now: milliseconds since the epoch
    """
    end = max(job.finished or now, job.created + 1)
    scale = 100 / (end - job.created)

    def segment(state: str, since: int, until: int) -> Segment:
        start = min((since - job.created) * scale, 100 - _LEAST)
        return Segment(state, round(start, 2), round(max((until - since) * scale, _LEAST), 2), until - since)

    def place(time: int) -> float:
        return round(min(max(_LEAST, (time - job.created) * scale), 100 - _LEAST), 2)

    began = min(job.launched or end, end)
    segments = [segment(JobStatus.WAITING.value, job.created, began)]
    if job.launched:
        last = job.status.value if job.status.is_terminal else JobStatus.RUNNING.value
        segments.append(segment(last, began, end))
    rows = [Row("", segments)]
    if len(job.tasks) > 1:
        for task in job.tasks[:_MAX_ROWS]:
            spans = [segment(task.status.value, task.started, task.finished or end)] if task.started else []
            rows.append(Row(f"{task.role} {task.index}", spans))
    changes = [request for request in requests if request.reached and not request.is_look]
    marks = [Mark(request.method, place(request.time), request.time) for request in changes[-_MAX_ROWS:]]
    return Timeline(rows, marks, job.created, end)
