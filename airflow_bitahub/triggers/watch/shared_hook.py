"""The hook that all waiters of a watcher share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, TypeVar

from airflow_bitahub.exceptions import AuthenticationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.procedures.retry import Retry

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call
    from airflow_bitahub.hooks.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

_LOOK_UP_PAUSE = 10.0  # seconds between two look-ups of a connection that the platform refuses


class SharedHook:
    """Looks an Airflow connection up once, and once more whenever the platform refuses it, since it may have changed.

    :param bitahub_conn_id: the Airflow connection
    :param on_settings: called with the settings of each new hook
    """

    def __init__(self, bitahub_conn_id: str, on_settings: Callable[[Settings], None]) -> None:
        self._conn_id = bitahub_conn_id
        self._on_settings = on_settings
        self._loop = asyncio.get_running_loop()
        self._hook: BitaHubHook | None = None
        self._looking_up: asyncio.Task[None] | None = None
        self._refused_at = -_LOOK_UP_PAUSE

    async def get(self) -> BitaHubHook:
        """Return the hook. Raises what looking the connection up raises."""
        while self._hook is None:
            await self._look_up()
        return self._hook

    async def send(self, call: Call[T]) -> T:
        """Send a call and return its result; after a refusal, once more if the connection has changed."""
        hook = await self.get()
        try:
            return await hook.asend(call)
        except AuthenticationError:
            if not await self._has_changed(hook):
                raise
        return await (await self.get()).asend(call)

    async def close(self) -> None:
        """Close the hook's client."""
        if self._looking_up is not None:
            self._looking_up.cancel()
            await asyncio.gather(self._looking_up, return_exceptions=True)
        if self._hook is not None:
            await self._hook.client.aclose()

    async def _look_up(self) -> None:
        if self._looking_up is None:
            # In a context of its own, so that its log lines do not go to the log of the task that happens to be first.
            self._looking_up = Context().run(self._loop.create_task, self._look_up_once())
        # The first waiter may be cancelled while the others still need the hook.
        await asyncio.shield(self._looking_up)

    async def _look_up_once(self) -> None:
        try:
            hook = await BitaHubHook.connect(self._conn_id, retry=Retry(attempts=1))
            if self._hook is not None and self._hook.settings == hook.settings:
                await hook.client.aclose()
                return
            self._on_settings(hook.settings)
            before, self._hook = self._hook, hook
            if before is not None:
                await before.client.aclose()
        finally:
            self._looking_up = None

    async def _has_changed(self, refused: BitaHubHook) -> bool:
        """Look a refused connection up again, and return whether it has changed."""
        if self._hook is refused and self._loop.time() - self._refused_at >= _LOOK_UP_PAUSE:
            try:
                await self._look_up()
            except Exception as error:  # the refusal is retried for a while, and so is this
                log.warning("Cannot look up connection %s again: %s", self._conn_id, error)
            finally:
                self._refused_at = self._loop.time()
        return self._hook is not refused
