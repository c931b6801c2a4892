"""The records of jobs, and how they change. Every change is a pure function: it returns a new record.

All times are milliseconds since the epoch; 0 means not yet. Methods take the current time as `now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.platform import JobStatus

JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.WAITING: frozenset({JobStatus.RUNNING, JobStatus.STOPPING, JobStatus.FAILED}),
        JobStatus.RUNNING: frozenset(
            {JobStatus.WAITING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPING}  # WAITING: it restarts
        ),
        JobStatus.STOPPING: frozenset({JobStatus.STOPPED}),
    }
)
STOPPED_EXIT_CODE = 214  # the platform's exit code of a job that was stopped


class IllegalTransitionError(RuntimeError):
    """A record was to change to a status that its table does not allow: a defect of the emulator."""


@dataclass(frozen=True)
class JobKey:
    """What identifies a job on the platform."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"job {self.name!r} in namespace {self.namespace!r}"


@dataclass(frozen=True)
class ServingKey:
    """What identifies a serving on the platform."""

    namespace: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"serving {self.name!r} version {self.version!r} in namespace {self.namespace!r}"


@dataclass(frozen=True)
class Task:
    """One of the programs of a job: a role runs as many of them as its `task_number`."""

    role: str
    index: int
    status: JobStatus = JobStatus.WAITING
    exit_code: int | None = None
    started: int = 0
    finished: int = 0


@dataclass(frozen=True)
class StoredJob:
    """A job.

    :param message: what it waits for, or why it ended as it did
    :param retries: how often it was restarted
    :param is_underpowered: whether it failed because it needs more than the emulator has
    :param user: the user who submitted it; "" when nobody had signed in
    :param task_url: the page of the Airflow task that submitted it; "": none
    :param exit_code: of its program, 214 when stopped; None until it ends, or when it never ran
    """

    key: JobKey
    spec: JobSpec
    created: int
    updated: int
    tasks: tuple[Task, ...]
    status: JobStatus = JobStatus.WAITING
    launched: int = 0
    finished: int = 0
    exit_code: int | None = None
    message: str = ""
    retries: int = 0
    is_underpowered: bool = False
    user: str = ""
    task_url: str = ""

    @classmethod
    def create(cls, key: JobKey, spec: JobSpec, now: int, user: str, task_url: str) -> StoredJob:
        """Return the record of a new job, which waits."""
        return cls(key, spec, created=now, updated=now, tasks=_new_tasks(spec), user=user, task_url=task_url)

    @property
    def raw_state(self) -> str:
        """The platform's word for its state."""
        return "UNDERPOWERED" if self.is_underpowered else self.status.value

    @property
    def can_stop(self) -> bool:
        """Whether it can be asked to stop: it has neither ended nor been asked before."""
        return JobStatus.STOPPING in JOB_TRANSITIONS.get(self.status, ())

    def launch(self, now: int) -> StoredJob:
        """Return the job with its programs running."""
        tasks = tuple(replace(task, status=JobStatus.RUNNING, started=now) for task in self.tasks)
        return self._change_status(JobStatus.RUNNING, now, launched=now, tasks=tasks, message="")

    def finish_task(self, role: str, index: int, exit_code: int, now: int) -> StoredJob:
        """Return the job with one of its programs ended."""
        status = JobStatus.FAILED if exit_code else JobStatus.SUCCEEDED
        tasks = tuple(
            replace(task, status=status, exit_code=exit_code, finished=now)
            if (task.role, task.index) == (role, index)
            else task
            for task in self.tasks
        )
        return replace(self, tasks=tasks)

    def restart(self, message: str, now: int) -> StoredJob:
        """Return the job waiting again, since its programs have failed and will be restarted."""
        tasks, retries = _new_tasks(self.spec), self.retries + 1
        return self._change_status(JobStatus.WAITING, now, tasks=tasks, retries=retries, message=message)

    def stop(self, now: int) -> StoredJob:
        """Return the job stopping."""
        return self._change_status(JobStatus.STOPPING, now)

    def finish(self, exit_code: int | None, message: str, now: int) -> StoredJob:
        """Return the job ended. A job that was asked to stop is STOPPED, however its programs ended.

        :param exit_code: 0: succeeded; None: it never ran
        """
        if self.status is JobStatus.STOPPING:
            status, exit_code, message = JobStatus.STOPPED, STOPPED_EXIT_CODE, "stopped by request"
        else:
            status = JobStatus.SUCCEEDED if exit_code == 0 else JobStatus.FAILED
        tasks = tuple(
            task if task.status.is_terminal else replace(task, status=JobStatus.STOPPED, finished=now)
            for task in self.tasks
        )
        return self._change_status(status, now, finished=now, tasks=tasks, exit_code=exit_code, message=message)

    def refuse(self, message: str, now: int) -> StoredJob:
        """Return the job failed, because it needs more than the emulator has."""
        return replace(self, is_underpowered=True).finish(None, message, now)

    def _change_status(self, status: JobStatus, now: int, **changes: Any) -> StoredJob:
        if status not in JOB_TRANSITIONS.get(self.status, ()):
            raise IllegalTransitionError(f"{self.key} cannot go from {self.status} to {status}")
        return replace(self, status=status, updated=now, **changes)


def _new_tasks(spec: JobSpec) -> tuple[Task, ...]:
    return tuple(Task(role.task_role_name, i) for role in spec.task_roles for i in range(role.task_number))


@dataclass(frozen=True)
class LoggedRequest:
    """A request about a job.

    :param number: identifies it; numbers increase
    :param status: the HTTP status that the client received; 0: the connection was closed instead
    :param reached: whether the request took effect on the platform; False: a fault kept it away
    """

    number: int
    time: int
    method: str
    path: str
    status: int
    reached: bool

    @property
    def is_look(self) -> bool:
        """Whether it could change nothing."""
        return self.method not in ("POST", "DELETE")


@dataclass
class LedgerEntry:
    """A job that exists or existed, and the requests about it. A name that was used twice has two entries.

    :param forgotten: the number of older requests, which could change nothing and are only counted
    """

    number: int
    record: StoredJob
    removed: int = 0
    requests: list[LoggedRequest] = field(default_factory=list)
    forgotten: int = 0
