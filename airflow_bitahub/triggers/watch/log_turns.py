"""Whose turn it is to read a log: a few requests at once, and none for a while where the platform refuses them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.procedures.job_log import Pauses

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call

T = TypeVar("T")

LOG_READERS = 4  # the largest number of requests for logs in flight: they may be long, and nothing depends on them


class LogTurns:
    """Reads logs for all waiters of a watcher.

    :param send: sends a call
    """

    def __init__(self, send: Callable[[Call[Any]], Awaitable[Any]]) -> None:
        self._send = send
        self._slots = asyncio.Semaphore(LOG_READERS)
        self._pauses = Pauses(asyncio.get_running_loop().time)

    async def read(self, call: Call[T], pause: float) -> T | None:
        """Send a call that reads the log of one job; None where the platform refuses such calls, or seems to.

        :param pause: seconds before the next request in the same slot
        :raises NotFoundError: there is no log of this job
        """
        async with self._slots:
            if not self._pauses.is_over:
                return None
            try:
                answer: T = await self._send(call)
            except NotFoundError:
                raise
            except BitaHubError as error:
                self._pauses.failed(error)
                return None
            self._pauses.succeeded()
            await asyncio.sleep(pause)
            return answer
