"""Where pages are made: in few threads of their own.

Airflow answers its users in one event loop and in threads that all of its routes share. A page may have to wait for the
platform, and then it must not keep others waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread and return its result."""
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=_limiter())


@cache
def _limiter() -> CapacityLimiter:
    return CapacityLimiter(_THREADS)
