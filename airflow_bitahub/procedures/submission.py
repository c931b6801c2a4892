"""`ensure_job`: exactly one job for a task instance, whatever fails between its tries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, get_job, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    BitaHubError,
    ConflictError,
    JobRefusedError,
    JobStoppedError,
    StateUnknownError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, TaskIdentity
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.jobs import end_job, lost_job


def ensure_job(
    task: TaskIdentity,
    record: JobRecord | None,
    *,
    spec_for: Callable[[JobRecord], JobSpec],
    save: Callable[[JobRecord], None],
    prepare: Callable[[JobRecord], JobRecord] = lambda record: record,
    on_end: Callable[[Job, JobRecord], None] = lambda job, record: None,  # noqa: ARG005
    resubmit_stopped: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    unreachable_timeout: float = retry.UNREACHABLE_TIMEOUT,
    first_look: float = 0,
    clock: Callable[[], float] = time.time,
) -> Procedure[tuple[Job, JobRecord]]:
    """Return the one job of a task instance, with its record: find it where it exists, submit it where it does not.

    :param task: what the task instance knows about itself now
    :param record: the record that its last try saved; None: there is none
    :param spec_for: returns the submission for a record
    :param save: saves a record; called before anything is sent under the record's name
    :param prepare: makes ready, or checks, what a job needs, and returns its record. It is called only where a job is
        about to be submitted, and before that is recorded. So a job that exists never depends on it
    :param on_end: called with a job of this generation that has failed or was stopped, where no earlier try may have
        noticed
    :param resubmit_stopped: treat a job that someone else stopped like one that failed
    :param unreachable_timeout: seconds for which queries of a job that exists, or may exist, may fail
    :param first_look: seconds between a submission and the query that confirms it. After a short pause, this query
        shows a short job's end, too
    :raises StateUnknownError: they failed for longer
    :raises JobStoppedError: someone else stopped the job
    :raises JobLostError: the platform had the job and no longer has it
    :raises JobRefusedError: a job of the requested name exists, and this task did not submit it
    """
    submission = _Submission(task, spec_for, save, prepare, on_end, extra_body, unreachable_timeout, first_look, clock)
    if record is None:
        return (yield from submission.send(task.first_attempt(None)))
    if task.is_new_generation(record):
        if not record.refused:
            # Should this try die now, the next one must still see a new generation: what shows it may be visible on
            # the generation's first try only.
            save(replace(record, closed=True))
            yield from end_job(record.job_name, may_appear=not record.confirmed, clock=clock)
        return (yield from submission.send(task.first_attempt(record)))
    if record.refused:
        return (yield from submission.send(task.next_attempt(record)))

    # Airflow does not raise max_tries when a running task is cleared and its scheduler dies. The job was then most
    # likely stopped by the worker, which cannot save that any more once its task is cleared.
    may_be_cleared = task.clear_number != record.clear_number
    record = task.refresh(record)
    grace = retry.CONFIRM_ABSENCE if record.confirmed else retry.GRACE_PERIOD
    job = yield from submission.find(record, grace, is_known=record.confirmed)
    if job is None and not record.confirmed:
        record = prepare(replace(record, stopped=False))
        save(record)
        return (yield from submission.post(record))
    if job is not None:
        record = replace(record, confirmed=True)
        save(record)
        if record.stopped and not job.status.is_terminal:
            job = yield from end_job(job.name, clock=clock)  # our earlier stop did not get through
    return (yield from submission.resume(record, job, resubmit_stopped or may_be_cleared))


@dataclass(frozen=True)
class _Submission:
    """The part of `ensure_job` that sends."""

    task: TaskIdentity
    spec_for: Callable[[JobRecord], JobSpec]
    save: Callable[[JobRecord], None]
    prepare: Callable[[JobRecord], JobRecord]
    on_end: Callable[[Job, JobRecord], None]
    extra_body: Mapping[str, Any] | None
    unreachable_timeout: float
    first_look: float
    clock: Callable[[], float]

    def find(self, record: JobRecord, grace: float, *, is_known: bool = False) -> Procedure[Job | None]:
        """Return the job of a record, which exists (`is_known`) or may exist; None where the platform has none."""
        query, timeout = get_job(record.job_name), self.unreachable_timeout
        return (yield from retry.find(query, grace, self.clock, is_known=is_known, timeout=timeout))

    def resume(self, record: JobRecord, job: Job | None, resubmit_stopped: bool) -> Procedure[tuple[Job, JobRecord]]:
        """Continue with a job that the platform has confirmed. `job` is None where the platform no longer has it."""
        if job is None:
            if not record.stopped:
                raise lost_job(record.job_name)
        elif job.status.is_successful or not job.status.is_terminal:
            return job, record
        else:
            self.on_end(job, record)
        if job is not None and job.status is JobStatus.STOPPED and not (record.stopped or resubmit_stopped):
            raise JobStoppedError(
                f"Job {job.name!r} was stopped by someone else, so it is not submitted again. Clear the task to run it "
                f"again, or set resubmit_stopped=True.",
                job.name,
            )
        return (yield from self.send(self.task.next_attempt(record)))

    def send(self, record: JobRecord) -> Procedure[tuple[Job, JobRecord]]:
        """Submit under a name that was never used before."""
        record = self.prepare(record)
        self.spec_for(record)  # arguments that cannot be sent must not be recorded
        if self.task.job_name:
            query, timeout = get_job(record.job_name), self.unreachable_timeout
            found = yield from retry.find(query, 0, self.clock, may_exist=False, timeout=timeout)
            if found is not None:
                raise _refused(record.job_name)
        self.save(record)
        return (yield from self.post(record, is_new=True))

    def post(self, record: JobRecord, *, is_new: bool = False) -> Procedure[tuple[Job, JobRecord]]:
        """Submit under a recorded name until the platform has the job; query it where the outcome is unknown."""
        job = None
        # A name given by the DAG's author may be known to others. Until one of our submissions may have taken effect, a
        # job of that name is theirs. Nobody else can know a name of our own.
        is_given, may_exist = self.task.job_name is not None, not is_new
        for attempt in range(1, retry.SUBMISSION_ATTEMPTS + 1):
            try:
                yield from submit_job(self.spec_for(record), self.extra_body, self.task.url)
            except (APIError, TransportError) as error:
                is_taken = isinstance(error, ConflictError) and retry.was_refused(error)
                if is_taken and (may_exist or not is_given):
                    break
                if is_taken:
                    # Someone took the name between our query and our submission: never adopt or stop their job.
                    self.save(replace(record, refused=True))
                    raise _refused(record.job_name) from error
                may_exist = may_exist or retry.may_have_taken_effect(error)
                if may_exist:
                    job = yield from self._settle(record, error)
                if job is not None:
                    break
                if not retry.is_worth_resending(error) or attempt == retry.SUBMISSION_ATTEMPTS:
                    if not may_exist and (is_given or not retry.is_transient(error)):
                        self.save(replace(record, refused=True))
                    raise
            else:
                if self.first_look:
                    yield Sleep(self.first_look)
                break
        job = job or (yield from self.find(record, retry.GRACE_PERIOD, is_known=True))
        if job is None:
            raise UnexpectedResponseError(
                f"The platform accepted job {record.job_name!r} but does not show it. The next try of the task queries "
                f"it again."
            )
        record = replace(record, confirmed=True)
        self.save(record)
        return job, record

    def _settle(self, record: JobRecord, answer: BitaHubError) -> Procedure[Job | None]:
        """Find out whether a submission took effect that was answered like this."""
        try:
            return (yield from self.find(record, retry.grace_after(answer)))
        except StateUnknownError as error:
            raise StateUnknownError(
                f"It is unknown whether job {record.job_name!r} exists. Its submission: {answer} Then: {error}"
            ) from error


def _refused(name: str) -> JobRefusedError:
    return JobRefusedError(
        f"A job named {name!r} exists, and this task did not submit it. Choose another job_name (a template such as "
        f"'...-{{{{ dag_run.run_after | ts_nodash | lower }}}}' makes it unique), or leave job_name out.",
        name,
    )
