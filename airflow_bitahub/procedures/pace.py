"""How long to pause between two queries of a job or serving: the older it is, the longer.

With a pause of a tenth of the age, an end is noticed with a delay of at most a tenth of the time that led to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_bitahub.api.platform import JobStatus

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job

# Seconds after a submission at which to query the new job. Most short jobs have finished at one of the first two.
FIRST_LOOKS = (0.3, 0.7, 1.5)
_SHORTEST = 0.5  # seconds


def has_begun(job: Job) -> bool:
    """Return whether a job has begun to run, as far as one answer shows."""
    return job.status is JobStatus.RUNNING or job.started_at is not None


def pause_at(age: float, poll_interval: float, longest_poll_interval: float = 0) -> float:
    """Return the seconds until the next query: a tenth of the age, within limits.

    :param age: seconds
    :param poll_interval: the longest pause
    :param longest_poll_interval: likewise, where it is longer
    """
    return min(max(age / 10, _SHORTEST), max(poll_interval, longest_poll_interval))


class JobPace:
    """The age of a job, and with it the pause before its next query.

    The age counts from the time at which the job was created, and once it runs, from when it began to run. The
    platform's clock may be wrong. So the times that it reports only count as far as our own queries leave them open: a
    job cannot have begun before a query that showed it waiting, nor after one that showed it running.

    :param now: the time in seconds since the epoch
    :param is_new: the job was submitted only just now
    """

    __slots__ = ("_earliest", "_is_new", "_looks", "_since", "has_started")

    def __init__(self, now: float, *, is_new: bool = False) -> None:
        self._earliest = now if is_new else -math.inf  # at which the job may have begun
        self._is_new = is_new
        self._looks = 0
        self._since: float | None = None
        self.has_started = False

    def saw(self, job: Job, now: float) -> None:
        """Record the answer to a query."""
        self._looks += 1
        has_started = self.has_started or has_begun(job)
        if self._since is None or has_started is not self.has_started:
            reported = job.started_at if has_started else job.created_at
            self._since = now if reported is None else min(now, max(self._earliest, reported))
        if not has_started:
            self._earliest = now
        self.has_started = has_started

    def age(self, now: float) -> float:
        """Return the seconds since the job was created or, once it runs, began to run; 0 before the first answer."""
        return 0 if self._since is None else now - self._since

    def is_queued(self, job: Job) -> bool:
        """Return whether the job, as last seen, has not begun to run since it was created."""
        return job.status is JobStatus.WAITING and not self.has_started

    def is_to_be_deferred(self, job: Job, now: float, defer_after: float) -> bool:
        """Return whether a worker should not wait any longer: the job is too old for that, or may wait for hours."""
        return self.age(now) >= defer_after or (self.is_queued(job) and self._looks >= 2)

    def pause(self, now: float, poll_interval: float, longest_poll_interval: float) -> float:
        """Return the seconds until the next query, see `pause_at`."""
        if self._is_new and 0 < self._looks < len(FIRST_LOOKS):
            return min(FIRST_LOOKS[self._looks] - FIRST_LOOKS[self._looks - 1], poll_interval)
        return pause_at(self.age(now), poll_interval, longest_poll_interval)
