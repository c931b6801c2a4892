"""Waiting for a serving without occupying a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_bitahub.exceptions import BitaHubError, ServingFailedError, ServingTimeoutError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.triggers.task_state import is_wanted


class ServingEvent(TypedDict, total=False):
    """What the trigger reports, once.

    ``ready``: `serving` runs and answers. ``failed``: the platform says that it does not run. ``timeout``: the
    deadline passed. ``trouble``: nothing is known of it; asking failed for too long, or
    `is_final`: will always fail.
    """

    outcome: Literal["ready", "failed", "timeout", "trouble"]
    serving: dict[str, Any]
    message: str
    is_final: bool


class BitaHubServingTrigger(BaseTrigger):
    """Fires once, when a serving runs and answers or can no longer be waited for; see `ServingEvent`.

    :param bitahub_conn_id: the Airflow connection; its secrets are looked up here and never stored with the trigger
    :param serving_name: the serving
    :param version: its version
    :param poll_interval: seconds between two looks
    :param readiness_path: where the served program is asked
    :param created_at: which of several servings that had this name is meant; None: any
    :param deadline: seconds since the epoch; None: no limit
    :param grace: seconds for which the platform may deny the serving before that is believed; None: for ever
    :param cancel_on_kill: stop the serving when somebody marks or clears the waiting task
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        serving_name: str,
        version: str,
        poll_interval: float,
        readiness_path: str = "/",
        created_at: float | None = None,
        deadline: float | None = None,
        grace: float | None = 30,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.bitahub_conn_id = bitahub_conn_id
        self.serving_name = serving_name
        self.version = version
        self.poll_interval = poll_interval
        self.readiness_path = readiness_path
        self.created_at = created_at
        self.deadline = deadline
        self.grace = grace
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what Airflow stores of the trigger."""
        return "airflow_bitahub.triggers.serving.BitaHubServingTrigger", {
            "bitahub_conn_id": self.bitahub_conn_id,
            "serving_name": self.serving_name,
            "version": self.version,
            "poll_interval": self.poll_interval,
            "readiness_path": self.readiness_path,
            "created_at": self.created_at,
            "deadline": self.deadline,
            "grace": self.grace,
            "cancel_on_kill": self.cancel_on_kill,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and report."""
        yield TriggerEvent(await self._wait())

    async def _wait(self) -> ServingEvent:
        from airflow_bitahub.api.procedures import wait_for_serving

        waiting = wait_for_serving(
            self.serving_name,
            self.version,
            poll_interval=self.poll_interval,
            readiness_path=self.readiness_path,
            created_at=self.created_at,
            deadline=self.deadline,
            grace=self.grace,
            on_change=lambda serving: self.log.info("The %s", serving),
        )
        try:
            async with BitaHubHook.connected(self.bitahub_conn_id) as hook:
                serving = await hook.arun(waiting)
        except ServingFailedError as error:
            return {"outcome": "failed", "message": str(error)}
        except ServingTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        except BitaHubError as error:
            return {"outcome": "trouble", "message": str(error), "is_final": error.is_final}
        except Exception as error:
            # An exception that left a trigger would lose everything the waiting task knows (TaskDeferralError).
            self.log.exception("Cannot wait for serving %s any longer", self.serving_name)
            return {"outcome": "trouble", "message": f"{type(error).__name__}: {error}", "is_final": False}
        return {"outcome": "ready", "serving": serving.model_dump(mode="json")}

    async def on_kill(self) -> None:
        """Stop the serving if the task was marked or cleared; Airflow also comes here when a trigger is moved."""
        from airflow_bitahub.api.procedures import stop_own_serving

        if not self.cancel_on_kill:
            return
        if self.task_instance is None or await sync_to_async(is_wanted)(self.task_instance):
            self.log.info("Serving %s lives on: its task still waits for it", self.serving_name)
            return
        self.log.info("Stopping serving %s: its task no longer waits for it", self.serving_name)
        async with BitaHubHook.connected(self.bitahub_conn_id) as hook:
            stopping = stop_own_serving(self.serving_name, self.version, lambda at: self.created_at in (None, at))
            await hook.arun(stopping)
