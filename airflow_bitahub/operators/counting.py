"""What an operator counts of its job in Airflow's metrics: each job once, whatever happens to the tries."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_bitahub import metrics
from airflow_bitahub.exceptions import JobLostError, JobTimeoutError
from airflow_bitahub.operators.base import ResourceLifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.identity import JobRecord


class CountedJob(ResourceLifecycle):
    """Has one job, whose record says whether its end was counted.

    It has no constructor, see `BitaHubOperator`.
    """

    _record: JobRecord | None = None
    _has_timed_out = False

    @abstractmethod
    def _save(self, record: JobRecord) -> None:
        """Store the job's record."""

    @contextmanager
    def settling(self, context: Context) -> Iterator[None]:
        """Do what the base class does, and count a job that the platform has lost."""
        with super().settling(context):
            try:
                yield
            except JobLostError:
                if self._record is not None:
                    self._count("lost", self._record)
                raise
            except (JobTimeoutError, AirflowTaskTimeout):
                self._has_timed_out = True
                raise

    @property
    def metric_tags(self) -> metrics.Tags:
        """The tags of this task's metrics."""
        return metrics.task_tags(self._context["ti"] if self._context else None)

    def count_end(self, job: Job, record: JobRecord) -> None:
        """Count a job that has ended."""
        self._count(metrics.end_of(job), record, job)

    def count_stop(self, job: Job | None, record: JobRecord) -> None:
        """Count a job that this task has asked to stop, which may have ended by itself; None: there is no such job."""
        if job is not None:
            end = metrics.end_of(job) if job.status.is_terminal else "stopped"
            self._count("timed_out" if self._has_timed_out and end == "stopped" else end, record, job)

    def _count(self, end: str, record: JobRecord, job: Job | None = None) -> None:
        """Count the end of a job, once, whatever happens to the later tries."""
        known = self._record if self._record and self._record.job_name == record.job_name else record
        if not metrics.are_on() or known.counted:
            return
        with suppress(Exception):  # such as that of a task that was cleared meanwhile, which stores nothing any more
            self._save(replace(known, counted=True))
        metrics.count(metrics.JOB_ENDED + end, self.metric_tags)
        if job is not None:
            metrics.record_job_time(job, record.accelerators, self.metric_tags)
