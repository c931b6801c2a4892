"""The states of a job over time, and the requests that changed something."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.state.records import LoggedRequest, StoredJob
from airflow_bitahub.pages.timeline import Span, Timeline, timeline


def job_timeline(job: StoredJob, requests: Iterable[LoggedRequest], now: int) -> Timeline:
    """Return the picture of a job.

    :param requests: those about it
    :param now: milliseconds since the epoch
    """
    end = max(job.finished or now, job.created + 1)
    began = min(job.launched or end, end)
    spans = [Span("", JobStatus.WAITING.value, job.created, began)]
    if job.launched:
        last = job.status.value if job.status.is_terminal else JobStatus.RUNNING.value
        spans.append(Span("", last, began, end))
    parts = [
        Span(f"{task.role} {task.index}", task.status.value if task.started else "", task.started, task.finished or end)
        for task in job.tasks
    ]
    changes = [(one.method, one.time) for one in requests if one.reached and not one.is_look]
    return timeline(job.created, end, spans, parts if len(parts) > 1 else (), changes)
