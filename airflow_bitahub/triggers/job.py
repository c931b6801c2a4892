"""The trigger that waits for a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_bitahub import metrics
from airflow_bitahub.exceptions import JobLostError, JobQueueTimeoutError, JobTimeoutError
from airflow_bitahub.procedures.retry import GRACE_PERIOD, UNREACHABLE_TIMEOUT
from airflow_bitahub.triggers.base import BitaHubTrigger
from airflow_bitahub.triggers.events import JobEvent, job_subject

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.triggers.watch.journal import Journal
    from airflow_bitahub.triggers.watch.watcher import Watcher


class BitaHubJobTrigger(BitaHubTrigger):
    """Fires one event: when a job has finished, or when waiting for it has failed. See `JobEvent`.

    It takes the parameters of `BitaHubTrigger`, and:

    :param job_name: the job
    :param queue_deadline: when the job must have started, in seconds since the epoch; None: no limit
    :param unreachable_timeout: seconds for which the platform may be unreachable
    :param log_interval: seconds between two looks at the job's log, whose new lines go to the task's; 0: none
    :param log_masks: digests of the secrets that the job may print and the platform quote, see `secret_digests`
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        job_name: str,
        poll_interval: float,
        deadline: float | None = None,
        grace: float | None = GRACE_PERIOD,
        cancel_on_kill: bool = True,
        queue_deadline: float | None = None,
        unreachable_timeout: float = UNREACHABLE_TIMEOUT,
        earliest_report: float | None = None,
        log_interval: float = 0,
        log_masks: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(bitahub_conn_id, poll_interval, deadline, grace, cancel_on_kill, earliest_report)
        self.job_name = job_name
        self.queue_deadline = queue_deadline
        self.unreachable_timeout = unreachable_timeout
        self.log_interval = log_interval
        self.log_masks = log_masks or {}

    @property
    def description(self) -> str:
        """The job in words."""
        return f"job {self.job_name}"

    @property
    def subject(self) -> str:
        """The subject of this trigger's event."""
        return job_subject(self.job_name)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {
            **arguments,
            "job_name": self.job_name,
            "queue_deadline": self.queue_deadline,
            "unreachable_timeout": self.unreachable_timeout,
            "log_interval": self.log_interval,
            "log_masks": self.log_masks,
        }

    async def wait(self, watcher: Watcher, journal: Journal) -> JobEvent:
        """Wait, and return the event's payload."""
        from airflow_bitahub.procedures.jobs import wait_for_job
        from airflow_bitahub.triggers.watch.log_follower import following

        procedure = wait_for_job(
            self.job_name,
            poll_interval=self.poll_interval,
            longest_poll_interval=lambda: watcher.longest_poll_interval,
            deadline=self.deadline,
            queue_deadline=self.queue_deadline,
            unreachable_timeout=self.unreachable_timeout,
            grace=self.grace,
            is_known=self.grace is not None,
        )
        try:
            follow = self.job_name, self.log_interval, self.log_masks
            async with following(watcher, self.task_instance, self.log, *follow):
                job = await watcher.run(procedure, journal)
        except JobQueueTimeoutError as error:
            return {"outcome": "queue_timeout", "message": str(error)}
        except JobTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        except JobLostError as error:
            return {"outcome": "lost", "message": str(error)}
        return {"outcome": "finished", "job": job.model_dump(mode="json")}

    async def stop_with(self, watcher: Watcher) -> None:
        """Stop the job, and count that."""
        await super().stop_with(watcher)
        metrics.count(f"{metrics.JOB_ENDED}stopped", metrics.task_tags(self.task_instance))

    def stop(self) -> Procedure[object]:
        """Stop the job."""
        from airflow_bitahub.procedures.jobs import end_job

        # Nothing else will stop the job, so the time is long enough for a restart of the platform.
        return end_job(self.job_name, wait=False, timeout=300)
