"""Jobs and servings as the platform sees them: records, the moves they may make, and the ledger. No HTTP, no processes.

Records are frozen and replaced as a whole, under a lock and in one place, which is also where they are written to the
store; so a reader has a consistent one from any thread, and a restarted emulator goes on from the last. All times are
milliseconds since the epoch; 0 means not yet.
"""

from __future__ import annotations

import logging
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter

from airflow_bitahub.api.jobs import JobSpec, JobStatus
from airflow_bitahub.api.servings import ServingSpec, ServingStatus
from airflow_bitahub.emulator.state.errors import Conflict, Unknown
from airflow_bitahub.emulator.state.metering import Usage
from airflow_bitahub.emulator.state.store import Store

log = logging.getLogger(__name__)

JOB_MOVES: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.WAITING: frozenset({JobStatus.RUNNING, JobStatus.STOPPING, JobStatus.FAILED}),
        JobStatus.RUNNING: frozenset(
            {JobStatus.WAITING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPING}  # WAITING: it restarts
        ),
        JobStatus.STOPPING: frozenset({JobStatus.STOPPED}),
    }
)
SERVING_MOVES: Mapping[ServingStatus, frozenset[ServingStatus]] = MappingProxyType(
    {
        ServingStatus.WAITING: frozenset({ServingStatus.RUNNING, ServingStatus.STOPPING, ServingStatus.FAILED}),
        ServingStatus.RUNNING: frozenset(
            {ServingStatus.WAITING, ServingStatus.STOPPING, ServingStatus.FAILED}  # WAITING: it restarts
        ),
        ServingStatus.STOPPING: frozenset({ServingStatus.STOPPED}),
        ServingStatus.STOPPED: frozenset({ServingStatus.WAITING}),  # it is started again
        ServingStatus.FAILED: frozenset({ServingStatus.WAITING}),
    }
)
STOPPED_EXIT_CODE = 214  # what the platform tells of a job that was stopped
_ALPHANUMERICS = string.ascii_letters + string.digits
_LOOKS_KEPT = 1000  # of the requests that only look, the ledger keeps so many per job


class IllegalMoveError(RuntimeError):
    """A record was to make a move that its table does not have: a defect of the emulator."""


@dataclass(frozen=True)
class JobKey:
    """What the platform knows a job by."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"job {self.name!r} in namespace {self.namespace!r}"


@dataclass(frozen=True)
class ServingKey:
    """What the platform knows a serving by."""

    namespace: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"serving {self.name!r} version {self.version!r} in namespace {self.namespace!r}"


@dataclass(frozen=True)
class Task:
    """One replica of a role."""

    role: str
    index: int
    status: JobStatus = JobStatus.WAITING
    exit_code: int | None = None
    started: int = 0
    finished: int = 0


@dataclass(frozen=True)
class JobRecord:
    """A job.

    :param message: what it waits for, or why it ended as it did
    :param retries: how often it was restarted
    :param is_underpowered: whether it failed because there can never be room for it
    :param user: who had signed in to submit it; "": nobody had
    :param exit_code: of its program, 214 when stopped; None while it is not over or when it never ran
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

    @property
    def word(self) -> str:
        """The platform's word for its state."""
        return "UNDERPOWERED" if self.is_underpowered else self.status.value


@dataclass(frozen=True)
class Replica:
    """One of the programs a serving runs side by side.

    :param number: what it is known by; no other replica of the serving ever had it
    :param port: where it was told to listen; 0 until it was started
    :param message: what it waits for, or why it failed
    :param restarts: how often its program was started again
    """

    number: int
    status: ServingStatus = ServingStatus.WAITING
    port: int = 0
    message: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class ServingRecord:
    """A serving. It is RUNNING while one of its replicas is.

    :param token: its access token
    :param made: so many replicas it has ever had
    :param url: where it is asked; "" until it was opened
    :param usage: what it had used when it last changed
    """

    key: ServingKey
    spec: ServingSpec
    token: str = field(repr=False)
    created: int
    updated: int
    replicas: tuple[Replica, ...] = ()
    made: int = 0
    status: ServingStatus = ServingStatus.WAITING
    url: str = ""
    launched: int = 0
    finished: int = 0
    usage: Usage = field(default_factory=Usage)

    def usage_at(self, now: int) -> Usage:
        """Give what it has used until now, if it has not changed since."""
        return self.usage.up_to(now, self.spec.resource, len(self.running))

    @property
    def running(self) -> list[Replica]:
        """The replicas whose programs run; they may not listen yet."""
        return [replica for replica in self.replicas if replica.status is ServingStatus.RUNNING]


@dataclass(frozen=True)
class Asked:
    """A request that concerned a job.

    :param status: HTTP status the client was answered with; 0: the connection was closed instead
    :param reached: whether it came to the platform; False: a fault kept it away
    """

    time: int
    method: str
    path: str
    status: int
    reached: bool = True


