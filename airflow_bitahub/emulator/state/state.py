"""All jobs and servings, and the ledger of requests: the only place that changes records.

Records are frozen. A change writes a record to the store and then replaces it as a whole, under a lock. So a reader
gets a consistent record from any thread, and a restarted emulator continues where the last one ended. A change that
cannot be written has not happened, and raises NotWritten. All times are milliseconds since the epoch; 0 means not yet.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.state.clock import SteadyClock
from airflow_bitahub.emulator.state.errors import Conflict, InvalidRequest, NotFound, NotWritten
from airflow_bitahub.emulator.state.records import (
    JobKey,
    LedgerEntry,
    LoggedRequest,
    ServingKey,
    StoredJob,
)
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.emulator.state.store import Store

log = logging.getLogger(__name__)

_ALPHANUMERICS = string.ascii_letters + string.digits
_MAX_LOOKS = 1000  # requests per job in the ledger that could change nothing

KeyT = TypeVar("KeyT", JobKey, ServingKey)
RecordT = TypeVar("RecordT", StoredJob, StoredServing)

_JOB = TypeAdapter(StoredJob)
_SERVING = TypeAdapter(StoredServing)


class State:
    """All jobs and servings, in memory and in a store; safe to use from any thread.

    :param clock: returns seconds since the epoch; the state's own time never goes back
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = SteadyClock(clock)
        self._store = Store()
        self._lock = threading.RLock()
        self._jobs: dict[JobKey, StoredJob] = {}
        self._servings: dict[ServingKey, StoredServing] = {}
        self._ledger: list[LedgerEntry] = []
        self._latest: dict[JobKey, LedgerEntry] = {}

    def restore(self, store: Store) -> None:
        """Read everything from a store, and write every later change to it. Only for a state that is still empty.

        A record that cannot be read is skipped, and stays in the store.
        """
        self._store = store
        for number, text, removed, forgotten in self._store.jobs():
            record = _read(_JOB, text, f"job number {number}")
            if record is None:
                continue
            requests = [LoggedRequest(*request) for request in self._store.requests(number)]
            entry = self._latest[record.key] = LedgerEntry(number, record, removed, requests, forgotten)
            self._ledger.append(entry)
            if not removed:
                self._jobs[record.key] = record
        for key, text in self._store.servings():
            if (serving := _read(_SERVING, text, key)) is not None:
                self._servings[serving.key] = serving

    def now(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    # Jobs

    def create_job(self, namespace: str, spec: JobSpec, user: str = "", task_url: str = "") -> StoredJob:
        """Record a new job, submitted by `user`, if one has signed in. Raises Conflict when its name is in use."""
        key = JobKey(namespace, spec.job_name)
        with self._lock:
            self.require_unused(key)
            record = StoredJob.create(key, spec, self.now(), user, task_url)
            number = self._store.add_job(_readable_text(_JOB, record))
            self._latest[key] = LedgerEntry(number, record)
            self._ledger.append(self._latest[key])
            self._jobs[key] = record
            return record

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
            entry, removed = self._latest[key], self.now()
            self._store.update_job(entry.number, _text(_JOB, entry.record), removed)
            entry.removed = removed
            del self._jobs[key]

    # Servings

    def create_serving(self, namespace: str, spec: ServingSpec, task_url: str = "") -> StoredServing:
        """Record a new serving, with a random access token. Raises Conflict when its name and version are in use."""
        key = ServingKey(namespace, spec.name, spec.version)
        token = "".join(secrets.choice(_ALPHANUMERICS) for _ in range(32))
        with self._lock:
            self.require_unused(key)
            record = StoredServing.create(key, spec, token, self.now(), task_url)
            _readable_text(_SERVING, record)
            return self._put_serving(record)

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

    def launch_replica(self, key: ServingKey, number: int, port: int, message: str = "") -> None:
        """Record that a replica's program was started; it does not listen on its port yet.

        :param message: what the replica says until then
        """
        changes = {"port": port, "is_ready": False, "message": message}
        self._change_replica(key, number, status=ServingStatus.RUNNING, **changes)

    def set_replica_ready(self, key: ServingKey, number: int) -> None:
        """Record that a replica's program listens."""
        self._change_replica(key, number, is_ready=True, message="")

    def restart_replica(self, key: ServingKey, number: int, restarts: int, exit_code: int | None, message: str) -> None:
        """Record that a replica's program has ended and will be restarted.

        :param restarts: how often it will then have been restarted
        """
        changes = {"is_ready": False, "restarts": restarts, "exit_code": exit_code, "message": message}
        self._change_replica(key, number, status=ServingStatus.WAITING, **changes)

    def fail_replica(self, key: ServingKey, number: int, exit_code: int | None, message: str) -> None:
        """Record that a replica's program has ended and will not be restarted.

        :param exit_code: None: it never ran
        """
        changes = {"is_ready": False, "exit_code": exit_code, "message": message}
        self._change_replica(key, number, status=ServingStatus.FAILED, **changes)

    def remove_replica(self, key: ServingKey, number: int) -> None:
        """Record that a replica has ended that its serving goes on without."""
        with self._lock:
            self._put_serving(self.serving(key).remove_replica(number, self.now()))

    def update_serving(self, key: ServingKey, spec: ServingSpec, *, rolling: bool, task_url: str = "") -> StoredServing:
        """Record a serving's new specification, and the first step towards it; see `StoredServing.update`."""
        with self._lock:
            old = self.serving(key)
            new = old.update(spec, self.now(), rolling=rolling)
            if task_url and new is not old:
                new = replace(new, task_url=task_url)
            _readable_text(_SERVING, new)
            return old if new is old else self._put_serving(new)

    def advance_serving(self, key: ServingKey, *, rolling: bool) -> StoredServing:
        """Record the next step of a serving towards its specification, if any; see `StoredServing.advance`."""
        with self._lock:
            old = self.serving(key)
            new = old.advance(self.now(), rolling=rolling)
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
            self._store.remove_serving(str(key))
            del self._servings[key]

    # The ledger

    def log_request(self, key: JobKey, method: str, path: str, status: int, *, reached: bool) -> None:
        """Add a request about a job to the ledger. Requests for names that never existed are not recorded.

        Of the requests that could change nothing, only the latest are kept and the others counted. A request that
        cannot be written is left out: it has its answer, and an error about the ledger would say something else.
        """
        with self._lock, contextlib.suppress(NotWritten):
            if (entry := self._latest.get(key)) is None:
                return
            request = LoggedRequest(0, self.now(), method, path, status, reached)
            looks = [one for one in entry.requests if one.is_look] if request.is_look else []
            oldest = looks[0] if len(looks) >= _MAX_LOOKS else None
            forget = None if oldest is None else oldest.number
            number = self._store.add_request(entry.number, request.time, method, path, status, reached, forget)
            if oldest is not None:
                entry.requests.remove(oldest)
                entry.forgotten += 1
            entry.requests.append(replace(request, number=number))

    def ledger(self) -> list[LedgerEntry]:
        """Return every job that ever existed, oldest first, with the requests about it."""
        with self._lock:
            return [replace(entry, requests=list(entry.requests)) for entry in self._ledger]

    def ledger_entry(self, key: JobKey) -> LedgerEntry:
        """Return the latest job of a name, also one that was removed. Raises NotFound when there never was one."""
        with self._lock:
            if (entry := self._latest.get(key)) is None:
                raise NotFound(f"there is no {key}")
            return replace(entry, requests=list(entry.requests))

    # Every change goes through these

    def _put_job(self, record: StoredJob) -> StoredJob:
        entry = self._latest[record.key]
        self._store.update_job(entry.number, _text(_JOB, record), removed=0)
        _log_status(self._jobs.get(record.key), record)
        self._jobs[record.key] = entry.record = record
        return record

    def _put_serving(self, record: StoredServing) -> StoredServing:
        old = self._servings.get(record.key, record)
        record = replace(record, usage=old.usage_at(self.now()))
        self._store.put_serving(str(record.key), _text(_SERVING, record))
        _log_status(old, record)
        self._servings[record.key] = record
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


def _readable_text(adapter: TypeAdapter[RecordT], record: RecordT) -> str:
    """Return the text of a record. Raises InvalidRequest for one that a later emulator could not read again."""
    try:
        text = _text(adapter, record)
        adapter.validate_json(text)
    except ValueError as error:  # pydantic's errors are ValueErrors
        raise InvalidRequest(f"the emulator cannot record this: {str(error).splitlines()[0]}") from None
    return text


def _read(adapter: TypeAdapter[RecordT], text: str, what: str) -> RecordT | None:
    """Return the record in a text; None, and an error in the log, if it cannot be read."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input may hold a token
        words = "the record of %s cannot be read (%s: %s); it is skipped, and kept in the file"
        log.error(words, what, first["loc"], first["msg"])
        return None


def _log_status(old: StoredJob | StoredServing | None, new: StoredJob | StoredServing) -> None:
    if old is not None and old.status is not new.status:
        log.info("%s is %s", new.key, new.status.value)
