"""Where pages do what takes time: in few threads of their own, and not for long.

Airflow answers its users in one event loop, and in threads that all of its routes share. A page may have to wait for
the platform or for a storage that hangs, and must not keep these users waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SECONDS = 20  # that a part of a page may take, the wait for a thread included
_slots = threading.Semaphore(16)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread and return its result.

    :raises TimeoutError: it takes longer than `SECONDS`, or all threads are taken so long. The thread goes on alone
    """
    return await asyncio.wait_for(_call(lambda: function(*args, **kwargs)), SECONDS)


async def _call(work: Callable[[], T]) -> T:
    while not _slots.acquire(blocking=False):
        await asyncio.sleep(0.05)
    future = Future[T]()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            _slots.release()

    # Not one of an executor's threads: Python would wait for them when Airflow's server is to end.
    threading.Thread(target=run, name="bitahub-page", daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(future))
