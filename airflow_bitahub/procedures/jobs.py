"""Waiting for a job, listing all jobs, and stopping a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from airflow_bitahub.api.job_reading import Job, JobPage
from airflow_bitahub.api.jobs import get_job, list_jobs, stop_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.exceptions import (
    BitaHubError,
    JobAliveError,
    JobLostError,
    JobQueueTimeoutError,
    JobTimeoutError,
    NotFoundError,
    StateUnknownError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.pace import JobPace


def wait_for_job(
    name: str,
    *,
    poll_interval: float,
    longest_poll_interval: Callable[[], float] = lambda: 0,
    known: Job | None = None,
    is_new: bool = False,
    defer_after: float | None = None,
    deadline: float | None = None,
    queue_deadline: float | None = None,
    unreachable_timeout: float = retry.UNREACHABLE_TIMEOUT,
    grace: float | None = retry.GRACE_PERIOD,
    is_known: bool = False,
    on_change: Callable[[Job], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[Job]:
    """Wait until a job has finished, however it ended, and return it.

    The pause between two queries is a tenth of the job's age, see `JobPace`.

    :param poll_interval: the longest pause in seconds
    :param longest_poll_interval: returns the longest pause in seconds, where that is longer than `poll_interval`
    :param known: the job, where another query has just shown it; None: it is queried at once
    :param is_new: that query was the first after its submission
    :param defer_after: return a job that has not finished, too: when it is so many seconds old, when a query fails, or
        when it still waits for its turn at the second query. None: wait to its end
    :param deadline: when to stop waiting, in seconds since the epoch, so that it means the same in another process;
        None: no limit
    :param queue_deadline: when the job must have started, likewise
    :param unreachable_timeout: seconds for which the platform may be unreachable
    :param grace: seconds for which "not found" counts as a delay; None: always
    :param is_known: the job is known to exist, so that the platform's refusal of the first query says nothing either
    :param on_change: called with the job whenever its raw state has changed
    :raises JobTimeoutError: the job had not finished at the deadline
    :raises JobQueueTimeoutError: the job was still in the queue at the queue deadline
    :raises JobLostError: the platform answered "not found" for longer than the grace period
    :raises StateUnknownError: queries failed for longer than `unreachable_timeout`
    :raises APIError: the platform refused the query of a job that was never seen
    """
    job: Job | None = None
    query = get_job(name)
    outage = retry.Outage(grace, unreachable_timeout, is_known or known is not None)
    pace = JobPace(clock(), is_new=is_new)
    while True:
        pause = poll_interval
        try:
            seen, known = known or (yield from query), None
        except BitaHubError as error:
            _tolerate(error, outage, name, job, clock())
            if defer_after is not None and job is not None:
                return job
        else:
            now = clock()
            outage.record_success()
            pace.saw(seen, now)
            if job is None or seen.raw_state != job.raw_state:
                query = get_job(name, seen)
                if on_change is not None:
                    on_change(seen)
            job = seen
            if job.status.is_terminal:
                return job
            # Only a fresh answer may end a job: after a failed query, the job may have started meanwhile.
            if queue_deadline is not None and pace.is_queued(job) and now >= queue_deadline:
                raise JobQueueTimeoutError(f"Job {name!r} did not start in time. {_last_seen(job)}", name)
            if defer_after is not None and pace.is_to_be_deferred(job, now, defer_after):
                return job
            pause = pace.pause(now, poll_interval, longest_poll_interval())
        now = clock()
        if deadline is not None and now >= deadline:
            raise JobTimeoutError(f"Job {name!r} did not finish in time{outage}. {_last_seen(job)}", name)
        limits = deadline, None if pace.has_started else queue_deadline
        at_most = retry.sleep_seconds(max(pause, poll_interval), now, *limits)
        yield Sleep(retry.sleep_seconds(pause, now, *limits), at_most)


class JobPages:
    """Reads the platform's list of jobs page by page.

    Reading ends at the first page without a new name: a platform that does not know pages returns all jobs on each.

    :param page_size: entries on a page
    :param known: read only jobs of these names, see `list_jobs`; None: all
    """

    def __init__(self, page_size: int, known: Mapping[str, Job | None] | None = None) -> None:
        self._page_size = page_size
        self._known = known
        self.names: set[str] = set()  # of all jobs on the pages read so far
        self.count = 0  # of pages read
        self.size = 0  # of these pages, in bytes
        self.unreadable = 0  # entries
        self.is_complete = False

    def next_page(self) -> Call[JobPage]:
        """Return the query for the next page."""
        return list_jobs(self.count + 1, self._page_size, self._known)

    def add(self, page: JobPage) -> dict[str, Job]:
        """Add the answer to `next_page`, and return its jobs that no earlier page contained, by name."""
        new = {name: job for name, job in page.jobs.items() if name not in self.names}
        self.is_complete = page.names <= self.names
        if not self.is_complete:
            self.unreadable += page.unreadable
        self.names |= page.names
        self.count += 1
        self.size += page.size
        return new


def list_all_jobs(page_size: int = 500) -> Procedure[tuple[list[Job], int]]:
    """Return all jobs of the namespace, and the number of entries in the platform's list that could not be read."""
    pages = JobPages(page_size)
    jobs: list[Job] = []
    while not pages.is_complete:
        jobs += pages.add((yield from pages.next_page())).values()
    return jobs, pages.unreadable


