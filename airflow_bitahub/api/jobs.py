"""Jobs: what is sent, what is read, and the calls.

The bodies are the document's (seed); reading follows every shape a public client of the platform or a relative has
shown, since the document shows no job answer at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from airflow_bitahub.api.envelope import accept, unwrap
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.api.protocol import Call, Request, Response
from airflow_bitahub.exceptions import UnexpectedResponseError

__all__ = [
    "Accelerator",
    "Job",
    "JobPage",
    "JobSpec",
    "JobStatus",
    "Mount",
    "MountSource",
    "TaskRole",
    "delete_job",
    "find_jobs",
    "get_job",
    "list_jobs",
    "read_job_log",
    "stop_job",
    "submit_job",
]

# What tells when a job was over; for a Volcano job that is its last change.
_ENDS = ("completedTime", "appCompletedTime", "stopedTime", "finishedAt", "lastTransitionTime")
_EVICTION = re.compile(r"\b(PodEvicted|Evicted|Preempted|NodeLost)\b")  # Kubernetes' own words
# A job's name becomes the name of a Kubernetes object (vendor).
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class StrictModel(BaseModel):
    """A part of a request: unknown fields are refused, so that a misspelling cannot cost GPU hours."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def body(self) -> dict[str, Any]:
        """Give the JSON body as the platform's document spells it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class MountSource(StrictModel):
    """A server path and where the container sees it."""

    path: str
    mount_path: str

    @field_validator("path", "mount_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r} is not an absolute path without '..'")
        return value


class Mount(StrictModel):
    """A folder of the platform's storage in the container."""

    kind: Literal["nfs"] = "nfs"
    mount_source: MountSource

    @classmethod
    def of(cls, path: str, mount_path: str) -> Mount:
        """Mount the server's `path` at the container's `mount_path`."""
        return cls(mount_source=MountSource(path=path, mount_path=mount_path))


class Accelerator(StrictModel):
    """The accelerators of one replica.

    :param device_type: the platform's word, such as ``gtx-1080-ti`` (seed); it is sent as it is
    :param requests: how many
    :param kind: ``gpu`` (seed); others are plausible
    """

    kind: str = "gpu"
    requests: Annotated[int, Field(ge=1)] = 1
    device_type: Annotated[str, StringConstraints(min_length=1)]


class TaskRole(StrictModel):
    """One role of a job: its program and what each of its replicas gets.

    `memory_mb` and `shm_mb` are MB. `min_failed_task_count` and `min_succeeded_task_count` end the whole job when so
    many replicas of the role have failed (default: 1) or succeeded (default: never) (family).
    """

    cpu_number: Annotated[int, Field(ge=1)] = 2
    memory_mb: Annotated[int, Field(ge=1, alias="memoryMB")] = 16384
    image: Annotated[str, StringConstraints(min_length=1)]
    shm_mb: Annotated[int, Field(ge=0, alias="shmMB")] = 8192
    task_role_name: Name = "task1"
    task_number: Annotated[int, Field(ge=1)] = 1
    command: Annotated[str, StringConstraints(min_length=1)]
    acc_device: Accelerator | None = None
    min_failed_task_count: Annotated[int, Field(ge=1)] | None = None
    min_succeeded_task_count: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _shm_fits(self) -> TaskRole:
        if self.shm_mb > self.memory_mb:
            raise ValueError(f"shmMB {self.shm_mb} is more than memoryMB {self.memory_mb}")
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> TaskRole:
        if max(self.min_failed_task_count or 0, self.min_succeeded_task_count or 0) > self.task_number:
            raise ValueError(f"minFailedTaskCount or minSucceededTaskCount is more than taskNumber {self.task_number}")
        return self


class JobSpec(StrictModel):
    """The body of a submission (seed, version 2.0). A field that is None is not sent.

    `retry_count`: how often the platform itself runs a failed job again, over the same output folder (client).
    """

    job_name: Name
    api_version: Literal["2.0"] = "2.0"
    kind: str = "training"
    capabilities: list[Any] = Field(default_factory=list)
    code: Mount | None = None
    datasets: list[Mount] = Field(default_factory=list)
    output: Mount | None = None
    models: list[Mount] | None = None
    task_roles: Annotated[list[TaskRole], Field(min_length=1)]
    queue: str = "default"
    retry_count: Annotated[int, Field(ge=0, le=10)] | None = None

    @model_validator(mode="after")
    def _no_collision(self) -> JobSpec:
        targets = [mount.mount_source.mount_path.rstrip("/") for mount in self.mounts]
        for target in targets:
            if targets.count(target) > 1:
                raise ValueError(f"two folders are mounted at {target}")
        roles = [role.task_role_name for role in self.task_roles]
        if len(set(roles)) < len(roles):
            raise ValueError("two task roles have the same name")
        return self

    @property
    def mounts(self) -> list[Mount]:
        """All folders the job sees."""
        single = [mount for mount in (self.code, self.output) if mount is not None]
        return [*single, *self.datasets, *(self.models or [])]


