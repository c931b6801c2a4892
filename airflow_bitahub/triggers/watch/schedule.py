"""When each waiter's next query is due, and which queries are due now."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.procedures.retry import Retry
    from airflow_bitahub.triggers.watch.waiter import Waiter

# Seconds between two ticks. Waking up costs more than a query, so queries that are due within a tick go out together.
TICK = 0.05
# Queries per second for all jobs together that are young, and so are queried sooner than the others. That costs one to
# two percent of a core.
EARLY_RATE = 20.0


class Schedule:
    """Holds every waiter in one of three places until its query is sent or answered.

    A waiter starts in a future tick. When the tick comes, its query is *due*, and the list of jobs may answer it. Where
    the list cannot, the query is *due by name*. While a query by name is in flight, its waiter is in none of the three.

    :param on_due: called when queries have become due
    :ivar early_rate: the number of early queries per second, see `EARLY_RATE`
    """

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._entries: dict[Waiter, _Entry] = {}
        # All places are dicts, since a dict keeps its order and removes any key quickly.
        self._ticks: dict[int, _Tick] = {}
        self._due: dict[_Entry, None] = {}
        self._due_by_name: dict[_Entry, None] = {}
        self.early_rate = EARLY_RATE
        self._early: set[_Entry] = set()  # whose next query is planned for before the list of jobs could answer it

    def add(self, waiter: Waiter) -> None:
        """Add a waiter. Its first query is due immediately."""
        entry = self._entries[waiter] = _Entry(waiter, self._loop.time())
        self._put_into_tick(entry, entry.due_at)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that was added."""
        entry = self._entries.pop(waiter)
        self._early.discard(entry)
        self._take_out(entry)

    # What is due -------------------------------------------------------------------------------------------------

    @property
    def due(self) -> int:
        """The number of due queries that the list of jobs may answer."""
        return len(self._due)

    @property
    def due_by_name(self) -> int:
        """The number of due queries that must be sent by name."""
        return len(self._due_by_name)

    def has_only_new_due(self) -> bool:
        """Return whether every due query is the first one of its waiter."""
        return all(entry.is_new for entry in self._due)

    def next_by_name(self) -> Waiter | None:
        """Return the waiter whose query by name is next, which is in flight from now on; None: none is due."""
        entry = next(iter(self._due_by_name), None)
        if entry is None:
            return None
        self._take_out(entry)
        return entry.waiter

    def take_all_due(self) -> list[Waiter]:
        """Return the waiters of all due queries, which will not be sent."""
        entries = [*self._due, *self._due_by_name]
        for entry in entries:
            self._take_out(entry)
        return [entry.waiter for entry in entries]

    # What becomes of a query -------------------------------------------------------------------------------------

    def plan(self, waiter: Waiter, pause: float, longest: float, *, spread: bool) -> None:
        """Plan the next query of a waiter whose last one is answered.

        :param pause: seconds between the two
        :param longest: seconds that the pause may last. While few waiters ask for less, their queries are sent by name.
            The more they are, the longer they pause, and those that reach this wait for the list with all others
        :param spread: separate waiters that were due together, by a random part of the first pause
        """
        entry = self._entries[waiter]
        now = self._loop.time()
        self._early.discard(entry)
        if pause < longest:
            pause = min(max(pause, (len(self._early) + 1) / self.early_rate), longest)
            if pause < longest:
                self._early.add(entry)
        if spread and entry.is_in_step:
            entry.is_in_step = False
            entry.due_at = now + pause * random.random()  # noqa: S311
        else:
            # Counted from when the last query was due. Counted from its answer, the delays of all answers would add up.
            entry.due_at = max(entry.due_at + pause, now)
        entry.is_new = False
        self._put_into_tick(entry, entry.due_at)

    def require_name(self, waiter: Waiter) -> None:
        """Make a waiter's query due by name, unless it is in flight."""
        entry = self._entries[waiter]
        if entry.place is not None and entry.place is not self._due_by_name:
            self._require_name(entry)

    def require_all_names(self) -> None:
        """Make all due queries due by name."""
        for entry in [*self._due]:
            self._require_name(entry)

    def answered(self, waiter: Waiter) -> None:
        """Record that the query in flight was answered."""
        self._entries[waiter].repeats = 0

    def answered_by_list(self, waiter: Waiter) -> bool:
        """Record that the list of jobs answers a waiter's query, due or not; return False if a query is in flight."""
        entry = self._entries[waiter]
        if entry.place is None:
            return False
        self._take_out(entry)
        entry.due_at = self._loop.time()
        entry.is_in_step = True
        entry.unlisted_until = 0.0
        entry.repeats = 0
        return True

    def missed_by_list(self, waiter: Waiter, seconds: float) -> None:
        """Record that the list does not contain a waiter's job: for so long, its queries are sent by name."""
        entry = self._entries[waiter]
        entry.unlisted_until = self._loop.time() + seconds
        if entry.place is self._due:
            self._require_name(entry)

    def repeat(self, waiter: Waiter, retry: Retry) -> bool:
        """Plan a failed query once more, after a pause. Return False if it was sent as often as `retry` allows."""
        entry = self._entries[waiter]
        if entry.repeats + 1 >= retry.attempts:
            return False
        entry.repeats += 1
        self._put_into_tick(entry, self._loop.time() + retry.pause_after(entry.repeats))
        return True

    # Places ------------------------------------------------------------------------------------------------------

    def _put_into_tick(self, entry: _Entry, due_at: float) -> None:
        number = math.ceil(due_at / TICK) if due_at > self._loop.time() else 0
        tick = self._ticks.get(number)
        if tick is None:
            timer = self._loop.call_at(number * TICK, self._come_due, number, context=Context())
            tick = self._ticks[number] = _Tick(number, timer)
        entry.put_into(tick)

    def _come_due(self, number: int) -> None:
        now = self._loop.time()
        for entry in self._ticks.pop(number):
            is_for_list = entry.waiter.job_name is not None and entry not in self._early
            may_be_listed = is_for_list and now >= entry.unlisted_until
            entry.put_into(self._due if may_be_listed else self._due_by_name)
        self._on_due()

    def _require_name(self, entry: _Entry) -> None:
        self._take_out(entry)
        entry.put_into(self._due_by_name)

    def _take_out(self, entry: _Entry) -> None:
        place, entry.place = entry.place, None
        if place is None:
            return
        del place[entry]
        if isinstance(place, _Tick) and not place:
            place.timer.cancel()
            del self._ticks[place.number]


class _Entry:
    """What the schedule knows of one waiter."""

    __slots__ = ("due_at", "is_in_step", "is_new", "place", "repeats", "unlisted_until", "waiter")

    def __init__(self, waiter: Waiter, due_at: float) -> None:
        self.waiter = waiter
        self.due_at = due_at  # by the event loop's clock
        self.place: dict[_Entry, None] | None = None  # which of the schedule's places holds it
        self.repeats = 0  # of a query that failed; counted on until a query is answered
        self.is_new = True  # no query was answered yet
        # Whether others may be due at exactly the same time: triggers that started together, or were answered by one
        # list.
        self.is_in_step = True
        self.unlisted_until = 0.0  # until when the list of jobs is not expected to contain its job

    def put_into(self, place: dict[_Entry, None]) -> None:
        self.place = place
        place[self] = None


class _Tick(dict[_Entry, None]):
    """The waiters whose queries become due at the same time."""

    def __init__(self, number: int, timer: asyncio.TimerHandle) -> None:
        super().__init__()
        self.number = number
        self.timer = timer
