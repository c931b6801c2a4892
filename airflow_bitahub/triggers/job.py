"""Waiting for a job without occupying a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from airflow_bitahub.exceptions import JobLostError, JobQueueTimeoutError, JobTimeoutError
from airflow_bitahub.procedures.retry import GRACE_PERIOD, UNREACHABLE_TIMEOUT
from airflow_bitahub.triggers.base import BitaHubTrigger

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.triggers.subscription import Subscription


class JobEvent(TypedDict, total=False):
    """What the trigger reports, once.

    ``over``: `job` is the job as the platform tells it, however it ended. ``timeout``: the deadline passed.
    ``queue_timeout``: that for its beginning did. ``lost``: the platform no longer knows the job. ``trouble``: nothing
    is known of it; asking failed for too long, or `is_final`: will always fail.
    """

    outcome: Literal["over", "timeout", "queue_timeout", "lost", "trouble"]
    job: dict[str, Any]
    message: str
    is_final: bool
    subject: str  # what is reported about, such as ``job mnist-1``


class BitaHubJobTrigger(BitaHubTrigger):
    """Fires once, when a job is over or can no longer be waited for; see `JobEvent`.

    Parameters are those of `BitaHubTrigger`, and:

    :param job_name: the job
    :param queue_deadline: like `deadline`, for the job's beginning
    :param unreachable_timeout: seconds for which the platform may be unreachable
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
    ) -> None:
        super().__init__(bitahub_conn_id, poll_interval, deadline, grace, cancel_on_kill)
        self.job_name = job_name
        self.queue_deadline = queue_deadline
        self.unreachable_timeout = unreachable_timeout

    @property
    def subject(self) -> str:
        """What is waited for, in words."""
        return f"job {self.job_name}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {
            **arguments,
            "job_name": self.job_name,
            "queue_deadline": self.queue_deadline,
            "unreachable_timeout": self.unreachable_timeout,
        }

    async def wait(self, subscription: Subscription) -> JobEvent:
        """Give the event's payload."""
        from airflow_bitahub.procedures.jobs import wait_for_job

        settings = await subscription.settings()
        waiting = wait_for_job(
            self.job_name,
            poll_interval=self.poll_interval,
            longest_poll_interval=settings.number("longest_poll_interval", self.poll_interval),
            deadline=self.deadline,
            queue_deadline=self.queue_deadline,
            unreachable_timeout=self.unreachable_timeout,
            grace=self.grace,
        )
        try:
            job = await subscription.run(waiting)
        except JobQueueTimeoutError as error:
            return {"outcome": "queue_timeout", "message": str(error)}
        except JobTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        except JobLostError as error:
            return {"outcome": "lost", "message": str(error)}
        return {"outcome": "over", "job": job.model_dump(mode="json")}

    async def stop(self, hook: BitaHubHook) -> None:
        """Stop the job."""
        from airflow_bitahub.procedures.jobs import end_job

        # Long enough for a platform to be restarted: nobody else is going to stop it.
        await hook.arun(end_job(self.job_name, wait=False, timeout=300))