class Job(BaseModel):
    """A job as the platform tells it.

    :param status: what its state means
    :param word: the platform's own word for the state
    :param created_at: when it was submitted; this and the next two are seconds since the epoch, None: not known
    :param started_at: when its program began
    :param finished_at: when it was over; only told of a job that is
    :param exit_code: likewise, of its program; 0 is success, 214 was seen for stopped jobs (client)
    :param message: what the platform says about its end
    :param exit_type: what kind of end the platform calls it, such as ``NON_TRANSIENT`` (client)
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: JobStatus
    word: str = ""
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    message: str = ""
    exit_type: str = ""

    @property
    def is_evicted(self) -> bool:
        """Whether it failed because its place was taken away or its machine was lost, and not by its program.

        A relative of the platform calls such ends TRANSIENT (family); Kubernetes names the reason (family).
        """
        is_transient = self.exit_type.upper().startswith("TRANSIENT")
        return self.status is JobStatus.FAILED and (is_transient or _EVICTION.search(self.message) is not None)

    @property
    def is_underpowered(self) -> bool:
        """Whether it could not run because the account has not enough computing power left (client)."""
        return self.status is JobStatus.FAILED and self.word.upper() == "UNDERPOWERED"

    @property
    def queue_seconds(self) -> float | None:
        """Seconds between submission and start."""
        return _span(self.created_at, self.started_at)

    @property
    def run_seconds(self) -> float | None:
        """Seconds between start and end."""
        return _span(self.started_at, self.finished_at)

    def __str__(self) -> str:
        exit_code = "" if self.exit_code is None else f", exit code {self.exit_code}"
        message = f": {self.message}" if self.message else ""
        return f"job {self.name!r} is {self.word or self.status.value}{exit_code}{message}"


def submit_job(spec: JobSpec, extra_body: Mapping[str, Any] | None = None) -> Call[None]:
    """Submit a job (seed). Its answer is not documented: the name is the key.

    :param extra_body: fields this package does not know, merged into the body last
    """
    request = Request(
        f"submit job {spec.job_name!r}",
        "submit_job",
        {"name": spec.job_name},
        json_body={**spec.body(), **(extra_body or {})},
    )
    return Call(request, lambda response, platform: accept(response, request, platform))


def get_job(name: str, known: Job | None = None) -> Call[Job]:
    """Ask for a job (assumed: the address of its submission). Raises NotFoundError when the platform has none.

    :param known: the job as last told; while its state has the same word, the answer is not read any further
    """
    request = Request(f"get job {name!r}", "get_job", {"name": name})

    def read(response: Response, platform: Platform) -> Job:
        return _read_job(unwrap(response, request, platform), platform, name, known)

    return Call(request, read, safe_to_repeat=True)


def list_jobs(page: int = 1, limit: int = 100) -> Call[list[Job]]:
    """Ask for one page of the namespace's jobs (assumed: KubeSphere's collection with `page` and `limit`)."""
    request = Request("list jobs", "list_jobs", query={"page": str(page), "limit": str(limit)})

    def read(response: Response, platform: Platform) -> list[Job]:
        return [_read_job(item, platform) for item in items_of(unwrap(response, request, platform))]

    return Call(request, read, safe_to_repeat=True)


class JobPage(NamedTuple):
    """What one page of the list of jobs says about some of them.

    :param jobs: those that were looked for and are on it, by name
    :param names: of all jobs on it
    :param size: bytes
    """

    jobs: dict[str, Job]
    names: set[str]
    size: int


def find_jobs(known: Mapping[str, Job | None], page: int, limit: int) -> Call[JobPage]:
    """Look for jobs on one page of the list that `list_jobs` asks for.

    An entry that cannot be read, or is not the only one of its name, counts as not there.

    :param known: the names to look for, each with the job as last told, as in `get_job`
    """
    listing = list_jobs(page, limit)

    def read(response: Response, platform: Platform) -> JobPage:
        found = JobPage({}, set(), len(response.body))
        for item in items_of(unwrap(response, listing.request, platform)):
            facts = _facts(item) if isinstance(item, dict) else []
            name = _first_text(facts, "jobName", "name").rpartition("~")[2]  # OpenPAI, for one, tells "user~name"
            if name in known and name not in found.names:
                with suppress(UnexpectedResponseError):
                    found.jobs[name] = _read_facts(facts, platform, name, known[name])
            elif name in found.names:
                found.jobs.pop(name, None)
            found.names.add(name)
        return found

    return Call(listing.request, read, safe_to_repeat=True)


def stop_job(name: str) -> Call[None]:
    """Stop a job (assumed: DELETE). Sent twice it may remove the record, so it is never repeated by itself."""
    request = Request(f"stop job {name!r}", "stop_job", {"name": name})
    return Call(request, lambda response, platform: accept(response, request, platform))


def delete_job(name: str) -> Call[None]:
    """Remove the record of a job that is over (assumed: DELETE, which on a live job only stops it)."""
    request = Request(f"delete job {name!r}", "delete_job", {"name": name})
    return Call(request, lambda response, platform: accept(response, request, platform))


def read_job_log(name: str, tail_lines: int = 100) -> Call[str]:
    """Read the last lines a job printed (assumed; no address is known for the platform itself)."""
    request = Request(f"read the log of job {name!r}", "read_job_log", {"name": name}, {"tailLines": str(tail_lines)})

    def read(response: Response, platform: Platform) -> str:
        data = unwrap(response, request, platform)
        return str(data.get("log", "") if isinstance(data, dict) else data or "")

    return Call(request, read, safe_to_repeat=True)


def items_of(data: Any) -> list[Any]:
    """Give the entries of a collection in any of its known shapes."""
    if isinstance(data, dict):
        for key in ("items", "list", "jobs", "servings"):
            if isinstance(data.get(key), list) or (key in data and data[key] is None):  # null: Go's empty list
                data = data[key]
                break
    if data is None:
        return []
    if not isinstance(data, list):
        raise UnexpectedResponseError("The platform's answer to a list is not a list of entries.")
    return data


def _read_job(data: Any, platform: Platform, name: str = "", known: Job | None = None) -> Job:
    """Find a job's facts in any of the shapes seen. `name` is what was asked for, for shapes that do not repeat it."""
    if not isinstance(data, dict):
        raise UnexpectedResponseError(f"The platform's answer about job {name!r} holds no job.")
    return _read_facts(_facts(data), platform, name, known)


