"""Waiting for a serving without occupying a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from airflow_bitahub.exceptions import ServingFailedError, ServingTimeoutError
from airflow_bitahub.procedures.retry import GRACE_PERIOD
from airflow_bitahub.triggers.base import BitaHubTrigger

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.triggers.subscription import Subscription


class ServingEvent(TypedDict, total=False):
    """What the trigger reports, once.

    ``ready``: `serving` runs and answers. ``failed``: the platform says that it does not run, or another took its
    place. ``timeout``: the deadline passed. ``trouble``: nothing is known of it; asking failed for too long, or
    `is_final`: will always fail.
    """

    outcome: Literal["ready", "failed", "timeout", "trouble"]
    serving: dict[str, Any]
    message: str
    is_final: bool
    subject: str  # what is reported about, see `serving_identity`


def serving_identity(name: str, version: str, created_at: float | None) -> str:
    """Give what tells a serving from all others, its successors of the same name included."""
    return f"serving {name} {version} of {created_at}"


class BitaHubServingTrigger(BitaHubTrigger):
    """Fires once, when a serving runs and answers or can no longer be waited for; see `ServingEvent`.

    Parameters are those of `BitaHubTrigger`, and:

    :param serving_name: the serving
    :param version: its version
    :param readiness_path: where the served program is asked
    :param created_at: which of several servings that had this name is meant; None: any
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
        grace: float | None = GRACE_PERIOD,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__(bitahub_conn_id, poll_interval, deadline, grace, cancel_on_kill)
        self.serving_name = serving_name
        self.version = version
        self.readiness_path = readiness_path
        self.created_at = created_at

    @property
    def identity(self) -> str:
        """What tells the subject from all others: names and versions are the same from run to run."""
        return serving_identity(self.serving_name, self.version, self.created_at)

    @property
    def subject(self) -> str:
        """What is waited for, in words."""
        return f"serving {self.serving_name}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {
            **arguments,
            "serving_name": self.serving_name,
            "version": self.version,
            "readiness_path": self.readiness_path,
            "created_at": self.created_at,
        }

    async def wait(self, subscription: Subscription) -> ServingEvent:
        """Give the event's payload."""
        from airflow_bitahub.procedures.servings import wait_for_serving

        waiting = wait_for_serving(
            self.serving_name,
            self.version,
            poll_interval=self.poll_interval,
            readiness_path=self.readiness_path,
            created_at=self.created_at,
            deadline=self.deadline,
            grace=self.grace,
        )
        try:
            serving = await subscription.run(waiting)
        except ServingFailedError as error:
            return {"outcome": "failed", "message": str(error)}
        except ServingTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        return {"outcome": "ready", "serving": serving.model_dump(mode="json")}

    async def stop(self, hook: BitaHubHook) -> None:
        """Stop the serving, unless another has taken its place."""
        from airflow_bitahub.procedures.servings import stop_own_serving

        stopping = stop_own_serving(self.serving_name, self.version, lambda at: self.created_at in (None, at))
        await hook.arun(stopping)
