"""Several calls in order: retrying, waiting, ending, and the two that make things happen exactly once.

Every one is a generator that knows no server, loop or clock of its own (see `protocol.py`), so each is tested by
stepping it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from airflow_bitahub.api.jobs import Job, JobSpec, JobStatus, get_job, list_jobs, stop_job, submit_job
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import (
    Serving,
    ServingSpec,
    ServingStatus,
    create_serving,
    delete_serving,
    get_serving,
    probe_serving,
    stop_serving,
)
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConflictError,
    ConnectFailedError,
    JobAliveError,
    JobLostError,
    JobQueueTimeoutError,
    JobRefusedError,
    JobStoppedError,
    JobTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    ServingFailedError,
    ServingRefusedError,
    ServingTimeoutError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, ServingRecord, TaskIdentity, digest

T = TypeVar("T")

# Trouble that passes by itself. RateLimitError and ConnectFailedError also say that nothing has happened.
PASSING = (TransportError, ServerError, RateLimitError)
_NO_EFFECT = (RateLimitError, ConnectFailedError)

# How long a record may stay invisible after its creation (assumed: the platform's state goes through a queue and a
# database), and how long an unreachable platform is ridden out while waiting, in seconds.
GRACE = 30.0
PATIENCE = 900.0
_SUBMISSIONS = 3


@dataclass(frozen=True)
class Retry:
    """How often and how long to repeat what is safe to repeat.

    :param attempts: requests at most, the first included
    :param first: seconds before the second; doubled each time, and up to half of it taken off at random
    :param longest: seconds between two at most, also where the platform's ``Retry-After`` asks for more
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 60.0


def retrying(call: Call[T], retry: Retry, jitter: Callable[[], float] = random.random) -> Procedure[T]:
    """Send a call until it is answered, where sending it again does no harm."""
    attempt = 1
    while True:
        try:
            return (yield from call)
        except BitaHubError as error:
            harmless = isinstance(error, _NO_EFFECT) or (call.safe_to_repeat and isinstance(error, PASSING))
            # Whether a served program answers is the very question when it is probed.
            if call.request.is_foreign or not harmless or attempt >= retry.attempts:
                raise
            pause = min(retry.longest, retry.first * 2 ** (attempt - 1)) * (1 - jitter() / 2)
            asked = getattr(error, "retry_after", None)
            yield Sleep(pause if asked is None else min(asked, retry.longest))
            attempt += 1


