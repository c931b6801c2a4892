"""What the page of a job shows: what is on record in Airflow, put together with what the platform says now."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, Mount
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.operators.records import Submission
from airflow_bitahub.pages.hiding import hide_secrets
from airflow_bitahub.pages.timeline import Span, Timeline, timeline
from airflow_bitahub.ui.store import StoredTask, Try

_FIELDS = {field.alias or name for name, field in JobSpec.model_fields.items()}


@dataclass(frozen=True)
class Times:
    """When what happened, in milliseconds since the epoch; 0: not yet, or not known. Durations: None: not known."""

    created: float = 0
    launched: float = 0
    finished: float = 0
    queued: float | None = None
    ran: float | None = None


@dataclass(frozen=True)
class JobView:
    """A job.

    :param state: what it is called in the pages' texts; "": not known
    :param raw_state: the same in the platform's words
    :param is_live: it may still change
    :param accelerators: the number of devices by type, of all replicas together
    :param device_minutes: how long these were in use; None: not known
    :param submission: what was sent, as JSON; "": not on record
    """

    name: str
    output_path: str
    state: str = ""
    raw_state: str = ""
    is_live: bool = False
    message: str = ""
    exit_code: int | None = None
    times: Times = field(default_factory=Times)
    accelerators: Counter[str] = field(default_factory=Counter)
    device_minutes: float | None = None
    images: Sequence[str] = ()
    mounts: Sequence[tuple[str, Mount]] = ()
    submission: str = ""
    timeline: Timeline | None = None


def view_job(stored: StoredTask, submission: Submission, job: Job | None, now: float) -> JobView:
    """Return what is known of a job.

    :param submission: what is on record of it
    :param job: what the platform says; None: nothing
    :param now: milliseconds since the epoch
    """
    spec = _spec(submission.body)
    result = stored.result if stored.result.get("job_name") == submission.job_name else {}
    state = job.status.value if job is not None else str(result.get("status", ""))
    is_live = job is not None and not job.status.is_terminal
    times = _times(submission, job, result, now)
    accelerators = spec.accelerators if spec else Counter[str]()
    # The tries that found the job again, after the one that submitted it.
    later = [each for each in stored.tries if submission.try_number and each.number > submission.try_number]
    adopted = [each for each in later if times.created < each.start <= (times.finished or now)]
    return JobView(
        name=submission.job_name,
        output_path=submission.output_path,
        state=_known(job.raw_state.upper() if job is not None and job.is_underpowered else state),
        raw_state=job.raw_state if job is not None else state,
        is_live=is_live,
        message=job.message if job is not None else "",
        exit_code=job.exit_code if job is not None else _whole(result.get("exit_code")),
        times=times,
        accelerators=accelerators,
        device_minutes=None if times.ran is None else times.ran / 60_000 * accelerators.total(),
        images=list(dict.fromkeys(role.image for role in spec.task_roles)) if spec else (),
        mounts=spec.named_mounts if spec else (),
        submission=json.dumps(hide_secrets(submission.body), indent=2, ensure_ascii=False) if submission.body else "",
        timeline=_timeline(job, times, adopted, now) if job is not None else None,
    )


def _spec(body: dict[str, Any] | None) -> JobSpec | None:
    """Return a submission; None where it is not on record, or where `extra_body` made it something else."""
    try:
        return JobSpec.model_validate({name: value for name, value in (body or {}).items() if name in _FIELDS})
    except ValidationError:
        return None


def _known(state: str) -> str:
    return state if not state or state == "UNDERPOWERED" or state in JobStatus.__members__ else JobStatus.UNKNOWN.value


def _times(submission: Submission, job: Job | None, result: dict[str, Any], now: float) -> Times:
    if job is None:
        queued, ran = (_milliseconds(result.get(name)) for name in ("queue_seconds", "run_seconds"))
        return Times(submission.time * 1000, queued=queued, ran=ran)
    created = (job.created_at or submission.time) * 1000
    launched, finished = ((time or 0) * 1000 for time in (job.started_at, job.finished_at))
    end = finished or (0 if job.status.is_terminal else now)
    return Times(
        created,
        launched,
        finished,
        queued=_between(created, launched or end),
        ran=_between(launched, end) if launched else None,
    )


def _between(start: float, end: float) -> float | None:
    # The clocks of the platform and of this machine differ, and some of the platform's times are rounded.
    return max(0.0, end - start) if end else None


def _timeline(job: Job, times: Times, tries: Sequence[Try], now: float) -> Timeline | None:
    end = times.finished or now
    if not times.created or (job.status.is_terminal and not times.finished):
        return None
    spans = [Span("", JobStatus.WAITING.value, times.created, times.launched or end)]
    if times.launched:
        last = job.status if job.status.is_terminal else JobStatus.RUNNING
        spans.append(Span("", last.value, times.launched, end))
    return timeline(times.created, end, spans, events=[(str(each.number), each.start) for each in tries])


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _milliseconds(seconds: Any) -> float | None:
    return seconds * 1000 if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None
