"""The hook that all waiters of a watcher share."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, TypeVar

from airflow_bitahub.exceptions import AuthenticationError, ConnectFailedError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.procedures.retry import Retry

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call
    from airflow_bitahub.hooks.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_UP_INTERVAL = 60.0  # seconds between two look-ups of a connection, which a user may change
_LOOK_UP_PAUSE = 10.0  # likewise, where the connection cannot be looked up, or the platform refuses it
_LOOK_UP_TIMEOUT = 30.0  # seconds


class SharedHook:
    """Looks an Airflow connection up, and again every minute and when the platform refuses it: it may have changed.

    A look-up that fails, or that finds a wrong connection, changes nothing: the last hook stays in use.

    :param bitahub_conn_id: the Airflow connection
    :param on_settings: called with the settings of each new hook
    """

    def __init__(self, bitahub_conn_id: str, on_settings: Callable[[Settings], None]) -> None:
        self._conn_id = bitahub_conn_id
        self._on_settings = on_settings
        self._loop = asyncio.get_running_loop()
        self._hook: BitaHubHook | None = None
        self._sending: Counter[BitaHubHook] = Counter()  # requests in flight
        self._looking_up: asyncio.Task[None] | None = None
        self._looked_up_at = -math.inf
        self._failure = ""  # of the last look-up

    async def get(self) -> BitaHubHook:
        """Return the hook. Raises ConnectFailedError where the connection could never be looked up."""
        hook = await self._get(LOOK_UP_INTERVAL if self._hook else _LOOK_UP_PAUSE)
        if hook is None:
            raise ConnectFailedError(self._failure)
        return hook

    async def send(self, call: Call[T]) -> T:
        """Send a call and return its result; after a refusal, once more if the connection has changed."""
        hook = await self.get()
        try:
            return await self._send(hook, call)
        except AuthenticationError:
            changed = await self._get(_LOOK_UP_PAUSE)
            if changed is None or changed is hook:
                raise
        return await self._send(changed, call)

    async def close(self) -> None:
        """Close the hook's client."""
        if self._looking_up is not None:
            self._looking_up.cancel()
            await asyncio.gather(self._looking_up, return_exceptions=True)
        if self._hook is not None:
            await self._hook.client.aclose()

    async def _send(self, hook: BitaHubHook, call: Call[T]) -> T:
        self._sending[hook] += 1
        try:
            return await hook.asend(call)
        finally:
            self._sending[hook] -= 1
            if hook is not self._hook:
                await self._close_unused(hook)

    async def _close_unused(self, hook: BitaHubHook) -> None:
        """Close the client of a hook that was replaced, after its last request."""
        if self._sending[hook] <= 0:
            del self._sending[hook]
            await hook.client.aclose()

    async def _get(self, interval: float) -> BitaHubHook | None:
        """Return the hook, after another look-up where the last one was so many seconds ago."""
        if self._loop.time() - self._looked_up_at >= interval:
            if self._looking_up is None:
                # In a context of its own, so that its log lines do not go to the log of the task that is first.
                self._looking_up = Context().run(self._loop.create_task, self._look_up())
            # The first waiter may be cancelled while the others still need the hook.
            await asyncio.shield(self._looking_up)
        return self._hook

    async def _look_up(self) -> None:
        before, failure = self._hook, ""
        connecting = BitaHubHook.connect(self._conn_id, retry=Retry(attempts=1), known=before)
        try:
            hook = await asyncio.wait_for(connecting, _LOOK_UP_TIMEOUT)
        except Exception as error:
            failure = f"Cannot look up the Airflow connection {self._conn_id!r}: {str(error) or type(error).__name__}"
            if failure != self._failure:
                log.warning("%s", failure)
        else:
            if hook is not before:
                self._on_settings(hook.settings)
                self._hook = hook
        finally:
            self._failure = failure
            self._looked_up_at = self._loop.time()
            self._looking_up = None
        if before is not None and before is not self._hook:
            log.info("The Airflow connection %r has changed, and is used as it is now", self._conn_id)
            await self._close_unused(before)
