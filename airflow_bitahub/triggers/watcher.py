"""One watcher per event loop and connection asks the platform for everything that any trigger waits for.

It asks in one of two ways. *Collection*: the platform's list of jobs, which answers for everybody at once. *Single*:
each job, and each serving, by its name. What a list does not hold, or says to be over, is asked for by name before
anybody hears of it, since a list may be late or brief. Servings are always asked for by name: the entries of their
list do not tell the version (seed), so they cannot be told apart.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_bitahub.api.jobs import list_jobs
from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    RateLimitError,
    TransportError,
)
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.settings import WATCH_MODES
from airflow_bitahub.procedures.retry import TRANSIENT_ERRORS, Retry
from airflow_bitahub.triggers.lists import LIST_VALID, Lists

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.protocol import Call
    from airflow_bitahub.triggers.subscription import Subscription

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECTIONS = 16  # requests in flight at most, which bounds the connections too
PAGE = 500  # jobs on a page of the list: reading more in one piece would hold up the event loop
WATCHED = ("get_job", "get_serving")
# Seconds between two moments at which anybody is asked for. To wake up costs more than to ask, so those who are due one
# after the other are asked for together.
TICK = 0.05

_REPEATS = (0.5, 1.0)  # seconds after which a query that failed is repeated before anybody hears of it
_UNREACHABLE = 3  # requests in a row without an answer, after which the others that are due need not try
_LONGEST_PAUSE = 60.0  # seconds, also where the platform's Retry-After asks for more
_PAUSE = 20.0  # seconds, where it does not say (client: about so long after code 20003)
_BURST = 0.05  # seconds of the budget that may be used at once
_LOOK_UP_AGAIN = 10.0  # seconds between two look-ups of a connection that is refused


class Watcher:
    """Asks for all subscriptions that lead to one platform.

    :param bitahub_conn_id: the Airflow connection
    """

    def __init__(self, bitahub_conn_id: str) -> None:
        self.subscribers = 0
        self._conn_id = bitahub_conn_id
        self._loop = asyncio.get_running_loop()
        # Who waits for each job, and what was last heard of it.
        self._jobs: dict[str, list[Subscription]] = {}
        self._last: dict[str, Job | None] = {}
        # Where those who wait stand, from one call to the next: first with others in a moment to come, then among those
        # who are due, and last among those who are to be asked for by name. All are dicts, which keep an order and
        # forget at once.
        self._moments: dict[int, _Moment] = {}
        self._due: dict[Subscription, None] = {}
        self._by_name: dict[Subscription, None] = {}
        self._hook: BitaHubHook | None = None
        self._looking_up: asyncio.Task[None] | None = None
        self._refused_at = -_LOOK_UP_AGAIN
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._lists = Lists()
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

    async def close(self) -> None:
        """End everything that is still under way."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._hook is not None:
            await self._hook.client.aclose()

    # Who is to be asked for ------------------------------------------------------------------------------------

    def join(self, subscription: Subscription) -> None:
        """Plan a subscription's first call, and let it hear from lists where it waits for a job."""
        if subscription.job_name is not None:
            self._jobs.setdefault(subscription.job_name, []).append(subscription)
            self._last.setdefault(subscription.job_name, None)
        self.plan(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._take_out(subscription)
        if (name := subscription.job_name) is not None:
            self._jobs[name].remove(subscription)
            if not self._jobs[name]:
                del self._jobs[name], self._last[name]

    def plan(self, subscription: Subscription) -> None:
        """Let a subscription hear the answer to its call once it is due."""
        if subscription.call.request.operation in WATCHED:
            self._plan_for(subscription.due, subscription)
        else:  # such as to try whether a served program answers
            self._start(self._ask_at_once(subscription))

    def _plan_for(self, due: float, subscription: Subscription) -> None:
        tick = math.ceil(due / TICK) if due > self._loop.time() else 0
        moment = self._moments.get(tick)
        if moment is None:
            timer = self._loop.call_at(tick * TICK, self._has_come, tick, context=Context())
            moment = self._moments[tick] = _Moment(tick, timer)
        _put(subscription, moment)

    def _has_come(self, tick: int) -> None:
        now = self._loop.time()
        for subscription in self._moments.pop(tick):
            may_be_listed = subscription.job_name is not None and now >= subscription.unlisted_until
            _put(subscription, self._due if may_be_listed else self._by_name)
        if self._pump is None:
            self._pump = self._start(self._ask_all())

    def _take_out(self, subscription: Subscription) -> None:
        place, subscription.place = subscription.place, None
        if place is None:
            return
        del place[subscription]
        if isinstance(place, _Moment) and not place:
            place.timer.cancel()
            del self._moments[place.tick]

    def _tell(self, subscription: Subscription, answer: Any) -> None:
        """Let a subscription hear something; an exception is raised there."""
        self._take_out(subscription)
        if not isinstance(answer, Exception):
            subscription.failures = 0
            if (name := subscription.job_name) is not None and name in self._last:
                self._last[name] = answer
        subscription.hear(answer)

    def _tell_due(self, error: BitaHubError) -> None:
        for subscription in [*self._due, *self._by_name]:
            self._tell(subscription, type(error)(*error.args))  # one each, since each is raised somewhere else

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
                if self._due and self._lists.pay(self._due, len(self._jobs), self._loop.time()):
                    await self._ask_list()
                else:
                    for subscription in [*self._due]:
                        self._ask_by_name(subscription)
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

    def _ask_by_name(self, subscription: Subscription) -> None:
        self._take_out(subscription)
        _put(subscription, self._by_name)

    def _ask_next(self) -> None:
        subscription = next(iter(self._by_name), None)
        if subscription is None:  # whoever it was has gone
            self._slots.release()
        else:
            self._take_out(subscription)
            self._start(self._ask(subscription))

    async def _ask(self, subscription: Subscription) -> None:
        """Ask by name, and let the subscription hear it."""
        try:
            heard: Any = await self._send(subscription.call)
        except Exception as error:
            heard = error
        finally:
            self._slots.release()
        self._note(heard)
        if subscription.is_over:
            return
        if self._is_worth_repeating(heard) and subscription.failures < len(_REPEATS):
            self._plan_for(self._loop.time() + _REPEATS[subscription.failures], subscription)
            subscription.failures += 1
        else:
            self._tell(subscription, heard)

    async def _ask_at_once(self, subscription: Subscription) -> None:
        try:
            heard: Any = await (await self.hook()).asend(subscription.call)
        except Exception as error:
            heard = error
        subscription.hear(heard)

    def _is_worth_repeating(self, heard: Any) -> bool:
        passes = isinstance(heard, TRANSIENT_ERRORS) and not isinstance(heard, RateLimitError)
        return passes and self._unanswered < _UNREACHABLE

    async def _ask_list(self) -> None:
        """Ask for the list, and let everybody hear who is on it; who is not, and is due, is asked for by name."""
        wanted = {*self._jobs}  # whoever comes later may stand on a page that has been turned
        missing = wanted
        names: set[str] = set()  # of all jobs that have been told
        page = size = 0
        while missing and self._lists.pay_for_more(page, size, len(missing), len(wanted)):
            page += 1
            await self._wait_for_turn()
            try:
                found = await self._send(list_jobs(page, PAGE, self._last))
            except BitaHubError as error:
                self._note(error)
                self._lists.failed(error, self._loop.time())
                return
            self._note(found)
            for name, job in found.jobs.items():
                if name not in names:
                    self._hear_from_list(name, job)
            missing = (missing - found.jobs.keys()) & self._jobs.keys()
            size += found.size
            if found.names <= names:
                break
            names |= found.names
        now = self._loop.time()
        for name in missing:
            for subscription in self._jobs[name]:
                subscription.unlisted_until = now + LIST_VALID
                if subscription.place is self._due:
                    self._ask_by_name(subscription)
        self._lists.succeeded(page, size, len(names), len(missing), now)

    def _hear_from_list(self, name: str, job: Job) -> None:
        for subscription in [*self._jobs.get(name, ())]:
            if subscription.place is None:  # it is being asked for by name
                continue
            if job.status.is_terminal:
                if subscription.place is not self._by_name:
                    self._ask_by_name(subscription)
                continue
            subscription.due = self._loop.time()
            subscription.in_step = True
            subscription.unlisted_until = 0
            self._tell(subscription, job)

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

    # The connection ------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        if self._looking_up is None:
            self._looking_up = self._start(self._look_up_once())
        # Whoever asked first may be cancelled, and the others still need it.
        await asyncio.shield(self._looking_up)

    async def _look_up_once(self) -> None:
        try:
            hook = await BitaHubHook.connect(self._conn_id, retry=Retry(attempts=1))
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


class _Moment(dict["Subscription", None]):
    """Those who are due at the same tick."""

    def __init__(self, tick: int, timer: asyncio.TimerHandle) -> None:
        super().__init__()
        self.tick = tick
        self.timer = timer


def _put(subscription: Subscription, place: dict[Subscription, None]) -> None:
    subscription.place = place
    place[subscription] = None
