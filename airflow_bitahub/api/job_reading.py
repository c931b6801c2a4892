"""`Job`, and how it is read from every shape in which the platform or a relative has answered.

The document shows no answer about a job at all, so the known shapes come from public clients and relatives (client,
family): the facts may stand at the top, in ``jobStatus``, in ``metadata``, or inside a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.api.wire import items_of, to_epoch
from airflow_bitahub.exceptions import UnexpectedResponseError
from airflow_bitahub.texts import shorten

# Keys for the time at which a job finished; for a Volcano job that is its last change.
_FINISHED = ("completedTime", "appCompletedTime", "stopedTime", "finishedAt", "lastTransitionTime")
_EVICTION = re.compile(r"\b(PodEvicted|Evicted|Preempted|NodeLost)\b")  # Kubernetes' own words


class Job(BaseModel):
    """A job as the platform reports it.

    :param status: what the state means
    :param raw_state: the state in the platform's own spelling
    :param created_at: time of submission. All times are seconds since the epoch; None: not known
    :param started_at: time at which the program began
    :param finished_at: time at which the job finished; None for a job that has not finished
    :param exit_code: the program's exit code: 0 is success, 214 was seen for stopped jobs (client); None for a job
        that has not finished
    :param message: what the platform says about the job's end
    :param exit_type: the platform's name for the kind of end, such as ``NON_TRANSIENT`` (client)
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    name: str
    status: JobStatus
    raw_state: str = ""
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    message: str = ""
    exit_type: str = ""

    @property
    def is_evicted(self) -> bool:
        """Whether it failed because the platform took its place away or lost its machine, not because of its program.

        A relative of the platform calls such ends TRANSIENT (family); Kubernetes names the reason (family).
        """
        is_transient = self.exit_type.upper().startswith("TRANSIENT")
        return self.status is JobStatus.FAILED and (is_transient or _EVICTION.search(self.message) is not None)

    @property
    def is_underpowered(self) -> bool:
        """Whether it could not run because the account has too little computing power left (client)."""
        return self.status is JobStatus.FAILED and self.raw_state.upper() == "UNDERPOWERED"

    @property
    def queue_seconds(self) -> float | None:
        """Seconds between submission and start; None: not known."""
        return _seconds_between(self.created_at, self.started_at)

    @property
    def run_seconds(self) -> float | None:
        """Seconds between start and end; None: not known."""
        return _seconds_between(self.started_at, self.finished_at)

    def __str__(self) -> str:
        exit_code = "" if self.exit_code is None else f", exit code {self.exit_code}"
        message = f": {self.message}" if self.message else ""
        return f"job {self.name!r} is {self.raw_state or self.status.value}{exit_code}{message}"


class JobPage(NamedTuple):
    """One page of the platform's list of jobs.

    :param jobs: the jobs on it by name; of a filtered list, only the known ones
    :param names: the names of all jobs on it
    :param size: the length of the answer in bytes
    :param unreadable: the number of entries on it that could not be read
    """

    jobs: dict[str, Job]
    names: set[str]
    size: int
    unreadable: int = 0


def read_job(data: Any, platform: Platform, name: str, known: Job | None = None) -> Job:
    """Read the answer about one job.

    :param name: the name that was asked for
    :param known: the job as last reported; returned unchanged while its raw state is the same and not final
    :raises UnexpectedResponseError: the answer holds no job, or no state
    """
    return _read_facts(_facts(data), platform, name, known)


def read_job_page(data: Any, platform: Platform, size: int, known: Mapping[str, Job | None] | None) -> JobPage:
    """Read the answer to a list request.

    :param size: the length of the answer in bytes
    :param known: None: read every job; of several entries with the same name, one that has not finished comes first.
        Otherwise read only jobs of these names, each with the job as last reported (as in `read_job`); one whose name
        appears twice counts as missing
    :raises UnexpectedResponseError: the answer is no list
    """
    jobs: dict[str, Job] = {}
    names: set[str] = set()
    unreadable = 0
    for item in items_of(data):
        facts = _facts(item)
        name = _listed_name(facts)
        try:
            if not name:
                unreadable += 1
            elif known is None:
                job = _read_facts(facts, platform, name, None)
                if name not in jobs or jobs[name].status.is_terminal:
                    jobs[name] = job
            elif name in names:
                jobs.pop(name, None)
            elif name in known:
                jobs[name] = _read_facts(facts, platform, name, known[name])
        except UnexpectedResponseError:
            unreadable += 1
        names.add(name)
    return JobPage(jobs, names, size, unreadable)


def _listed_name(facts: list[Mapping[str, Any]]) -> str:
    return _first_text(facts, "jobName", "name").rpartition("~")[2]  # OpenPAI, for one, answers "user~name"


def _read_facts(facts: list[Mapping[str, Any]], platform: Platform, name: str, known: Job | None) -> Job:
    if not facts:
        raise UnexpectedResponseError(f"The platform's answer about job {name!r} contains no job.")
    raw_state = _first_text(facts, "state", "status", "phase")
    if not raw_state:
        raise UnexpectedResponseError(f"The platform's answer about job {name!r} contains no state.")
    if known is not None and known.raw_state == raw_state and not known.status.is_terminal:
        return known
    status = platform.job_status(raw_state)
    return Job(
        name=name,
        status=status,
        raw_state=raw_state,
        created_at=_time(facts, platform, "createdTime", "createTime", "creationTimestamp", "createdAt"),
        started_at=_time(facts, platform, "appLaunchedTime", "launchedTime", "startAt", "startAtTime"),
        # For a job that still runs, some relatives report the current time as its end, and 0 as its exit code.
        finished_at=_time(facts, platform, *_FINISHED) if status.is_terminal else None,
        exit_code=_exit_code(facts, "appExitCode", "exitCode") if status.is_terminal else None,
        message=_first_text(facts, "appExitDiagnostics", "exitDiagnostics", "message"),
        exit_type=_first_text(facts, "appExitType", "exitType") if status.is_terminal else "",
    )


def _facts(data: Any, depth: int = 3) -> list[Mapping[str, Any]]:
    """Return every part of an answer that describes the job itself, the most reliable part first.

    :param depth: how many wrappers around the job to open at most
    """
    if not isinstance(data, dict):
        return []
    status = data.get("status")
    parts = (
        data.get("jobStatus"),
        data,
        data.get("metadata"),
        status.get("state") if isinstance(status, dict) else None,
    )
    facts: list[Mapping[str, Any]] = [part for part in parts if isinstance(part, dict)]
    for wrapper in ("jobDetail", "job") if depth else ():
        facts += _facts(data.get(wrapper), depth - 1)
    return facts


def _first_text(facts: list[Mapping[str, Any]], *keys: str) -> str:
    for fact in facts:
        for key in keys:
            value = fact.get(key)
            if value and isinstance(value, str):
                return shorten(value)
    return ""


def _exit_code(facts: list[Mapping[str, Any]], *keys: str) -> int | None:
    for fact in facts:
        for key in keys:
            value = fact.get(key)
            if isinstance(value, int | str) and re.fullmatch(r"-?[0-9]{1,10}", str(value)):
                return int(value)
    return None


def _time(facts: list[Mapping[str, Any]], platform: Platform, *keys: str) -> float | None:
    for key in keys:
        for fact in facts:
            if (seconds := to_epoch(fact.get(key), platform.timezone)) is not None:
                return seconds
    return None


def _seconds_between(start: float | None, end: float | None) -> float | None:
    # The platform rounds some of its times down to the second, so a start may seem to come before its submission.
    return None if start is None or end is None else round(max(0.0, end - start), 3)