def end_job(
    name: str,
    *,
    wait: bool = True,
    may_appear: bool = False,
    timeout: float = 120,
    clock: Callable[[], float] = time.time,
) -> Procedure[Job | None]:
    """Stop a job that has not finished, and return it; None when the platform has no such job.

    The job is queried before it is stopped, since stopping a finished job may remove its record. Until it is being
    stopped, one "not found" is not believed: a platform that restarts may answer so about a job that runs.

    :param wait: wait until the job has finished; False: return as soon as it is being stopped
    :param may_appear: its submission may still be on its way, so "not found" is not believed during the grace period.
        Otherwise it is believed after `CONFIRM_ABSENCE`
    :param timeout: seconds
    :raises JobAliveError: the job has not finished after that time
    """
    start = clock()
    outage = retry.Outage.of_known(timeout)
    if may_appear:
        outage.grace, outage.missing_since = retry.GRACE_PERIOD, start
    is_stopping = False
    while True:
        try:
            job = yield from get_job(name)
            outage.record_success()
            is_stopping = is_stopping or job.status is JobStatus.STOPPING
            if job.status.is_terminal:
                return job
            if not is_stopping:
                yield from stop_job(name)
                is_stopping = True
            if not wait:
                return job
        except BitaHubError as error:
            if not retry.leaves_outcome_open(error):
                raise
            is_believed = outage.record_failure(error, clock()) or is_stopping
            if isinstance(error, NotFoundError) and is_believed:
                return None
            # The stop may have taken effect, or the job may have finished just before it. The next query shows which.
            if clock() - start >= timeout:
                raise JobAliveError(f"Job {name!r} could not be stopped: {error}", name) from error
        if clock() - start >= timeout:
            raise JobAliveError(f"Job {name!r} is still alive {timeout:.0f} s after it was asked to stop.", name)
        yield Sleep(1)


def lost_job(name: str) -> JobLostError:
    """Return the error for a job that the platform had and no longer has."""
    return JobLostError(
        f"The platform had job {name!r} and no longer has it, so its result is unknown. Clear the task to run it "
        f"again.",
        name,
    )


def _tolerate(error: BitaHubError, outage: retry.Outage, name: str, job: Job | None, now: float) -> None:
    """Raise unless a failed query is to be tolerated: it says nothing about the job."""
    if not retry.is_query_failure(error, seen_before=outage.is_known):
        raise error
    if not outage.record_failure(error, now):
        return
    if isinstance(error, NotFoundError):
        raise lost_job(name) from error
    raise StateUnknownError(
        f"Job {name!r} could not be queried for {outage.seconds:.0f} s{outage}. {_last_seen(job)}"
    ) from error


def _last_seen(job: Job | None) -> str:
    return "It was never seen." if job is None else f"When last seen, {job}."
