"""What both triggers do alike."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.triggers.journal import Journal
from airflow_bitahub.triggers.task_state import is_wanted

if TYPE_CHECKING:
    from airflow_bitahub.triggers.subscription import Subscription

# Seconds before which nothing is reported: Airflow fails a task that is resumed before its scheduler has noted that the
# worker is done with its first part, which a busy one does seconds later (seen on 3.3.2: with 5 of 96 short jobs).
HANDOVER = 5.0

_stopping: set[asyncio.Task[None]] = set()  # the event loop itself would let them be collected


class BitaHubTrigger(BaseTrigger):
    """Waits for something on BitaHub and fires once, whatever happens.

    :param bitahub_conn_id: the Airflow connection; its secrets are looked up here and never stored with the trigger
    :param poll_interval: seconds between two looks
    :param deadline: seconds since the epoch, so that a restarted triggerer keeps it; None: no limit
    :param grace: seconds for which the platform may deny what is waited for before that is believed; None: for ever
    :param cancel_on_kill: stop it when somebody marks or clears the waiting task
    """

    def __init__(
        self,
        bitahub_conn_id: str,
        poll_interval: float,
        deadline: float | None,
        grace: float | None,
        cancel_on_kill: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.bitahub_conn_id = bitahub_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.grace = grace
        self.cancel_on_kill = cancel_on_kill

    @property
    @abstractmethod
    def subject(self) -> str:
        """What is waited for, in words."""

    @property
    def identity(self) -> str:
        """What tells the subject from all others, for whoever is handed the report."""
        return self.subject

    @abstractmethod
    async def wait(self, subscription: Subscription) -> Mapping[str, Any]:
        """Give the event's payload. A BitaHubError that is raised instead is reported as trouble."""

    @abstractmethod
    async def stop(self, hook: BitaHubHook) -> None:
        """Stop what is waited for."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what Airflow stores of the trigger."""
        return f"{type(self).__module__}.{type(self).__name__}", {
            "bitahub_conn_id": self.bitahub_conn_id,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "grace": self.grace,
            "cancel_on_kill": self.cancel_on_kill,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and report; no sooner than Airflow can bear it, unless no scheduler is involved (``dag.test()``)."""
        clock = asyncio.get_running_loop().time
        start = clock()
        report = await self._report()
        if self.task_instance is not None:
            await asyncio.sleep(start + HANDOVER - clock())
        yield TriggerEvent({**report, "subject": self.identity})

    async def _report(self) -> Mapping[str, Any]:
        from airflow_bitahub.triggers.subscription import Subscription

        journal = Journal(self.log, self.subject, asyncio.get_running_loop().time)
        try:
            async with Subscription(self.bitahub_conn_id, journal) as subscription:
                return await self.wait(subscription)
        except BitaHubError as error:
            return {"outcome": "trouble", "message": str(error), "is_final": error.is_final}
        except Exception as error:
            # An exception that left a trigger would lose everything the waiting task knows (TaskDeferralError).
            self.log.exception("Cannot wait for the %s any longer", self.subject)
            return {"outcome": "trouble", "message": f"{type(error).__name__}: {error}", "is_final": False}

    async def on_kill(self) -> None:
        """Stop it if the task was marked or cleared; Airflow also comes here when it only moves the trigger."""
        if not self.cancel_on_kill:
            return
        # Airflow cancels a trigger again every second until it has ended, which is less than a stop may take.
        stopping = asyncio.create_task(self._stop_if_unwanted())
        _stopping.add(stopping)
        stopping.add_done_callback(_stopping.discard)
        await asyncio.shield(stopping)

    async def _stop_if_unwanted(self) -> None:
        if self.task_instance is None or await asyncio.to_thread(is_wanted, self.task_instance, when_reset=False):
            self.log.info("The %s lives on: its task still waits for it", self.subject)
            return
        self.log.info("Stopping the %s: its task no longer waits for it", self.subject)
        try:
            async with BitaHubHook.connected(self.bitahub_conn_id) as hook:
                await self.stop(hook)
        except Exception as error:
            self.log.error("The %s may still run: %s", self.subject, error)
