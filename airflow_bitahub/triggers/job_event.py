"""The trigger that watches for the ends of jobs that no task waits for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import ConfigurationError, NotFoundError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.identity import marker_in
from airflow_bitahub.triggers.asset_events import EventTrigger, Reported

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.triggers.watch.watcher import Watcher

_ENDS = ("SUCCEEDED", "FAILED", "STOPPED")


class BitaHubJobEventTrigger(EventTrigger):
    """Fires an event for each job that was submitted outside Airflow and has ended.

    Jobs whose names this package chose are left out, those of another Airflow included: otherwise a DAG that is started
    by ends of jobs, and submits one, would start itself. A job of a name given by the author of a DAG, `job_name`, is
    watched like any other.

    All jobs are read in the platform's list (assumed), through the watcher that all deferred tasks share, and an end is
    believed only if the job's own record says so, too. A job that ends and is removed between two looks is not noticed.
    The payload is:

    .. code-block:: python

        {
            "job_name": "retrain-7",
            "status": "SUCCEEDED",
            "exit_code": 0,  # None where the platform does not report it; likewise all others
            "queue_seconds": 12.5,
            "run_seconds": 640.2,
            "finished_at": 1767225600.0,  # seconds since the epoch
            "url": "https://...",  # the job's page
        }

    :param job_name: the job's name; ``*`` stands for any characters, such as ``retrain-*``
    :param statuses: which ends count, out of ``SUCCEEDED``, ``FAILED`` and ``STOPPED``
    :param poll_interval: the time between two looks; a ``timedelta`` or a number of seconds
    :param bitahub_conn_id: the Airflow connection
    """

    def __init__(
        self,
        job_name: str,
        statuses: Collection[str] = _ENDS,
        poll_interval: timedelta | float = 60,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
    ) -> None:
        super().__init__(poll_interval, bitahub_conn_id)
        if not isinstance(job_name, str) or not job_name:
            raise ConfigurationError(f"job_name must be the name of a job, or a pattern, not {job_name!r}.")
        if isinstance(statuses, str) or not statuses or not {*statuses} <= {*_ENDS}:
            raise ConfigurationError(f"statuses must be a list of some of {', '.join(_ENDS)}, not {statuses!r}.")
        self.job_name = job_name
        self.statuses = sorted(statuses)

    @property
    def description(self) -> str:
        """What is watched, in words."""
        return f"jobs {self.job_name} that end as {' or '.join(self.statuses)}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {"job_name": self.job_name, "statuses": self.statuses, **arguments}

    async def look(self, watcher: Watcher, reported: Reported) -> tuple[Collection[str], Mapping[str, Any]]:
        """Return all jobs that have ended, and the new ones among them."""
        from airflow_bitahub.procedures.jobs import list_all_jobs

        jobs, _ = await watcher.perform(list_all_jobs())
        ended = {_name(job): job for job in jobs if self._is_meant(job)}
        return ended.keys(), {name: job for name, job in ended.items() if name not in reported}

    async def describe(self, watcher: Watcher, found: Job) -> Mapping[str, Any] | None:
        """Return the event's payload; None: the job has not ended according to its own record. A list may be wrong."""
        from airflow_bitahub.api.jobs import get_job

        try:
            job = await watcher.perform(iter(get_job(found.name)))
        except NotFoundError:  # removed meanwhile
            job = found
        if not self._is_meant(job):
            return None
        return {
            "job_name": job.name,
            "status": job.status.value,
            "exit_code": job.exit_code,
            "queue_seconds": job.queue_seconds,
            "run_seconds": job.run_seconds,
            "finished_at": job.finished_at,
            "url": (await watcher.hook()).job_url(job.name),
        }

    def _is_meant(self, job: Job) -> bool:
        return job.status.value in self.statuses and fnmatchcase(job.name, self.job_name) and not marker_in(job.name)


def _name(job: Job) -> str:
    """Return a text that differs for two jobs of the same name, as far as the platform tells them apart."""
    return job.name if job.created_at is None else f"{job.name} of {job.created_at:.0f}"
