"""How many lines of jobs' logs the tasks of one triggerer may log, all together.

Airflow's triggerer passes each line on to the task's log in one process, which several thousand lines a second would
keep busy for minutes. So all jobs share `LINES_PER_SECOND`. What others do not use is for anyone; where all print more,
each gets the same share. The more jobs there are, the more rarely each log is read.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from airflow_bitahub.procedures.job_log import LINES_PER_SECOND

_LEAST = 3  # lines of a job that are logged in one look, at least
AT_ONCE = 10  # lines that are logged without giving way to other work
_CURSORS_PER_SECOND = 5.0  # that are stored, for all jobs

_budgets: WeakKeyDictionary[asyncio.AbstractEventLoop, LineBudget] = WeakKeyDictionary()


def shared_budget() -> LineBudget:
    """Return the budget of the running event loop, which is that of its triggerer."""
    return _budgets.setdefault(asyncio.get_running_loop(), LineBudget())


class LineBudget:
    """A token bucket with a token for each line. It holds one second's tokens.

    :ivar followers: the number of logs that are followed
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.followers = 0
        self._tokens = float(LINES_PER_SECOND)
        self._filled_at = self._loop.time()

    def pause(self, interval: float) -> float:
        """Return the seconds between two looks at a log for which `interval` seconds are wanted."""
        return max(interval, self.followers * _LEAST / LINES_PER_SECOND)

    @property
    def cursor_pause(self) -> float:
        """The seconds between two cursors of a log that are stored."""
        return self.followers / _CURSORS_PER_SECOND

    def share(self, interval: float) -> int:
        """Return how many lines one look may log now."""
        self._fill()
        fair = LINES_PER_SECOND * self.pause(interval) / max(1, self.followers)
        return int(max(fair, self._tokens))

    async def spend(self, lines: int) -> int:
        """Wait until some of so many lines may be logged, and return how many."""
        some = min(lines, AT_ONCE)
        self._fill()
        self._tokens -= some
        await asyncio.sleep(max(0.0, -self._tokens / LINES_PER_SECOND))
        return some

    def _fill(self) -> None:
        now = self._loop.time()
        self._tokens = min(LINES_PER_SECOND, self._tokens + (now - self._filled_at) * LINES_PER_SECOND)
        self._filled_at = now
