"""A clock that never goes back, so that what waits or expires does so even if the machine's clock is set back."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SteadyClock:
    """Follows another clock, but goes on from where it is when that one is set back. Safe to use from any thread.

    :param clock: returns seconds since the epoch
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ahead = 0.0  # of the other clock, in seconds
        self._latest = clock()

    def __call__(self) -> float:
        """Return the time."""
        with self._lock:
            now = self._clock() + self._ahead
            if now < self._latest:
                self._ahead += self._latest - now
            self._latest = max(now, self._latest)
            return self._latest
