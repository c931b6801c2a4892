"""All jobs and servings, and the ledger of requests: the only place that changes records.

Records are frozen. A change replaces a record as a whole, under a lock, and writes it to the store. So a reader gets a
consistent record from any thread, and a restarted emulator continues where the last one ended. All times are
milliseconds since the epoch; 0 means not yet.
"""

from __future__ import annotations

import logging
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.state.errors import Conflict, NotFound
from airflow_bitahub.emulator.state.records import (
    JobKey,
    LedgerEntry,
    LoggedRequest,
    ServingKey,
    StoredJob,
    StoredServing,
)
from airflow_bitahub.emulator.state.store import Store

log = logging.getLogger(__name__)

_ALPHANUMERICS = string.ascii_letters + string.digits
_MAX_LOGGED_QUERIES = 1000  # GET requests per job in the ledger

KeyT = TypeVar("KeyT", JobKey, ServingKey)
RecordT = TypeVar("RecordT", StoredJob, StoredServing)

_JOB = TypeAdapter(StoredJob)
_SERVING = TypeAdapter(StoredServing)


class State:
    """All jobs and servings, in memory and in a store; safe to use from any thread.

    :param clock: returns seconds since the epoch
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._store = Store()
        self._lock = threading.RLock()
        self._jobs: dict[JobKey, StoredJob] = {}
        self._servings: dict[ServingKey, StoredServing] = {}
        self._ledger: list[LedgerEntry] = []
        self._latest: dict[JobKey, LedgerEntry] = {}

    def restore(self, store: Store) -> None:
        """Read everything from a store, and write every later change to it. Only for a state that is still empty."""
        self._store = store
        for number, text, removed in self._store.jobs():
            record = _JOB.validate_json(text)
            requests = [LoggedRequest(*request) for request in self._store.requests(number)]
            entry = self._latest[record.key] = LedgerEntry(number, record, removed, requests)
            self._ledger.append(entry)
            if not removed:
                self._jobs[record.key] = record
        for text in self._store.servings():
            serving = _SERVING.validate_json(text)
            self._servings[serving.key] = serving

    def now(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    # Jobs

    def create_job(self, namespace: str, spec: JobSpec, user: str = "") -> StoredJob:
        """Record a new job, submitted by `user`, if one has signed in. Raises Conflict when its name is in use."""
        key = JobKey(namespace, spec.job_name)
        with self._lock:
            self.require_unused(key)
            record = StoredJob.create(key, spec, self.now(), user)
            self._latest[key] = LedgerEntry(self._store.add_job(_text(_JOB, record)), record)
            self._ledger.append(self._latest[key])
            return self._put_job(record)

    def require_unused(self, key: JobKey | ServingKey) -> None:
        """Raise Conflict when there is a job or serving of this name."""
        with self._lock:
            if key in self._jobs or key in self._servings:
                raise Conflict(f"{key} exists already")

    def job(self, key: JobKey) -> StoredJob:
        """Return a job's record. Raises NotFound when there is none."""
        return self._get(self._jobs, key)

    def jobs(self, namespace: str | None = None) -> list[StoredJob]:
        """Return the records of one namespace or of all, newest first."""
        return self._newest_first(self._jobs.values(), namespace)

    def set_job_message(self, key: JobKey, message: str) -> None:
        """Record what a job waits for."""
        with self._lock:
            self._put_job(replace(self.job(key), message=message))

    def launch_job(self, key: JobKey) -> StoredJob:
        """Record that a job's programs have started."""
        with self._lock:
            return self._put_job(self.job(key).launch(self.now()))

    def finish_task(self, key: JobKey, role: str, index: int, exit_code: int) -> None:
        """Record that one of a job's programs has ended."""
        with self._lock:
            self._put_job(self.job(key).finish_task(role, index, exit_code, self.now()))

    def restart_job(self, key: JobKey, message: str) -> StoredJob:
        """Record that a job's programs have failed and will run again."""
        with self._lock:
            return self._put_job(self.job(key).restart(message, self.now()))

    def stop_job(self, key: JobKey) -> bool:
        """Record that a job was asked to stop. Return False if it is already stopping or has ended."""
        with self._lock:
            record = self.job(key)
            if record.can_stop:
                self._put_job(record.stop(self.now()))
            return record.can_stop

    def finish_job(self, key: JobKey, exit_code: int | None, message: str) -> StoredJob:
        """Record that all of a job's programs have ended. A job that was asked to stop is STOPPED, however it ended.

        :param exit_code: 0: succeeded; None: it never ran
        """
        with self._lock:
            return self._put_job(self.job(key).finish(exit_code, message, self.now()))

    def refuse_job(self, key: JobKey, message: str) -> StoredJob:
        """Record that a job can never run, since it needs more than the emulator has."""
        with self._lock:
            return self._put_job(self.job(key).refuse(message, self.now()))

    def remove_job(self, key: JobKey) -> None:
        """Remove a job; the ledger keeps it. Raises NotFound when there is none."""
        with self._lock:
            self.job(key)
            del self._jobs[key]
            entry = self._latest[key]
            entry.removed = self.now()
            self._store.update_job(entry.number, _text(_JOB, entry.record), entry.removed)

    # Servings

    def create_serving(self, namespace: str, spec: ServingSpec) -> StoredServing:
        """Record a new serving, with a random access token. Raises Conflict when its name and version are in use."""
        key = ServingKey(namespace, spec.name, spec.version)
        token = "".join(secrets.choice(_ALPHANUMERICS) for _ in range(32))
        with self._lock:
            self.require_unused(key)
            return self._put_serving(StoredServing.create(key, spec, token, self.now()))

    def serving(self, key: ServingKey) -> StoredServing:
        """Return a serving's record. Raises NotFound when there is none."""
        return self._get(self._servings, key)

    def servings(self, namespace: str | None = None) -> list[StoredServing]:
        """Return the records of one namespace or of all, newest first."""
        return self._newest_first(self._servings.values(), namespace)

    def set_serving_url(self, key: ServingKey, url: str) -> None:
        """Record the address of a serving; its programs may not answer yet."""
        with self._lock:
            self._put_serving(replace(self.serving(key), url=url))

    def set_replica_message(self, key: ServingKey, number: int, message: str) -> None:
        """Record what a replica waits for."""
        self._change_replica(key, number, message=message)

    def launch_replica(self, key: ServingKey, number: int, port: int) -> None:
        """Record that a replica's program was started; it may not listen on its port yet."""
        self._change_replica(key, number, status=ServingStatus.RUNNING, port=port, message="")

    def restart_replica(self, key: ServingKey, number: int, restarts: int, message: str) -> None:
        """Record that a replica's program has ended and will be restarted.

        :param restarts: how often it will then have been restarted
        """
        self._change_replica(key, number, status=ServingStatus.WAITING, restarts=restarts, message=message)

    def fail_replica(self, key: ServingKey, number: int, message: str) -> None:
        """Record that a replica's program has ended and will not be restarted."""
        self._change_replica(key, number, status=ServingStatus.FAILED, message=message)

    def update_serving(self, key: ServingKey, spec: ServingSpec) -> StoredServing:
        """Record a serving's new specification.

        If only the number of replicas differs, the remaining replicas stay as they are; otherwise all are replaced. A
        serving that has ended is not started.
        """
        with self._lock:
            old = self.serving(key)
            new = old.update(spec, self.now())
            return old if new is old else self._put_serving(new)

    def start_serving(self, key: ServingKey) -> bool:
        """Record that a serving that had ended starts again. Return False if it has not ended."""
        with self._lock:
            record = self.serving(key)
            if record.status.is_terminal:
                self._put_serving(record.start(self.now()))
            return record.status.is_terminal

    def stop_serving(self, key: ServingKey) -> bool:
        """Record that a serving was asked to stop. Return False if it is already stopping or has ended."""
        with self._lock:
            record = self.serving(key)
            if record.can_stop:
                self._put_serving(record.stop(self.now()))
            return record.can_stop

    def finish_serving(self, key: ServingKey, message: str) -> StoredServing:
        """Record that none of a serving's programs runs any more: STOPPED if it was asked to stop, otherwise FAILED.

        :param message: why the replicas failed that have not ended yet
        """
        with self._lock:
            return self._put_serving(self.serving(key).finish(message, self.now()))

    def remove_serving(self, key: ServingKey) -> None:
        """Remove a serving. Raises NotFound when there is none."""
        with self._lock:
            self.serving(key)
            del self._servings[key]
            self._store.remove_serving(str(key))

    # The ledger

    def log_request(self, key: JobKey, method: str, path: str, status: int, *, reached: bool) -> None:
        """Add a request about a job to the ledger. Requests for names that never existed are not recorded."""
        with self._lock:
            entry = self._latest.get(key)
            if entry is not None and (method != "GET" or len(entry.requests) < _MAX_LOGGED_QUERIES):
                request = LoggedRequest(self.now(), method, path, status, reached)
                entry.requests.append(request)
                self._store.add_request(entry.number, request.time, method, path, status, reached)

    def ledger(self) -> list[LedgerEntry]:
        """Return every job that ever existed, oldest first, with the requests about it."""
        with self._lock:
            return [replace(entry, requests=list(entry.requests)) for entry in self._ledger]

    # Every change goes through these

    def _put_job(self, record: StoredJob) -> StoredJob:
        _log_status(self._jobs.get(record.key), record)
        self._jobs[record.key] = record
        entry = self._latest[record.key]
        entry.record = record
        self._store.update_job(entry.number, _text(_JOB, record), removed=0)
        return record

    def _put_serving(self, record: StoredServing) -> StoredServing:
        old = self._servings.get(record.key, record)
        _log_status(old, record)
        self._servings[record.key] = record = replace(record, usage=old.usage_at(self.now()))
        self._store.put_serving(str(record.key), _text(_SERVING, record))
        return record

    def _change_replica(self, key: ServingKey, number: int, **changes: Any) -> None:
        with self._lock:
            self._put_serving(self.serving(key).change_replica(number, self.now(), **changes))

    def _get(self, records: Mapping[KeyT, RecordT], key: KeyT) -> RecordT:
        with self._lock:
            if key not in records:
                raise NotFound(f"there is no {key}")
            return records[key]

    def _newest_first(self, records: Iterable[RecordT], namespace: str | None) -> list[RecordT]:
        with self._lock:
            found = [record for record in records if namespace is None or record.key.namespace == namespace]
        return found[::-1]


def _text(adapter: TypeAdapter[RecordT], record: RecordT) -> str:
    return adapter.dump_json(record).decode()


def _log_status(old: StoredJob | StoredServing | None, new: StoredJob | StoredServing) -> None:
    if old is not None and old.status is not new.status:
        log.info("%s is %s", new.key, new.status.value)
