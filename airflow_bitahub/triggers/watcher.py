"""One watcher per event loop and connection asks the platform for everything that any trigger waits for.

A trigger subscribes, and performs a procedure such as `wait_for_job` by its subscription. The procedure decides
everything, as it does where it runs on a worker; only its queries are answered by the watcher, and its sleeps are what
the watcher plans by.

The watcher asks in one of two ways. *Collection*: the platform's list of jobs, which answers for everybody at once.
*Single*: each job, and each serving, by its name. What a list does not hold, or says to be over, is asked for by name
before anybody hears of it, since a list may be late or brief. Servings are always asked for by name: the entries of
their list do not tell the version (seed), so they cannot be told apart.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_bitahub.api.jobs import find_jobs
from airflow_bitahub.api.procedures import PASSING, Retry
from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    RateLimitError,
    TransportError,
)
from airflow_bitahub.hooks.bitahub import WATCH_MODES, BitaHubHook, Settings

if TYPE_CHECKING:
    from airflow_bitahub.api.jobs import Job
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.triggers.journal import Journal

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECTIONS = 16  # requests in flight at most, which bounds the connections too
PAGE = 250  # jobs on a page of the list: reading more in one piece would hold up the event loop

_WATCHED = ("get_job", "get_serving")
_REPEATS = (0.5, 1.0)  # seconds after which a query that failed is repeated before anybody hears of it
_UNREACHABLE = 3  # requests in a row without an answer, after which the others that are due need not try
_LONGEST_PAUSE = 60.0  # seconds, also where the platform's Retry-After asks for more
_PAUSE = 20.0  # seconds, where it does not say (client: about so long after code 20003)
_REQUEST = 4096  # a request costs both sides about as much as so many bytes of an answer
_LIST_AGAIN = (10.0, 900.0)  # seconds until a list that failed is tried again: the first time, and at most
_LIST_VALID = 600.0  # seconds for which it is believed what the list costs
_ENTRY = 1024  # bytes of one, until a list tells
_BURST = 0.05  # seconds of the budget that may be used at once
_LOOK_UP_AGAIN = 10.0  # seconds between two look-ups of a connection that is refused

_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()


class Subscription:
    """A trigger's part in the watcher of its event loop and connection.

        async with Subscription("bitahub_default", journal) as subscription:
            job = await subscription.run(wait_for_job("mnist-1", poll_interval=10))

    :param bitahub_conn_id: the Airflow connection
    :param journal: is told of everything that is heard
    """

    __slots__ = (
        "_conn_id",
        "_journal",
        "_watcher",
        "answer",
        "call",
        "due",
        "failures",
        "in_step",
        "is_new",
        "last",
        "timer",
        "unlisted_until",
    )

    def __init__(self, bitahub_conn_id: str, journal: Journal) -> None:
        self._conn_id = bitahub_conn_id
        self._journal = journal
        self._watcher: Watcher
        self.call: Call[Any]
        self.answer: asyncio.Future[Any]
        self.timer: asyncio.TimerHandle
        self.due = 0.0  # by the event loop's clock
        self.failures = 0  # in a row
        self.is_new = True  # nothing was heard yet
        self.in_step = True  # others are due at the same time
        self.last: Any = None  # what was heard last
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
        hook = await self._watcher.hook()
        self.due = asyncio.get_running_loop().time()
        return await hook.arun(waiting, perform=self._perform, sleep=self._pause)

    async def _perform(self, call: Call[Any]) -> Any:
        if call.request.operation not in _WATCHED:  # such as to try whether a served program answers
            return await (await self._watcher.hook()).asend(call)
        self.call = call
        try:
            self.last = await self._watcher.observe(self)
        except BitaHubError as error:
            self._journal.failed(error)
            raise
        self._journal.heard(self.last)
        return self.last

    async def _pause(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self.in_step and not self._watcher.lists:
            # All triggers of a triggerer may have begun together, or heard from one list, and shall not go on so.
            self.in_step = False
            self.due = now + seconds * random.random()  # noqa: S311
        else:
            # From when it was due, not from when it was answered: otherwise each answer's delay would add to it.
            self.due = max(self.due + seconds, now)
        self.is_new = False


class Watcher:
    """Asks for all subscriptions that lead to one platform. It starts with the first, and ends with the last.

    :param bitahub_conn_id: the Airflow connection
    """

    def __init__(self, bitahub_conn_id: str) -> None:
        self.subscribers = 0
        self._conn_id = bitahub_conn_id
        self._loop = asyncio.get_running_loop()
        # Who waits for an answer; dicts, since these keep an order and forget at once. Whoever waits for a job is in
        # the first, and moves through the other two when its time has come.
        self._jobs: dict[Subscription, None] = {}
        self._due: dict[Subscription, None] = {}
        self._by_name: dict[Subscription, None] = {}
        self._hook: BitaHubHook | None = None
        self._looking_up: asyncio.Task[None] | None = None
        self._refused_at = -_LOOK_UP_AGAIN
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._lists = _Lists()
        self._spacing = 0.0  # seconds between two requests
        self._turn = 0.0  # when the next one may go out
        self._unanswered = 0  # requests in a row

    @property
    def lists(self) -> bool:
        """Whether lists answer for most, so that all are due at the same time."""
        return self._lists.are_used

    async def hook(self) -> BitaHubHook:
        """Give the hook, for which the connection is looked up once. Raises what looking it up raises."""
        while self._hook is None:
            await self._look_up()
        return self._hook

    async def observe(self, subscription: Subscription) -> Any:
        """Give what the platform says to a subscription's call, once it is due. Raises what it says instead."""
        subscription.answer = self._loop.create_future()
        subscription.timer = self._loop.call_at(subscription.due, self._is_due, subscription)
        if subscription.call.request.operation == "get_job":
            self._jobs[subscription] = None
        try:
            return await subscription.answer
        except asyncio.CancelledError:
            self._forget(subscription)
            raise

    async def close(self) -> None:
        """End everything that is still under way."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._hook is not None:
            await self._hook.client.aclose()

    # Who is to be asked for ------------------------------------------------------------------------------------

    def _is_due(self, subscription: Subscription) -> None:
        may_be_listed = subscription in self._jobs and self._loop.time() >= subscription.unlisted_until
        place = self._due if may_be_listed else self._by_name
        place[subscription] = None
        if self._pump is None:
            self._pump = self._start(self._ask_all())

    def _settle(self, subscription: Subscription, answer: Any) -> None:
        """Let a subscription hear something; an exception is raised there."""
        self._forget(subscription)
        if subscription.answer.done():  # it has been cancelled
            return
        if isinstance(answer, Exception):
            subscription.answer.set_exception(answer)
        else:
            subscription.failures = 0
            subscription.answer.set_result(answer)

    def _forget(self, subscription: Subscription) -> None:
        subscription.timer.cancel()
        for place in (self._jobs, self._due, self._by_name):
            place.pop(subscription, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own: what is logged here does not belong to the task whose trigger happens to cause it.
        task = Context().run(self._loop.create_task, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Asking ------------------------------------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        """Ask until nobody is due any more."""
        try:
            while self._due or self._by_name:
                if self._due and self._lists.pay(self._due, self._jobs, self._loop.time()):
                    await self._ask_list()
                self._by_name.update(self._due)
                self._due.clear()
                if self._by_name:
                    await self._slots.acquire()
                    await self._wait_for_turn()
                    self._ask_next()
        except Exception as error:
            log.exception("The watcher of connection %s failed", self._conn_id)
            # It is a defect, but nobody shall wait for ever.
            self._tell_due(BitaHubError(f"{type(error).__name__}: {error}"))
        finally:
            self._pump = None

    def _ask_next(self) -> None:
        subscription = next(iter(self._by_name), None)
        if subscription is None:  # whoever it was has gone
            self._slots.release()
        else:
            del self._by_name[subscription]
            self._start(self._ask(subscription))

    async def _ask(self, subscription: Subscription) -> None:
        """Ask by name, and let the subscription hear it."""
        answer = subscription.answer
        try:
            heard = await self._send(subscription.call)
        except Exception as error:
            heard = error
        finally:
            self._slots.release()
        self._note(heard)
        if answer is not subscription.answer or answer.done():
            return  # heard from a list in the meantime, or cancelled
        if self._is_worth_repeating(heard) and subscription.failures < len(_REPEATS):
            subscription.timer = self._loop.call_later(_REPEATS[subscription.failures], self._is_due, subscription)
            subscription.failures += 1
        else:
            self._settle(subscription, heard)

    def _is_worth_repeating(self, heard: Any) -> bool:
        passes = isinstance(heard, PASSING) and not isinstance(heard, RateLimitError)
        return passes and self._unanswered < _UNREACHABLE

    async def _ask_list(self) -> None:
        """Ask for the list, and let everybody hear who is on it; those who are not, and are due, stay due."""
        by_name: dict[str, list[Subscription]] = {}
        for subscription in self._jobs:
            by_name.setdefault(subscription.call.request.names["name"], []).append(subscription)
        missing = {name: subscriptions[0].last for name, subscriptions in by_name.items()}
        names: set[str] = set()
        page = size = 0
        while missing and self._lists.pay_for_more(page, size, len(missing), len(by_name)):
            page += 1
            await self._wait_for_turn()
            try:
                found = await self._send(find_jobs(missing, page, PAGE))
            except BitaHubError as error:
                self._note(error)
                self._lists.failed(error, self._loop.time())
                return
            self._note(found)
            for name, job in found.jobs.items():
                del missing[name]
                for subscription in by_name[name]:
                    self._hear_from_list(subscription, job)
            size += found.size
            if found.names <= names:
                break
            names |= found.names
        now = self._loop.time()
        for name in missing:
            for subscription in by_name[name]:
                subscription.unlisted_until = now + _LIST_VALID
        self._lists.succeeded(page, size, len(names), len(missing), now)

    def _hear_from_list(self, subscription: Subscription, job: Job) -> None:
        if subscription not in self._jobs:  # it has heard by now, or is gone
            return
        if job.status.is_terminal:
            self._due.pop(subscription, None)
            subscription.timer.cancel()
            self._by_name[subscription] = None
        else:
            subscription.due = self._loop.time()
            subscription.in_step = True
            subscription.unlisted_until = 0
            self._settle(subscription, job)

    async def _send(self, call: Call[T]) -> T:
        hook = await self.hook()
        try:
            return await hook.asend(call)
        except AuthenticationError:
            if not await self._is_changed(hook):
                raise
        return await (await self.hook()).asend(call)

    async def _wait_for_turn(self) -> None:
        """Keep to the budget, and to a pause the platform has asked for."""
        while (wait := self._turn - self._loop.time()) > 0:
            await asyncio.sleep(wait)
        self._turn = max(self._turn, self._loop.time() - _BURST) + self._spacing

    def _note(self, heard: Any) -> None:
        """Draw the conclusions that concern everybody."""
        if isinstance(heard, RateLimitError):
            pause = _PAUSE if heard.retry_after is None else min(heard.retry_after, _LONGEST_PAUSE)
            self._turn = max(self._turn, self._loop.time() + pause)
            self._tell_due(heard)
        self._unanswered = self._unanswered + 1 if isinstance(heard, TransportError) else 0
        if self._unanswered >= _UNREACHABLE:
            self._tell_due(heard)

    def _tell_due(self, error: BitaHubError) -> None:
        for subscription in [*self._due, *self._by_name]:
            self._settle(subscription, type(error)(*error.args))  # one each, since each is raised somewhere else

    # The connection ------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        if self._looking_up is None:
            self._looking_up = self._start(self._look_up_once())
        # Whoever asked first may be cancelled, and the others still need it.
        await asyncio.shield(self._looking_up)

    async def _look_up_once(self) -> None:
        try:
            hook = await BitaHubHook.looked_up(self._conn_id, retry=Retry(attempts=1))
            if self._hook is not None and self._hook.settings == hook.settings:
                await hook.client.aclose()
                return
            self._spacing = 1 / hook.settings.number("max_requests_per_second", 1000)
            self._lists.mode = hook.settings.choice("watch", WATCH_MODES)
            before, self._hook = self._hook, hook
            if before is not None:
                await before.client.aclose()
        finally:
            self._looking_up = None

    async def _is_changed(self, refused: BitaHubHook) -> bool:
        """Look a refused connection up again; tell whether it has changed."""
        if self._hook is refused and self._loop.time() - self._refused_at >= _LOOK_UP_AGAIN:
            try:
                await self._look_up()
            except Exception as error:  # what was refused is ridden out, and so is this
                log.warning("Connection %s cannot be looked up again: %s", self._conn_id, error)
            finally:
                self._refused_at = self._loop.time()
        return self._hook is not refused


class _Lists:
    """Whether asking for the list of jobs pays."""

    def __init__(self) -> None:
        self.mode = WATCH_MODES[0]
        self.are_used = False
        self._cost: float | None = None  # bytes, where it is known
        self._known_until = 0.0
        self._not_before = 0.0
        self._pause = _LIST_AGAIN[0]
        self._single: float = _REQUEST + _ENTRY

    def pay(self, due: Collection[Subscription], waiting: Collection[Subscription], now: float) -> bool:
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
        count = len(due) if newcomers else len(waiting)
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
        self._known_until = now + _LIST_VALID
        self._pause = _LIST_AGAIN[0]

    def failed(self, error: BitaHubError, now: float) -> None:
        """Note that there is none, for now."""
        if isinstance(error, RateLimitError):
            return
        log.info("Jobs are asked for by name for the next %.0f s, since their list failed: %s", self._pause, error)
        self.are_used = False
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, _LIST_AGAIN[1])