def _read_facts(facts: list[Mapping[str, Any]], platform: Platform, name: str, known: Job | None) -> Job:
    word = _first_text(facts, "state", "status", "phase")
    if not word:
        raise UnexpectedResponseError(f"The platform's answer about job {name!r} tells no state.")
    if known is not None and known.word == word and not known.status.is_terminal:
        return known
    job_status = platform.job_status(word)
    return Job(
        # What was asked for comes first: OpenPAI, for one, answers with "user~name".
        name=name or _first_text(facts, "jobName", "name"),
        status=job_status,
        word=word,
        created_at=_time(facts, "createdTime", "createTime", "creationTimestamp", "createdAt"),
        started_at=_time(facts, "appLaunchedTime", "launchedTime", "startAt", "startAtTime"),
        # Of a job that still runs, some relatives tell "now" as its end, and 0 as its exit code.
        finished_at=_time(facts, *_ENDS) if job_status.is_terminal else None,
        exit_code=_integer(facts, "appExitCode", "exitCode") if job_status.is_terminal else None,
        message=_first_text(facts, "appExitDiagnostics", "exitDiagnostics", "message"),
        exit_type=_first_text(facts, "appExitType", "exitType") if job_status.is_terminal else "",
    )


def _facts(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give every part of an answer that tells of the job itself, what is believed first at the front."""
    status = data.get("status")
    parts = (
        data.get("jobStatus"),
        data,
        data.get("metadata"),
        status.get("state") if isinstance(status, dict) else None,
    )
    facts: list[Mapping[str, Any]] = [part for part in parts if isinstance(part, dict)]
    for wrapper in ("jobDetail", "job"):
        if isinstance(data.get(wrapper), dict):
            facts += _facts(data[wrapper])
    return facts


def _first_text(facts: list[Mapping[str, Any]], *keys: str) -> str:
    for fact in facts:
        for key in keys:
            value = fact.get(key)
            if value and isinstance(value, str):
                return value
    return ""


def _integer(facts: list[Mapping[str, Any]], *keys: str) -> int | None:
    for fact in facts:
        for key in keys:
            value = fact.get(key)
            if isinstance(value, int | str) and re.fullmatch(r"-?[0-9]+", str(value)):
                return int(value)
    return None


def _time(facts: list[Mapping[str, Any]], *keys: str) -> float | None:
    for key in keys:
        for fact in facts:
            if (seconds := to_epoch(fact.get(key))) is not None:
                return seconds
    return None


def to_epoch(value: Any) -> float | None:
    """Read a time in any of the forms seen: ms or s since the epoch, as number or text, or RFC 3339. 0 is *not set*."""
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        try:
            seconds = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError):
            return None
    else:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        seconds = number / 1000 if number > 1e11 else number
    return seconds if seconds > 0 else None


def _span(start: float | None, end: float | None) -> float | None:
    # The platform rounds some of its times down to the second, so a start may seem to come before its submission.
    return None if start is None or end is None else round(max(0.0, end - start), 3)