def wait_for_job(
    name: str,
    *,
    poll_interval: float,
    longest_poll_interval: float = 0,
    deadline: float | None = None,
    queue_deadline: float | None = None,
    patience: float = PATIENCE,
    grace: float | None = GRACE,
    on_change: Callable[[Job], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[Job]:
    """Wait until a job is over, however it ends, and give it.

    :param poll_interval: seconds between two looks
    :param longest_poll_interval: a job waited for so long that its twentieth part is more than `poll_interval` is
        looked at so seldom, up to this; 0: no less often
    :param deadline: seconds since the epoch, since it must mean the same in another process; None: no limit
    :param queue_deadline: likewise, for its beginning
    :param patience: seconds for which the platform may be unreachable
    :param grace: seconds for which the platform may deny the job before that is believed; None: for ever
    :param on_change: told of the job whenever the platform's word for its state is a new one
    :raises JobTimeoutError: it was not over by the deadline
    :raises JobQueueTimeoutError: it still waited for its turn at its deadline
    :raises JobLostError: the platform says for longer than the grace period that it has no such job
    :raises TransportError: the platform could not be asked for longer than the patience
    :raises BitaHubError: it refuses to be asked
    """
    job: Job | None = None
    look = get_job(name)
    trouble = _Trouble(grace, patience)
    has_begun = False
    start = clock()
    while True:
        try:
            seen = yield from look
        except (*PASSING, NotFoundError, AuthenticationError) as error:
            # A failed poll says nothing about the job. A token that was good before may be renewed.
            if isinstance(error, AuthenticationError) and job is None:
                raise
            if trouble.exceeds(error, clock()):
                if isinstance(error, NotFoundError):
                    raise _lost(name) from error
                raise TransportError(
                    f"The platform could not be asked about job {name!r} for {patience:.0f} s{trouble}. {_last(job)}"
                ) from error
        else:
            trouble.end()
            if job is None or seen.word != job.word:
                look = get_job(name, seen)
                if on_change is not None:
                    on_change(seen)
            job = seen
            if job.status.is_terminal:
                return job
            has_begun = has_begun or job.status is JobStatus.RUNNING or job.started_at is not None
            is_queued = job.status is JobStatus.WAITING and not has_begun
            # Only what was said just now may be the end of a job.
            if queue_deadline is not None and is_queued and clock() >= queue_deadline:
                raise JobQueueTimeoutError(f"Job {name!r} did not begin in time. {_last(job)}", name)
        now = clock()
        if deadline is not None and now >= deadline:
            raise JobTimeoutError(f"Job {name!r} was not over in time{trouble}. {_last(job)}", name)
        pause = max(poll_interval, min(longest_poll_interval, (now - start) / 20))
        yield Sleep(_shortened(pause, now, deadline, None if has_begun else queue_deadline))


def _shortened(pause: float, now: float, *limits: float | None) -> float:
    """Give the seconds to sleep where a limit may come first."""
    return min([pause, *(limit - now for limit in limits if limit is not None and limit > now)])


def _last(job: Job | None) -> str:
    return "It was never seen." if job is None else f"When last seen, {job}."


@dataclass
class _Trouble:
    """For how long polls have failed in a row: unanswered, and answered with "no such thing", each for itself."""

    grace: float | None
    patience: float = PATIENCE
    unanswered_since: float | None = None
    missing_since: float | None = None
    error: BitaHubError | None = None

    def end(self) -> None:
        """Note a poll that did not fail."""
        self.unanswered_since = self.missing_since = self.error = None

    def exceeds(self, error: BitaHubError, now: float) -> bool:
        """Note a failed poll; tell whether there have been such for too long."""
        self.error = error
        if isinstance(error, NotFoundError):
            self.unanswered_since = None
            self.missing_since = now if self.missing_since is None else self.missing_since
            return self.grace is not None and now - self.missing_since >= self.grace
        self.unanswered_since = now if self.unanswered_since is None else self.unanswered_since
        if self.grace is not None and now - self.unanswered_since >= self.grace:
            self.missing_since = None  # after so long a denial is a new one
        return now - self.unanswered_since >= self.patience

    def __str__(self) -> str:
        return f" (the last answer: {self.error})" if self.error else ""


def list_all_jobs(page_size: int = 500) -> Procedure[list[Job]]:
    """Give all jobs of the namespace, page by page; a platform that knows no pages gives them all on the first."""
    found: dict[str, Job] = {}
    page = 1
    while True:
        jobs = yield from list_jobs(page, page_size)
        new = {job.name: job for job in jobs if job.name not in found}
        found.update(new)
        if not new:
            return list(found.values())
        page += 1


def end_job(
    name: str,
    *,
    wait: bool = True,
    may_appear: bool = False,
    timeout: float = 120,
    clock: Callable[[], float] = time.time,
) -> Procedure[Job | None]:
    """Make sure that a job is over; give it, or None when the platform has none.

    It is looked at before it is stopped, since stopping a job that is over may erase its record.

    :param wait: stay until it is over; otherwise leave once it is being stopped
    :param may_appear: its submission may still be on its way, so stay for the grace period before believing in None
    :param timeout: seconds
    :raises JobAliveError: it is still alive after that time
    """
    start = clock()
    stopping = False
    while True:
        try:
            job = yield from get_job(name)
            stopping = stopping or job.status is JobStatus.STOPPING
            if job.status.is_terminal:
                return job
            if not stopping:
                yield from stop_job(name)
                stopping = True
            if not wait:
                return job
        except NotFoundError:
            if not may_appear or clock() - start >= GRACE:
                return None
        except (AuthenticationError, PermissionDeniedError):
            raise
        except (APIError, TransportError) as error:
            # Whether the stop took effect is unknown, or the job was over just before it; the next look tells.
            if clock() - start >= timeout:
                raise JobAliveError(f"Job {name!r} could not be stopped: {error}", name) from error
        if clock() - start >= timeout:
            raise JobAliveError(f"Job {name!r} is still alive {timeout:.0f} s after it was asked to stop.", name)
        yield Sleep(1)


def ensure_job(
    task: TaskIdentity,
    record: JobRecord | None,
    *,
    spec_for: Callable[[JobRecord], JobSpec],
    save: Callable[[JobRecord], None],
    resubmit_stopped: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[tuple[Job, JobRecord]]:
    """Give the one job of a task instance: found again where there is one, submitted where there is none.

    :param task: what the task instance knows of itself now
    :param record: what its last try wrote down, if any
    :param spec_for: makes the submission for a record
    :param save: writes a record down; called before anything is sent under its name
    :param resubmit_stopped: treat a job that somebody else stopped like one that failed
    :raises JobStoppedError: somebody else stopped it
    :raises JobLostError: the platform had it and no longer knows it
    :raises JobRefusedError: the wished-for name belongs to a job this task did not submit
    """
    submission = _Submission(task, spec_for, save, extra_body, clock)
    if record is None:
        return (yield from submission.send(task.first_attempt(None)))
    if task.is_new_generation(record):
        if not record.refused:
            # Should this try die now, the next must not take the record for its own: that counts on the first only.
            save(replace(record, closed=True))
            yield from end_job(record.job_name, may_appear=not record.confirmed, clock=clock)
        return (yield from submission.send(task.first_attempt(record)))
    if record.refused:
        return (yield from submission.send(task.next_attempt(record)))

    # Airflow does not raise max_tries for a clear of a running task whose scheduler dies. Who stopped the job is then
    # most likely the worker, which can no longer write it down once its task is cleared.
    may_be_cleared = task.clear_number != record.clear_number
    record = task.refresh(record)
    job = yield from _look(get_job(record.job_name), 0 if record.confirmed else GRACE, clock)
    if job is None and not record.confirmed:
        record = replace(record, stopped=False)
        save(record)
        return (yield from submission.post(record))
    if job is not None:
        record = replace(record, confirmed=True)
        save(record)
        if record.stopped and not job.status.is_terminal:
            job = yield from end_job(job.name, clock=clock)  # a stop of ours that did not get through
    return (yield from submission.resume(record, job, resubmit_stopped or may_be_cleared))


def ensure_serving(
    spec: ServingSpec,
    *,
    load: Callable[[], ServingRecord | None],
    save: Callable[[ServingRecord], None],
    if_exists: Literal["replace", "fail"] = "replace",
    clock: Callable[[], float] = time.time,
) -> Procedure[tuple[Serving, ServingRecord | None]]:
    """Give the serving of a specification, our own where it runs already.

    With it comes what was written down, if it was created for this task or never got ready, so that it is to be stopped
    should the task fail; None otherwise.

    :param load: gives what was written down when this deployment last created a serving of this name, if ever
    :param save: writes that down; called before anything is sent
    :param if_exists: what to do with our own serving of the same name but another specification
    :raises ServingRefusedError: one of this name exists that is not ours, or that is not to be replaced
    :raises ServingFailedError: somebody else created one at the same moment
    """
    record, wanted = load(), digest(spec.body())
    unsettled = record is not None and record.since is not None
    looking = get_serving(spec.name, spec.version)
    found = yield from _look(looking, GRACE if unsettled else 0, clock)
    if load() != record:
        raise _overtaken(spec.name)
    if found is not None:
        if record is None or not record.owns(found.created_at):
            raise ServingRefusedError(
                f"A serving named {spec.name!r} (version {spec.version!r}) exists that this Airflow did not create, so "
                f"it is left alone. Choose another serving_name, or remove it on the platform.",
                spec.name,
            )
        same = record.digest == wanted and record.describes(found.created_at)
        if same and not found.status.is_ending:
            own = ServingRecord(wanted, found.created_at, ready=record.ready and not unsettled)
            save(own)
            return found, None if own.ready else own
        begun = unsettled and not record.describes(found.created_at)  # an earlier try was about to replace it
        if if_exists == "fail" and not (same or begun):
            raise ServingRefusedError(
                f"Serving {spec.name!r} (version {spec.version!r}) exists with another specification, and "
                f"if_exists='fail'. Remove it, choose another serving_name, or set if_exists='replace'.",
                spec.name,
            )
    intent = ServingRecord(wanted, found.created_at if found else None, since=clock())
    save(intent)
    if found is not None:
        yield from end_serving(found, spec.version, clock=clock)
    creation = _Creation(spec, intent, load, save, clock)
    return (yield from creation.post(new=not unsettled))


@dataclass(frozen=True)
class _Creation:
    """The part of `ensure_serving` that sends."""

    spec: ServingSpec
    intent: ServingRecord
    load: Callable[[], ServingRecord | None]
    save: Callable[[ServingRecord], None]
    clock: Callable[[], float]

    def post(self, *, new: bool) -> Procedure[tuple[Serving, ServingRecord]]:
        """Create until the platform has it; an unknown outcome is settled by looking."""
        looking = get_serving(self.spec.name, self.spec.version)
        had_effect = not new  # may have had
        for attempt in range(1, _SUBMISSIONS + 1):
            accepted = False
            try:
                yield from create_serving(self.spec)
                accepted = True
            except ConflictError as error:
                if new and attempt == 1:
                    raise self._give_up() from error
            except RateLimitError:
                if not had_effect:
                    self._forget()
                raise
            except (APIError, TransportError) as error:
                had_effect = had_effect or (_is_unsettled(error) and not isinstance(error, ConnectFailedError))
                if (yield from _look(looking, _settling(error), self.clock)) is None:
                    if _is_unsettled(error) and attempt < _SUBMISSIONS:
                        continue
                    if not (_is_unsettled(error) and had_effect):
                        self._forget()
                    raise
            break
        serving = yield from _look(looking, GRACE, self.clock)
        if serving is None:
            raise ServingFailedError(
                f"The platform accepted serving {self.spec.name!r} but does not show it. Try again later.",
                self.spec.name,
            )
        # Some platforms may tell the time of creation only later.
        since = self.intent.since if serving.created_at is None else None
        own = ServingRecord(self.intent.digest, serving.created_at, since)
        if self._is_replaced(serving) or not (accepted or self.intent.describes(serving.created_at)):
            raise self._give_up()
        self.save(own)
        return serving, own

    def _is_replaced(self, serving: Serving) -> bool:
        """Tell by our note whether another task has replaced, or is about to replace, what this one has created.

        A note of one that saw no more than this task did will be told that the name is taken, so it does not count.
        """
        note = self.load()
        if note is None or note == self.intent:
            return False
        if note.since is not None:
            return note.created_at not in (None, self.intent.created_at)
        return note.describes(serving.created_at) and note.digest != self.intent.digest

    def _give_up(self) -> ServingFailedError:
        self._forget()
        return _overtaken(self.spec.name)

    def _forget(self) -> None:
        """Note that nothing there is ours, unless another task has overwritten our note with one of its serving."""
        if self.load() == self.intent:
            self.save(ServingRecord(digest=""))


def wait_for_serving(
    name: str,
    version: str,
    *,
    poll_interval: float,
    readiness_path: str = "/",
    created_at: float | None = None,
    deadline: float | None = None,
    grace: float | None = GRACE,
    on_change: Callable[[Serving], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[Serving]:
    """Wait until the platform says RUNNING *and* the served program answers, since either may come first.

    :param readiness_path: where the program is asked; see `probe_serving`
    :param created_at: which of several servings that had this name one after the other is meant; None: any
    :raises ServingFailedError: the platform says that it failed or was stopped, or it was replaced by another
    :raises ServingTimeoutError: it was not ready by the deadline
    :raises BitaHubError: the platform could not be asked for longer than the patience, or refuses to be asked
    """
    word: str | None = None
    trouble = _Trouble(grace)
    last = "was never seen"
    while True:
        try:
            serving = yield from get_serving(name, version)
        except (*PASSING, NotFoundError) as error:
            if trouble.exceeds(error, clock()):
                raise
        else:
            trouble.end()
            if serving.word != word:
                word, last = serving.word, str(serving)
                if on_change is not None:
                    on_change(serving)
            if created_at is not None and serving.created_at != created_at:
                raise ServingFailedError(f"Serving {name!r} was replaced by another deployment while it started.", name)
            if serving.status.is_terminal:
                raise ServingFailedError(f"The {serving}. Its log on the platform tells why.", name)
            if serving.status is ServingStatus.RUNNING and (yield from _answers(serving, readiness_path)):
                return serving
        now = clock()
        if deadline is not None and now >= deadline:
            raise ServingTimeoutError(
                f"Serving {name!r} was not ready in time (RUNNING, and answering at {readiness_path!r}); when last "
                f"seen, {last}.",
                name,
            )
        yield Sleep(_shortened(poll_interval, now, deadline))


def stop_own_serving(
    name: str,
    version: str,
    is_own: Callable[[float | None], bool],
    *,
    grace: float = 0,
    clock: Callable[[], float] = time.time,
) -> Procedure[None]:
    """Stop a serving, unless somebody else's stands in its place by now.

    :param is_own: tells by the time of its creation whether it is the one that is meant
    :param grace: seconds to wait for one whose creation may still be on its way
    """
    found = yield from _look(get_serving(name, version), grace, clock)
    if found is not None and not found.status.is_ending and is_own(found.created_at):
        yield from stop_serving(name, version)


def end_serving(
    serving: Serving, version: str, *, timeout: float = 120, clock: Callable[[], float] = time.time
) -> Procedure[None]:
    """Remove a serving and wait until the platform no longer has it, or has another in its place.

    :raises ServingTimeoutError: it is still there after `timeout` seconds
    """
    start, name = clock(), serving.name
    removing = False
    while True:
        try:
            found = yield from get_serving(name, version)
            if found.created_at != serving.created_at:
                return
            if not removing:
                yield from delete_serving(name, version)
                removing = True
        except NotFoundError:
            return
        except (AuthenticationError, PermissionDeniedError):
            raise
        except (APIError, TransportError) as error:
            # Whether the removal took effect is unknown; the next look tells.
            if clock() - start >= timeout:
                raise ServingTimeoutError(f"Serving {name!r} could not be removed: {error}", name) from error
        if clock() - start >= timeout:
            raise ServingTimeoutError(f"Serving {name!r} is still there {timeout:.0f} s after its removal.", name)
        yield Sleep(1)


def _answers(serving: Serving, path: str) -> Procedure[bool]:
    if not serving.url:
        return False
    try:
        return (yield from probe_serving(serving, path))
    except TransportError:
        return False


@dataclass(frozen=True)
class _Submission:
    """The part of `ensure_job` that sends."""

    task: TaskIdentity
    spec_for: Callable[[JobRecord], JobSpec]
    save: Callable[[JobRecord], None]
    extra_body: Mapping[str, Any] | None
    clock: Callable[[], float]

    def resume(self, record: JobRecord, job: Job | None, resubmit_stopped: bool) -> Procedure[tuple[Job, JobRecord]]:
        """Go on from a job the platform has confirmed; None: it no longer has it."""
        if job is None:
            if not record.stopped:
                raise _lost(record.job_name)
        elif job.status.is_successful or not job.status.is_terminal:
            return job, record
        elif job.status is JobStatus.STOPPED and not (record.stopped or resubmit_stopped):
            raise JobStoppedError(
                f"Job {job.name!r} was stopped by somebody else, so it is not submitted again. Clear the task to run "
                f"it again, or set resubmit_stopped=True.",
                job.name,
            )
        return (yield from self.send(self.task.next_attempt(record)))

    def send(self, record: JobRecord) -> Procedure[tuple[Job, JobRecord]]:
        """Submit under a name that was never used before."""
        self.spec_for(record)  # what cannot be sent must not be written down
        if self.task.job_name:
            found = yield from _look(get_job(record.job_name), 0, self.clock)
            if found is not None:
                raise _refused(record.job_name)
        self.save(record)
        return (yield from self.post(record, new=True))

    def post(self, record: JobRecord, *, new: bool = False) -> Procedure[tuple[Job, JobRecord]]:
        """Submit under a recorded name until the platform has it; an unknown outcome is settled by looking."""
        name, job = record.job_name, None
        # Until a submission may have had an effect, a job of a name that others know, too, can only be theirs.
        is_theirs = new and self.task.job_name is not None
        for attempt in range(1, _SUBMISSIONS + 1):
            try:
                yield from submit_job(self.spec_for(record), self.extra_body)
            except ConflictError as error:
                if is_theirs:
                    # Taken between our look and our submission: never ours to adopt or to stop.
                    self.save(replace(record, refused=True))
                    raise _refused(name) from error
            except RateLimitError:
                if is_theirs:
                    self.save(replace(record, refused=True))
                raise
            except (APIError, TransportError) as error:
                is_theirs = is_theirs and (not _is_unsettled(error) or isinstance(error, ConnectFailedError))
                job = None if is_theirs else (yield from _look(get_job(name), _settling(error), self.clock))
                if job is None:
                    if _is_unsettled(error) and attempt < _SUBMISSIONS:
                        continue
                    if is_theirs or not _is_unsettled(error):
                        self.save(replace(record, refused=True))
                    raise
            break
        job = job or (yield from _look(get_job(name), GRACE, self.clock))
        if job is None:
            raise UnexpectedResponseError(
                f"The platform accepted job {name!r} but does not show it. The next try of the task looks for it again."
            )
        record = replace(record, confirmed=True)
        self.save(record)
        return job, record


def _look(call: Call[T], grace: float, clock: Callable[[], float]) -> Procedure[T | None]:
    """Give what a query finds, or None once the platform has denied it for the whole grace period."""
    start = clock()
    while True:
        try:
            return (yield from call)
        except NotFoundError:
            if clock() - start >= grace:
                return None
        yield Sleep(2)


def _is_unsettled(error: BitaHubError) -> bool:
    """Tell whether a request may have taken effect although it was answered like this.

    That includes a code nobody knows: the document does not show how success of a submission is told.
    """
    return isinstance(error, TransportError | ServerError) or type(error) is APIError


def _settling(error: BitaHubError) -> float:
    """Give the seconds to look for what a failed request, or an earlier one, may have made."""
    return GRACE if _is_unsettled(error) and not isinstance(error, ConnectFailedError) else 0


def _overtaken(name: str) -> ServingFailedError:
    return ServingFailedError(
        f"Serving {name!r} was created by somebody else at the same moment. The next try looks again.", name
    )


def _lost(name: str) -> JobLostError:
    return JobLostError(
        f"The platform had job {name!r} and no longer knows it, so its result cannot be told. Clear the task to run "
        f"it again.",
        name,
    )


def _refused(name: str) -> JobRefusedError:
    return JobRefusedError(
        f"A job named {name!r} exists, and this task did not submit it. Choose another job_name (a template such as "
        f"'...-{{{{ dag_run.run_after | ts_nodash | lower }}}}' makes it unique), or leave job_name out.",
        name,
    )