@dataclass
class LedgerEntry:
    """A job that exists or existed, and what was asked about it. A name used twice has two entries."""

    number: int
    record: JobRecord
    removed: int = 0
    requests: list[Asked] = field(default_factory=list)


K = TypeVar("K", JobKey, ServingKey)
R = TypeVar("R", JobRecord, ServingRecord)

_JOB = TypeAdapter(JobRecord)
_SERVING = TypeAdapter(ServingRecord)


class State:
    """All there is, in memory and in a store; safe to use from any thread.

    :param clock: seconds since the epoch
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._store = Store()
        self._lock = threading.RLock()
        self._jobs: dict[JobKey, JobRecord] = {}
        self._servings: dict[ServingKey, ServingRecord] = {}
        self._ledger: list[LedgerEntry] = []
        self._latest: dict[JobKey, LedgerEntry] = {}

    def restore(self, store: Store) -> None:
        """Go on from what a store holds, and keep everything there from now on. For a state nobody has used yet."""
        self._store = store
        for number, text, removed in self._store.jobs():
            record = _JOB.validate_json(text)
            asked = [Asked(*request) for request in self._store.requests(number)]
            entry = self._latest[record.key] = LedgerEntry(number, record, removed, asked)
            self._ledger.append(entry)
            if not removed:
                self._jobs[record.key] = record
        for text in self._store.servings():
            serving = _SERVING.validate_json(text)
            self._servings[serving.key] = serving

    def now(self) -> int:
        """Give the time in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    # Jobs

    def create_job(self, namespace: str, spec: JobSpec, user: str = "") -> JobRecord:
        """Record a new job. Raises Conflict when its name is taken."""
        key, now = JobKey(namespace, spec.job_name), self.now()
        with self._lock:
            self.require_free(key)
            record = JobRecord(key, spec, created=now, updated=now, tasks=_tasks(spec), user=user)
            self._latest[key] = LedgerEntry(self._store.add_job(_text(_JOB, record)), record)
            self._ledger.append(self._latest[key])
            return self._put_job(record)

    def require_free(self, key: JobKey | ServingKey) -> None:
        """Raise Conflict when there is a job or serving of this name."""
        with self._lock:
            if key in self._jobs or key in self._servings:
                raise Conflict(f"{key} exists already")

    def job(self, key: JobKey) -> JobRecord:
        """Give a job's record. Raises Unknown when there is none."""
        return self._get(self._jobs, key)

    def jobs(self, namespace: str | None = None) -> list[JobRecord]:
        """Give the records of one namespace or of all, newest first."""
        return self._newest_first(self._jobs.values(), namespace)

    def explain_job(self, key: JobKey, message: str) -> None:
        """Say what a job waits for."""
        with self._lock:
            self._put_job(replace(self.job(key), message=message))

    def launch_job(self, key: JobKey) -> JobRecord:
        """Note that a job's program begins."""
        now = self.now()
        with self._lock:
            tasks = tuple(replace(task, status=JobStatus.RUNNING, started=now) for task in self.job(key).tasks)
            return self._move_job(key, JobStatus.RUNNING, launched=now, tasks=tasks, message="")

    def finish_task(self, key: JobKey, role: str, index: int, exit_code: int) -> None:
        """Note the end of one replica."""
        status = JobStatus.FAILED if exit_code else JobStatus.SUCCEEDED
        with self._lock:
            record = self.job(key)
            tasks = tuple(
                replace(task, status=status, exit_code=exit_code, finished=self.now())
                if (task.role, task.index) == (role, index)
                else task
                for task in record.tasks
            )
            self._put_job(replace(record, tasks=tasks))

    def restart_job(self, key: JobKey, message: str) -> JobRecord:
        """Note that a job's programs have failed and are to be run again."""
        with self._lock:
            record = self.job(key)
            tasks, retries = _tasks(record.spec), record.retries + 1
            return self._move_job(key, JobStatus.WAITING, tasks=tasks, retries=retries, message=message)

    def stop_job(self, key: JobKey) -> bool:
        """Note that a job shall end. Gives False when it is already ending or over: nothing is left to do."""
        with self._lock:
            if JobStatus.STOPPING not in JOB_MOVES.get(self.job(key).status, ()):
                return False
            self._move_job(key, JobStatus.STOPPING)
            return True

    def finish_job(self, key: JobKey, exit_code: int | None, message: str) -> JobRecord:
        """Note that nothing of a job runs any more. One that was asked to stop is STOPPED, however it ended.

        :param exit_code: 0: succeeded; None: it never ran
        """
        now = self.now()
        with self._lock:
            record = self.job(key)
            if record.status is JobStatus.STOPPING:
                status, exit_code, message = JobStatus.STOPPED, STOPPED_EXIT_CODE, "stopped by request"
            else:
                status = JobStatus.SUCCEEDED if exit_code == 0 else JobStatus.FAILED
            tasks = tuple(
                task if task.status.is_terminal else replace(task, status=JobStatus.STOPPED, finished=now)
                for task in record.tasks
            )
            return self._move_job(key, status, finished=now, tasks=tasks, exit_code=exit_code, message=message)

    def refuse_job(self, key: JobKey, message: str) -> JobRecord:
        """Note that there can never be room for a job."""
        with self._lock:
            self._put_job(replace(self.job(key), is_underpowered=True))
            return self.finish_job(key, None, message)

    def remove_job(self, key: JobKey) -> None:
        """Forget a job; only the ledger keeps it. Raises Unknown when there is none."""
        with self._lock:
            self.job(key)
            del self._jobs[key]
            entry = self._latest[key]
            entry.removed = self.now()
            self._store.update_job(entry.number, _text(_JOB, entry.record), entry.removed)

    # Servings

    def create_serving(self, namespace: str, spec: ServingSpec) -> ServingRecord:
        """Record a new serving, with an access token. Raises Conflict when its name and version are taken."""
        key, now = ServingKey(namespace, spec.name, spec.version), self.now()
        token = "".join(secrets.choice(_ALPHANUMERICS) for _ in range(32))
        with self._lock:
            self.require_free(key)
            return self._put_serving(_staffed(ServingRecord(key, spec, token, created=now, updated=now)))

    def serving(self, key: ServingKey) -> ServingRecord:
        """Give a serving's record. Raises Unknown when there is none."""
        return self._get(self._servings, key)

    def servings(self, namespace: str | None = None) -> list[ServingRecord]:
        """Give the records of one namespace or of all, newest first."""
        return self._newest_first(self._servings.values(), namespace)

    def open_serving(self, key: ServingKey, url: str) -> None:
        """Note where a serving is asked; none of its programs may answer yet."""
        with self._lock:
            self._put_serving(replace(self.serving(key), url=url))

    def explain_replica(self, key: ServingKey, number: int, message: str) -> None:
        """Say what a replica waits for."""
        self._change_replica(key, number, message=message)

    def launch_replica(self, key: ServingKey, number: int, port: int) -> None:
        """Note that a replica's program was started; it may not listen yet."""
        self._change_replica(key, number, status=ServingStatus.RUNNING, port=port, message="")

    def restart_replica(self, key: ServingKey, number: int, restarts: int, message: str) -> None:
        """Note that a replica's program has ended and is to be started again.

        :param restarts: how often that makes
        """
        self._change_replica(key, number, status=ServingStatus.WAITING, restarts=restarts, message=message)

    def fail_replica(self, key: ServingKey, number: int, message: str) -> None:
        """Note that a replica's program has ended and is not started again."""
        self._change_replica(key, number, status=ServingStatus.FAILED, message=message)

    def update_serving(self, key: ServingKey, spec: ServingSpec) -> ServingRecord:
        """Note what a serving shall be from now on.

        Where only the number of its replicas changes, those it keeps go on as they are; else all are new ones. One
        that is over stays so.
        """
        with self._lock:
            old = self.serving(key)
            if spec == old.spec:
                return old
            is_scaled = spec == old.spec.model_copy(update={"replicas": spec.replicas})
            best_first = sorted(old.replicas, key=lambda one: one.status is not ServingStatus.RUNNING)
            kept = best_first[: spec.replicas] if is_scaled else []
            self._put_serving(_staffed(replace(old, spec=spec, updated=self.now(), replicas=tuple(kept))))
            return self._settle(key)

    def start_serving(self, key: ServingKey) -> bool:
        """Note that a serving that is over shall run again. Gives False when it is not over: nothing is left to do."""
        with self._lock:
            record = self.serving(key)
            if not record.status.is_terminal:
                return False
            self._put_serving(_staffed(replace(record, replicas=(), finished=0)))
            self._move_serving(key, ServingStatus.WAITING)
            return True

    def stop_serving(self, key: ServingKey) -> bool:
        """Note that a serving shall end. Gives False when it is already ending or over: nothing is left to do."""
        with self._lock:
            if ServingStatus.STOPPING not in SERVING_MOVES.get(self.serving(key).status, ()):
                return False
            self._move_serving(key, ServingStatus.STOPPING)
            return True

    def finish_serving(self, key: ServingKey, message: str) -> ServingRecord:
        """Note that no program of a serving runs any more: STOPPED when it was asked to, else FAILED.

        :param message: why those have failed of which that is not known yet
        """
        with self._lock:
            record = self.serving(key)
            if record.status is ServingStatus.STOPPING:
                over = [replace(one, status=ServingStatus.STOPPED, message="") for one in record.replicas]
                status = ServingStatus.STOPPED
            else:
                over = [
                    one if one.status.is_terminal else replace(one, status=ServingStatus.FAILED, message=message)
                    for one in record.replicas
                ]
                status = ServingStatus.FAILED
            return self._move_serving(key, status, finished=self.now(), replicas=tuple(over))

    def remove_serving(self, key: ServingKey) -> None:
        """Forget a serving. Raises Unknown when there is none."""
        with self._lock:
            self.serving(key)
            del self._servings[key]
            self._store.remove_serving(str(key))

    # The ledger

    def note_request(self, key: JobKey, method: str, path: str, status: int, *, reached: bool = True) -> None:
        """Write down a request that concerned a job. Requests for names that never existed are not kept."""
        with self._lock:
            entry = self._latest.get(key)
            if entry is not None and (method != "GET" or len(entry.requests) < _LOOKS_KEPT):
                asked = Asked(self.now(), method, path, status, reached)
                entry.requests.append(asked)
                self._store.add_request(entry.number, asked.time, method, path, status, reached)

    def ledger(self) -> list[LedgerEntry]:
        """Give every job that ever existed, oldest first."""
        with self._lock:
            return [replace(entry, requests=list(entry.requests)) for entry in self._ledger]

    # One place for every change

    def _move_job(self, key: JobKey, status: JobStatus, **changes: Any) -> JobRecord:
        with self._lock:
            record = self.job(key)
            _require_move(key, record.status, status, JOB_MOVES.get(record.status, ()))
            return self._put_job(replace(record, status=status, updated=self.now(), **changes))

    def _move_serving(self, key: ServingKey, status: ServingStatus, **changes: Any) -> ServingRecord:
        with self._lock:
            record = self.serving(key)
            _require_move(key, record.status, status, SERVING_MOVES.get(record.status, ()))
            return self._put_serving(replace(record, status=status, updated=self.now(), **changes))

    def _change_replica(self, key: ServingKey, number: int, **changes: Any) -> None:
        """Change a replica; nothing happens where the serving does without it by now."""
        with self._lock:
            record = self.serving(key)
            replicas = tuple(replace(one, **changes) if one.number == number else one for one in record.replicas)
            self._put_serving(replace(record, replicas=replicas))
            self._settle(key)

    def _settle(self, key: ServingKey) -> ServingRecord:
        """Give a serving the status that follows from its replicas', unless it is ending or over."""
        record = self.serving(key)
        if record.status is ServingStatus.WAITING and record.running:
            # The platform floors this one time to the second, so it may come before the creation.
            return self._move_serving(key, ServingStatus.RUNNING, launched=self.now() // 1000 * 1000)
        is_waiting = not record.running and any(one.status is ServingStatus.WAITING for one in record.replicas)
        if record.status is ServingStatus.RUNNING and is_waiting:
            return self._move_serving(key, ServingStatus.WAITING)
        return record

    def _put_job(self, record: JobRecord) -> JobRecord:
        self._jobs[record.key] = record
        entry = self._latest[record.key]
        entry.record = record
        self._store.update_job(entry.number, _text(_JOB, record), removed=0)
        return record

    def _put_serving(self, record: ServingRecord) -> ServingRecord:
        old = self._servings.get(record.key, record)
        self._servings[record.key] = record = replace(record, usage=old.usage_at(self.now()))
        self._store.put_serving(str(record.key), _text(_SERVING, record))
        return record

    def _get(self, records: Mapping[K, R], key: K) -> R:
        with self._lock:
            if key not in records:
                raise Unknown(f"there is no {key}")
            return records[key]

    def _newest_first(self, records: Iterable[R], namespace: str | None) -> list[R]:
        with self._lock:
            found = [record for record in records if namespace is None or record.key.namespace == namespace]
        return found[::-1]


def _tasks(spec: JobSpec) -> tuple[Task, ...]:
    return tuple(Task(role.task_role_name, i) for role in spec.task_roles for i in range(role.task_number))


def _staffed(record: ServingRecord) -> ServingRecord:
    """Give a serving the replicas that it lacks."""
    made = record.made + max(0, record.spec.replicas - len(record.replicas))
    new = tuple(Replica(number) for number in range(record.made, made))
    return replace(record, replicas=record.replicas + new, made=made)


def _text(adapter: TypeAdapter[R], record: R) -> str:
    return adapter.dump_json(record).decode()


def _require_move(key: object, old: JobStatus | ServingStatus, new: object, allowed: Iterable[object]) -> None:
    if new not in allowed:
        raise IllegalMoveError(f"{key} cannot go from {old} to {new}")
    log.info("%s is %s", key, getattr(new, "value", new))
