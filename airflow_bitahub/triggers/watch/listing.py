"""Whether the platform's list of jobs is the cheapest way to query the jobs that triggers wait for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import RateLimitError
from airflow_bitahub.hooks.settings import WATCH_MODES

if TYPE_CHECKING:
    from airflow_bitahub.procedures.jobs import JobPages

log = logging.getLogger(__name__)

LIST_VALID = 600.0  # seconds for which to rely on what a list has cost, and on which jobs it did not contain

_REQUEST = 4096  # a request costs both sides about as much as this many bytes of an answer
_ENTRY = 1024  # bytes of one entry, until a list has shown its real size
_RETRY_LIST = (10.0, 900.0)  # seconds before a list that failed is tried again: the first pause, and the longest


class ListingCost:
    """Compares the cost of the list with the cost of querying each job by name. Costs are counted in bytes.

    :ivar mode: how to query jobs, one of `WATCH_MODES`
    :ivar is_used: whether the list answers for most jobs, so that all are due at the same time
    """

    def __init__(self) -> None:
        self.mode = WATCH_MODES[0]
        self.is_used = False
        self._list_cost: float | None = None  # None: unknown
        self._known_until = 0.0
        self._not_before = 0.0
        self._pause = _RETRY_LIST[0]
        self._job_cost: float = _REQUEST + _ENTRY

    def is_worthwhile(self, due: int, waiting: int, *, only_new: bool, now: float) -> bool:
        """Return whether the list is the cheapest way to query the jobs that are due, and the others with them.

        :param due: the number of jobs that are due
        :param waiting: the number of all jobs
        :param only_new: none of those that are due was queried before
        :param now: the time in seconds, from any starting point
        """
        if self.mode == "single" or now < self._not_before:
            self.is_used = False
            return False
        if self.mode == "collection":
            self.is_used = True
            return True
        if now >= self._known_until:
            self._list_cost = None
        # Jobs that were queried before are all due once per interval, and one list spares all these queries. A single
        # new job is no reason for a list.
        spared = due if only_new else waiting
        is_cheaper = spared > 1 and (self._list_cost is None or self._list_cost < spared * self._job_cost)
        self.is_used = is_cheaper or (self.is_used and only_new)
        return is_cheaper

    def is_next_page_worthwhile(self, pages: JobPages, missing: int, wanted: int) -> bool:
        """Return whether another page may be cheaper than querying the missing jobs by name.

        All pages together must not cost more than querying all wanted jobs by name, either.
        """
        if pages.count == 0:
            return True
        spent = pages.count * _REQUEST + pages.size
        another = spent / pages.count
        return another < missing * self._job_cost and spent + another < wanted * self._job_cost

    def succeeded(self, pages: JobPages, missing: int, now: float) -> None:
        """Record what a list has cost, including the queries for jobs that it did not contain."""
        self._job_cost = _REQUEST + pages.size / max(1, len(pages.names))
        self._list_cost = pages.count * _REQUEST + pages.size + missing * self._job_cost
        self._known_until = now + LIST_VALID
        self._pause = _RETRY_LIST[0]

    def failed(self, error: Exception, now: float) -> None:
        """Record that a list failed. It is not tried again for some time, and for longer each time it fails."""
        if isinstance(error, RateLimitError):
            return
        log.info("Querying each job by name for the next %.0f s, because listing jobs failed: %s", self._pause, error)
        self.is_used = False
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, _RETRY_LIST[1])
