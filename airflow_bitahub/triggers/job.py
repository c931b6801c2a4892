"""Waiting for a job without occupying a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_bitahub.exceptions import BitaHubError, JobLostError, JobTimeoutError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.triggers.task_state import is_wanted


class JobEvent(TypedDict, total=False):
    """What the trigger reports, once.

    ``over``: `job` is the job as the platform tells it, however it ended. ``timeout``: the deadline passed.
    ``lost``: the platform no longer knows the job. ``trouble``: nothing is known of it; asking failed for too long, or
    `is_final`: will always fail.
    """

    outcome: Literal["over", "timeout", "lost", "trouble"]
    job: dict[str, Any]
    message: str
    is_final: bool


class BitaHubJobTrigger(BaseTrigger):
    """Fires once, when a job is over or can no longer be waited for; see `JobEvent`.

    :param bitahub_conn_id: the Airflow connection; its secrets are looked up here and never stored with the trigger
    :param job_name: the job
    :param poll_interval: seconds between two looks
    :param deadline: seconds since the epoch, so that a restarted triggerer keeps it; None: no limit
    :param grace: seconds for which the platform may deny the job before that is believed; None: for ever
    :param cancel_on_kill: stop the job when somebody marks or clears the waiting task
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        job_name: str,
        poll_interval: float,
        deadline: float | None = None,
        grace: float | None = 30,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.bitahub_conn_id = bitahub_conn_id
        self.job_name = job_name
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.grace = grace
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what Airflow stores of the trigger."""
        return "airflow_bitahub.triggers.job.BitaHubJobTrigger", {
            "bitahub_conn_id": self.bitahub_conn_id,
            "job_name": self.job_name,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "grace": self.grace,
            "cancel_on_kill": self.cancel_on_kill,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and report."""
        yield TriggerEvent(await self._wait())

    async def _wait(self) -> JobEvent:
        from airflow_bitahub.api.procedures import wait_for_job

        waiting = wait_for_job(
            self.job_name,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
            grace=self.grace,
            on_change=lambda job: self.log.info("The %s", job),
        )
        try:
            async with BitaHubHook.connected(self.bitahub_conn_id) as hook:
                job = await hook.arun(waiting)
        except JobTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        except JobLostError as error:
            return {"outcome": "lost", "message": str(error)}
        except BitaHubError as error:
            return {"outcome": "trouble", "message": str(error), "is_final": error.is_final}
        except Exception as error:
            # An exception that left a trigger would lose everything the waiting task knows (TaskDeferralError).
            self.log.exception("Cannot wait for job %s any longer", self.job_name)
            return {"outcome": "trouble", "message": f"{type(error).__name__}: {error}", "is_final": False}
        return {"outcome": "over", "job": job.model_dump(mode="json")}

    async def on_kill(self) -> None:
        """Stop the job if the task was marked or cleared; Airflow also comes here when it only moves the trigger."""
        from airflow_bitahub.api.procedures import end_job

        if not self.cancel_on_kill:
            return
        if self.task_instance is None or await sync_to_async(is_wanted)(self.task_instance):
            self.log.info("Job %s lives on: its task still waits for it", self.job_name)
            return
        self.log.info("Stopping job %s: its task no longer waits for it", self.job_name)
        async with BitaHubHook.connected(self.bitahub_conn_id) as hook:
            await hook.arun(end_job(self.job_name, wait=False, timeout=20))
