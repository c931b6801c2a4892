"""A trigger's part in the watcher of its event loop and connection.

    async with Subscription("bitahub_default", journal) as subscription:
        job = await subscription.run(wait_for_job("mnist-1", poll_interval=10))

The procedure decides everything, as it does where it runs on a worker. Here nobody sleeps for it, though: it is taken
on to its next call as soon as the last one is answered, and its `Sleep` says when the watcher shall ask that. So the
trigger's own asyncio task sleeps until all is over, however often its job is looked at.
"""

from __future__ import annotations

import asyncio
import random
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from airflow_bitahub.api.protocol import Sleep
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.triggers.watcher import WATCHED, Watcher

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.hooks.bitahub import Settings
    from airflow_bitahub.triggers.journal import Journal

T = TypeVar("T")

_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()


class Subscription:
    """Waits for one job or serving, see above. The watcher starts with the first of them, and ends with the last.

    :param bitahub_conn_id: the Airflow connection
    :param journal: is told of everything that is heard
    """

    __slots__ = (
        "_conn_id",
        "_context",
        "_journal",
        "_outcome",
        "_waiting",
        "_watcher",
        "call",
        "due",
        "failures",
        "in_step",
        "is_new",
        "job_name",
        "place",
        "unlisted_until",
    )

    def __init__(self, bitahub_conn_id: str, journal: Journal) -> None:
        self._conn_id = bitahub_conn_id
        self._journal = journal
        self._watcher: Watcher
        self._waiting: Procedure[Any]
        self._context: Context
        self._outcome: asyncio.Future[Any]
        self.call: Call[Any]  # what to ask next
        self.job_name: str | None = None  # of the job that is waited for
        self.due = 0.0  # when, by the event loop's clock
        self.place: dict[Subscription, None] | None = None  # where the watcher keeps it; None: it is being asked
        self.failures = 0  # in a row
        self.is_new = True  # nothing was heard yet
        self.in_step = True  # others are due at the same time
        self.unlisted_until = 0.0  # for how long there is no point in looking for it on the list

    async def __aenter__(self) -> Subscription:
        watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
        if self._conn_id not in watchers:
            watchers[self._conn_id] = Watcher(self._conn_id)
        self._watcher = watchers[self._conn_id]
        self._watcher.subscribers += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.subscribers -= 1
        if not self._watcher.subscribers:
            del _watchers[asyncio.get_running_loop()][self._conn_id]
            await self._watcher.close()

    async def settings(self) -> Settings:
        """Give what the connection says. Raises what looking it up raises."""
        return (await self._watcher.hook()).settings

    async def run(self, waiting: Procedure[T]) -> T:
        """Perform a procedure that waits for one job or serving. Raises what it raises."""
        await self._watcher.hook()
        loop = asyncio.get_running_loop()
        self._waiting, self._outcome, self.due = waiting, loop.create_future(), loop.time()
        self._context = copy_context()  # by which Airflow finds the task that a line of the log belongs to
        self.call = cast("Call[Any]", next(waiting))  # nobody sleeps before the first look
        if self.call.request.operation == "get_job":
            self.job_name = self.call.request.names["name"]
        try:
            self._watcher.join(self)
            result: T = await self._outcome
            return result
        finally:
            self._watcher.leave(self)
            waiting.close()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._outcome.done()

    def hear(self, answer: Any) -> None:
        """Go on to the next call by the answer to this one; an exception is raised in the procedure."""
        if not self.is_over:
            self._context.run(self._go_on, answer)

    def _go_on(self, answer: Any) -> None:
        is_look = self.call.request.operation in WATCHED  # and not, say, whether a served program answers
        try:
            if isinstance(answer, Exception):
                if is_look and isinstance(answer, BitaHubError):
                    self._journal.failed(answer)
                step = self._waiting.throw(answer)
            else:
                if is_look:
                    self._journal.heard(answer)
                step = self._waiting.send(answer)
            while isinstance(step, Sleep):
                self._rest(step.seconds)
                step = next(self._waiting)
            self.call = step
            self._watcher.plan(self)
        except StopIteration as end:
            self._outcome.set_result(end.value)
        except Exception as error:
            self._outcome.set_exception(error)

    def _rest(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self.in_step and not self._watcher.lists:
            # All triggers of a triggerer may have begun together, or heard from one list, and shall not go on so.
            self.in_step = False
            self.due = now + seconds * random.random()  # noqa: S311
        else:
            # From when it was due, not from when it was answered: otherwise each answer's delay would add to it.
            self.due = max(self.due + seconds, now)
        self.is_new = False
