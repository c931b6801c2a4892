"""Whether the platform's list of jobs is the cheapest way to ask for those that triggers wait for."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import BitaHubError, RateLimitError
from airflow_bitahub.hooks.settings import WATCH_MODES

if TYPE_CHECKING:
    from airflow_bitahub.triggers.subscription import Subscription

log = logging.getLogger(__name__)

LIST_VALID = 600.0  # seconds for which it is believed what the list costs, and whom it does not hold

_REQUEST = 4096  # a request costs both sides about as much as so many bytes of an answer
_ENTRY = 1024  # bytes of one, until a list tells
_AGAIN = (10.0, 900.0)  # seconds until a list that failed is tried again: the first time, and at most


class Lists:
    """Counts what lists cost, and what they spare."""

    def __init__(self) -> None:
        self.mode = WATCH_MODES[0]
        self.are_used = False
        self._cost: float | None = None  # bytes, where it is known
        self._known_until = 0.0
        self._not_before = 0.0
        self._pause = _AGAIN[0]
        self._single: float = _REQUEST + _ENTRY

    def pay(self, due: Collection[Subscription], waiting: int, now: float) -> bool:
        """Tell whether a list is the cheapest way to ask for those who are due now, and all others who wait."""
        if self.mode == "single" or now < self._not_before:
            self.are_used = False
            return False
        if self.mode == "collection":
            self.are_used = True
            return True
        if now >= self._known_until:
            self._cost = None
        # Those who wait are all due within an interval, unless a list spares it. A newcomer alone is no reason for one.
        newcomers = all(subscription.is_new for subscription in due)
        count = len(due) if newcomers else waiting
        pays = count > 1 and (self._cost is None or self._cost < count * self._single)
        self.are_used = pays or (self.are_used and newcomers)
        return pays

    def pay_for_more(self, pages: int, size: int, missing: int, wanted: int) -> bool:
        """Tell whether another page may be cheaper than to ask for those who are missing by name.

        All pages together must not cost more than to ask for everybody by name, either.
        """
        if pages == 0:
            return True
        spent = pages * _REQUEST + size
        another = spent / pages
        return another < missing * self._single and spent + another < wanted * self._single

    def succeeded(self, pages: int, size: int, entries: int, missing: int, now: float) -> None:
        """Note what a list has cost, and spared."""
        self._single = _REQUEST + size / max(1, entries)
        self._cost = pages * _REQUEST + size + missing * self._single
        self._known_until = now + LIST_VALID
        self._pause = _AGAIN[0]

    def failed(self, error: BitaHubError, now: float) -> None:
        """Note that there is none, for now."""
        if isinstance(error, RateLimitError):
            return
        log.info("Jobs are asked for by name for the next %.0f s, since their list failed: %s", self._pause, error)
        self.are_used = False
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, _AGAIN[1])
