"""What the triggers of deferred tasks share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from time import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.procedures import retry
from airflow_bitahub.secret_digests import SecretMask
from airflow_bitahub.triggers.events import TAKE_UP_SECONDS
from airflow_bitahub.triggers.task_state import is_task_active
from airflow_bitahub.triggers.watch.journal import Journal

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.triggers.watch.watcher import Watcher

_stopping: set[asyncio.Task[None]] = set()  # the event loop itself would let them be collected


class BitaHubTrigger(BaseTrigger):
    """Waits for a job or serving on BitaHub, and fires exactly one event, also after an error.

    :param bitahub_conn_id: the Airflow connection; its secrets are looked up here and never stored with the trigger
    :param poll_interval: seconds between two queries
    :param deadline: when to stop waiting, in seconds since the epoch, so that it means the same after a restart of the
        triggerer; None: no limit
    :param grace: seconds for which the platform may answer "not found" before that is believed; None: it never is,
        since the job or serving need not exist yet. Otherwise it is known to exist
    :param cancel_on_kill: stop the job or serving when a user marks, clears or deletes the waiting task
    :param earliest_report: when to report at the earliest, in seconds since the epoch, see `events.earliest_report`;
        after a restart of the triggerer it has usually passed. None: as soon as there is something to report
    :ivar log_masks: digests of the secrets that the task has given to the job or serving, see `secret_digests`; the
        platform may quote them
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        poll_interval: float,
        deadline: float | None,
        grace: float | None,
        cancel_on_kill: bool,
        earliest_report: float | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.bitahub_conn_id = bitahub_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.grace = grace
        self.cancel_on_kill = cancel_on_kill
        self.earliest_report = earliest_report
        self.log_masks: Mapping[str, Any] = {}

    @property
    @abstractmethod
    def description(self) -> str:
        """The job or serving in words, for log lines, such as ``job mnist-1``."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """The subject of this trigger's event, see `is_about`."""

    @abstractmethod
    async def wait(self, watcher: Watcher, journal: Journal) -> Mapping[str, Any]:
        """Wait, and return the event's payload. A BitaHubError that is raised becomes an event too."""

    @abstractmethod
    def stop(self) -> Procedure[object]:
        """Stop the job or serving."""

    async def stop_with(self, watcher: Watcher) -> None:
        """Stop the job or serving."""
        await watcher.perform(self.stop())

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        return f"{type(self).__module__}.{type(self).__name__}", {
            "bitahub_conn_id": self.bitahub_conn_id,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "grace": self.grace,
            "cancel_on_kill": self.cancel_on_kill,
            "earliest_report": self.earliest_report,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event, no sooner than `earliest_report`."""
        started = time()
        payload = await self._payload()
        # A restarted triggerer starts its triggers again, which looks the same.
        late = 0 if self.earliest_report is None else started - self.earliest_report
        if late > TAKE_UP_SECONDS:
            payload = {**payload, "unwatched_seconds": round(late)}
        is_scheduled = self.task_instance is not None  # `dag.test()` has no scheduler
        if is_scheduled and self.earliest_report is not None:
            await asyncio.sleep(self.earliest_report - time())
        yield TriggerEvent({**payload, "subject": self.subject})

    async def _payload(self) -> Mapping[str, Any]:
        from airflow_bitahub.triggers.watch.watcher import shared_watcher

        try:
            journal = Journal(self.log, self.description, asyncio.get_running_loop().time, SecretMask(self.log_masks))
            async with shared_watcher(self.bitahub_conn_id) as watcher:
                return await self.wait(watcher, journal)
        except BitaHubError as error:
            return {"outcome": "error", "message": str(error), "is_final": retry.is_final(error)}
        except Exception as error:
            # If the exception left the trigger, Airflow would fail the task without calling its own code.
            self.log.exception("Waiting for %s failed", self.description)
            return {"outcome": "error", "message": f"{type(error).__name__}: {error}", "is_final": False}

    async def on_kill(self) -> None:
        """Stop the job or serving, unless its task is still active: Airflow also calls this to move a trigger."""
        if not self.cancel_on_kill:
            return
        # Airflow cancels a trigger again every second until it has ended, and a stop may take longer than that.
        stopping = asyncio.create_task(self._stop_unless_active())
        _stopping.add(stopping)
        stopping.add_done_callback(_stopping.discard)
        await asyncio.shield(stopping)

    async def _stop_unless_active(self) -> None:
        ti = self.task_instance
        if ti is None or await asyncio.to_thread(is_task_active, ti, when_reset=False):
            self.log.info("Not stopping %s: its task is still active", self.description)
            return
        from airflow_bitahub.triggers.watch.watcher import shared_watcher

        self.log.info("Stopping %s: its task is no longer active", self.description)
        try:
            async with shared_watcher(self.bitahub_conn_id) as watcher:
                await self.stop_with(watcher)
        except Exception as error:
            self.log.error("Could not stop %s, which may still run: %s", self.description, error)
