"""The trigger that waits for a serving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import ServingFailedError, ServingTimeoutError
from airflow_bitahub.procedures.retry import GRACE_PERIOD
from airflow_bitahub.triggers.base import BitaHubTrigger
from airflow_bitahub.triggers.events import ServingEvent, serving_subject

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.triggers.watch.journal import Journal
    from airflow_bitahub.triggers.watch.watcher import Watcher


class BitaHubServingTrigger(BitaHubTrigger):
    """Fires one event: when a serving runs and answers, or when waiting for it has failed. See `ServingEvent`.

    It takes the parameters of `BitaHubTrigger`, and:

    :param serving_name: the serving
    :param version: its version
    :param readiness_path: where the served program is probed
    :param created_at: which of several servings that had this name one after the other is meant; None: any
    :param pending_deadline: when to stop waiting for a serving that has not started, in seconds since the epoch
    :param until: when to report at the earliest that it is ready, likewise
    :param is_update: it was changed in place; see `wait_for_serving`
    :param unseen_until: likewise
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        serving_name: str,
        version: str,
        poll_interval: float,
        readiness_path: str = "/",
        created_at: float | None = None,
        pending_deadline: float | None = None,
        until: float | None = None,
        is_update: bool = False,
        unseen_until: float | None = None,
        deadline: float | None = None,
        grace: float | None = GRACE_PERIOD,
        cancel_on_kill: bool = True,
        earliest_report: float | None = None,
    ) -> None:
        super().__init__(bitahub_conn_id, poll_interval, deadline, grace, cancel_on_kill, earliest_report)
        self.serving_name = serving_name
        self.version = version
        self.readiness_path = readiness_path
        self.created_at = created_at
        self.pending_deadline = pending_deadline
        self.until = until
        self.is_update = is_update
        self.unseen_until = unseen_until

    @property
    def description(self) -> str:
        """The serving in words."""
        return f"serving {self.serving_name}"

    @property
    def subject(self) -> str:
        """The subject of this trigger's event."""
        return serving_subject(self.serving_name, self.version, self.created_at)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {
            **arguments,
            "serving_name": self.serving_name,
            "version": self.version,
            "readiness_path": self.readiness_path,
            "created_at": self.created_at,
            "pending_deadline": self.pending_deadline,
            "until": self.until,
            "is_update": self.is_update,
            "unseen_until": self.unseen_until,
        }

    async def wait(self, watcher: Watcher, journal: Journal) -> ServingEvent:
        """Wait, and return the event's payload."""
        from airflow_bitahub.procedures.servings import wait_for_serving

        procedure = wait_for_serving(
            self.serving_name,
            self.version,
            poll_interval=self.poll_interval,
            readiness_path=self.readiness_path,
            created_at=self.created_at,
            deadline=self.deadline,
            pending_deadline=self.pending_deadline,
            until=self.until,
            is_update=self.is_update,
            unseen_until=self.unseen_until,
            grace=self.grace,
            is_known=self.grace is not None,
        )
        try:
            serving = await watcher.run(procedure, journal)
        except ServingFailedError as error:
            return {"outcome": "failed", "message": str(error)}
        except ServingTimeoutError as error:
            return {"outcome": "timeout", "message": str(error)}
        return {"outcome": "ready", "serving": serving.model_dump(mode="json")}

    def stop(self) -> Procedure[object]:
        """Stop the serving, unless another has taken its place."""
        from airflow_bitahub.procedures.servings import stop_own_serving

        def is_own(created_at: float | None) -> bool:
            return self.created_at in (None, created_at)

        return stop_own_serving(self.serving_name, self.version, is_own)
