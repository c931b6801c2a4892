"""The watcher queries the platform for all triggers that wait on one event loop through one connection.

    async with shared_watcher("bitahub_default") as watcher:
        job = await watcher.run(wait_for_job("mnist-1", poll_interval=10), journal)

It has two ways to query jobs. *Collection*: the platform's list of jobs, which answers for all jobs together. *Single*:
each job, and each serving, by its name. A young job is queried more often than the list, and so by name, while there
are few such jobs. A job that the list does not contain, or that has finished according to the list, is queried by name
before its trigger reports anything, because a list may be late or incomplete. Servings are always queried by name: the
entries of their list do not contain the version (seed), so two versions look alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import nullcontext
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_bitahub import metrics
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.client import adrive
from airflow_bitahub.exceptions import BitaHubError, RateLimitError, TransportError, UnexpectedResponseError
from airflow_bitahub.hooks.settings import WATCH_MODES
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.jobs import JobPages
from airflow_bitahub.triggers.watch.listing import LIST_VALID, ListingCost
from airflow_bitahub.triggers.watch.log_turns import LogTurns
from airflow_bitahub.triggers.watch.schedule import EARLY_RATE, Schedule
from airflow_bitahub.triggers.watch.shared_hook import SharedHook
from airflow_bitahub.triggers.watch.waiter import Waiter

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.hooks.settings import Settings
    from airflow_bitahub.triggers.watch.journal import Journal

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECTIONS = 16  # the largest number of requests in flight, and so of connections
PROBES = 8  # likewise, of requests to served programs: some of them never answer
PAGE = 250  # jobs on a page of the list: reading more in one piece would hold up the event loop

_BURST = 0.05  # seconds' worth of requests that may be sent in one burst
# Requests in a row without an answer, after which the platform counts as unreachable for all queries that are due.
_UNREACHABLE = 3

_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()


def shared_watcher(bitahub_conn_id: str) -> Watcher:
    """Return the watcher of a connection on the running event loop, for use in ``async with``."""
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    if bitahub_conn_id not in watchers:
        watchers[bitahub_conn_id] = Watcher(bitahub_conn_id)
    return watchers[bitahub_conn_id]


class Watcher:
    """Runs procedures that wait for jobs and servings; see above. It is closed when the last trigger leaves it.

    :param bitahub_conn_id: the Airflow connection
    :ivar longest_poll_interval: what the connection says, in seconds; 0: nothing
    """

    def __init__(self, bitahub_conn_id: str) -> None:
        self.longest_poll_interval = 0.0
        self._conn_id = bitahub_conn_id
        self._tags = {"connection": bitahub_conn_id}
        self._users = 0
        self._loop = asyncio.get_running_loop()
        self._hook = SharedHook(bitahub_conn_id, self._apply)
        self._schedule = Schedule(self._start_querying)
        self._listing = ListingCost()
        # By job name: the waiters, and the job as last reported.
        self._waiters: dict[str, list[Waiter]] = {}
        self._jobs: dict[str, Job | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself would let them be collected
        self._querying: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._probe_slots = asyncio.Semaphore(PROBES)
        self._log_turns = LogTurns(self._send_in_turn)
        self._spacing = 0.0  # seconds between two requests
        self._next_request_at = 0.0
        self._unanswered = 0  # requests in a row

    async def __aenter__(self) -> Watcher:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0:
            del _watchers[self._loop][self._conn_id]
            await self._close()

    async def run(self, procedure: Procedure[T], journal: Journal) -> T:
        """Run a procedure that waits for one job or serving, and return its result. Raises what it raises.

        :param procedure: starts with a call
        :param journal: is given the answer to every query
        """
        waiter = Waiter(procedure, journal, self._plan)
        self._add(waiter)
        try:
            result: T = await waiter.outcome
            return result
        finally:
            self._remove(waiter)
            procedure.close()

    async def perform(self, procedure: Procedure[T]) -> T:
        """Run a procedure that waits for nothing, such as a stop, and return its result. Raises what it raises."""

        async def send(call: Call[Any]) -> Any:
            return await adrive(retry.retrying(call, retry.Retry()), self._send_in_turn)

        return await adrive(procedure, send)

    async def hook(self) -> BitaHubHook:
        """Return the hook of the connection as it is now. Raises ConnectFailedError: it could never be looked up."""
        return await self._hook.get()

    async def read_log(self, call: Call[T]) -> T | None:
        """Send a call that reads a log, see `LogTurns`. Logs get a quarter of the slots and of the budget."""
        return await self._log_turns.read(call, self._spacing * CONNECTIONS)

    def has_started(self, name: str) -> bool:
        """Return whether a job that somebody waits for has begun to run, as far as is known."""
        job = self._jobs.get(name)
        return job is not None and job.status is not JobStatus.WAITING

    # Waiters -----------------------------------------------------------------------------------------------------

    def _add(self, waiter: Waiter) -> None:
        if (name := waiter.job_name) is not None:
            self._waiters.setdefault(name, []).append(waiter)
            self._jobs.setdefault(name, None)
        self._schedule.add(waiter)

    def _remove(self, waiter: Waiter) -> None:
        self._schedule.remove(waiter)
        if (name := waiter.job_name) is not None:
            self._waiters[name].remove(waiter)
            if not self._waiters[name]:
                del self._waiters[name], self._jobs[name]

    def _plan(self, waiter: Waiter, pause: float, longest: float) -> None:
        if waiter.is_querying:
            # Where the list answers for all, it does not matter that all are due together.
            self._schedule.plan(waiter, pause, longest, spread=not self._listing.is_used)
        else:  # such as a probe of the served program
            self._start(self._perform(waiter))

    def _deliver(self, waiter: Waiter, answer: Any) -> None:
        """Pass the answer to a query on to a waiter. An exception is raised there."""
        if not isinstance(answer, Exception):
            self._schedule.answered(waiter)
            if (name := waiter.job_name) is not None:
                self._jobs[name] = answer
        waiter.receive(answer)

    def _deliver_to_all_due(self, error: BitaHubError) -> None:
        """Let all queries that are due fail without sending them."""
        for waiter in self._schedule.take_all_due():
            self._deliver(waiter, type(error)(*error.args))  # a copy for each, since each is raised somewhere else

    # Queries -----------------------------------------------------------------------------------------------------

    def _start_querying(self) -> None:
        if self._querying is None:
            self._querying = self._start(self._query_all_due())

    async def _query_all_due(self) -> None:
        try:
            while self._schedule.due or self._schedule.due_by_name:
                try:
                    await self._query_some()
                except BitaHubError as error:  # the connection cannot be looked up
                    self._deliver_to_all_due(error)
                except Exception as error:
                    log.exception("The watcher of connection %s failed", self._conn_id)
                    # This is a bug. It says nothing about any job, and must not leave any trigger waiting for ever.
                    self._deliver_to_all_due(TransportError(f"{type(error).__name__}: {error}"))
        finally:
            self._querying = None

    async def _query_some(self) -> None:
        """Send queries for all that is due, by the list, or for one waiter, by name."""
        await self._hook.get()  # first, since the connection says how to query
        if self._schedule.due:
            if self._is_list_worthwhile():
                await self._query_list()
            else:
                self._schedule.require_all_names()
        if self._schedule.due_by_name:
            await self._start_query_by_name()

    async def _start_query_by_name(self) -> None:
        await self._slots.acquire()
        waiter = None
        try:
            await self._wait_for_budget()
            waiter = self._schedule.next_by_name()  # None: it was removed meanwhile
        finally:
            if waiter is None:
                self._slots.release()
        if waiter is not None:
            self._start(self._query_by_name(waiter))

    async def _query_by_name(self, waiter: Waiter) -> None:
        try:
            answer: Any = await self._send(waiter.call)
        except Exception as error:
            answer = error
        finally:
            self._slots.release()
        if waiter.is_done:
            return
        if isinstance(answer, Exception) and self._repeat(waiter, answer):
            return
        self._deliver(waiter, answer)

    def _repeat(self, waiter: Waiter, error: Exception) -> bool:
        """Plan a failed query once more, and return whether that is worthwhile."""
        is_worthwhile = retry.concerns_one_query(error) and self._unanswered < _UNREACHABLE
        return is_worthwhile and self._schedule.repeat(waiter, retry.WATCHER_RETRY)

    async def _perform(self, waiter: Waiter) -> None:
        """Perform a call that is no query."""
        try:
            answer: Any = await self._send_in_turn(waiter.call)
        except Exception as error:
            answer = error
        waiter.receive(answer)

    def _is_list_worthwhile(self) -> bool:
        only_new = self._schedule.has_only_new_due()
        return self._listing.is_worthwhile(
            self._schedule.due, len(self._waiters), only_new=only_new, now=self._loop.time()
        )

    async def _query_list(self) -> None:
        """Query the list of jobs, and deliver its answers to all waiters. What it does not answer is due by name."""
        try:
            await self._read_list()
        except Exception as error:
            if not isinstance(error, BitaHubError):
                log.exception("The list of jobs could not be used")
            self._listing.failed(error, self._loop.time())

    async def _read_list(self) -> None:
        wanted = len(self._waiters)
        missing = {*self._waiters}  # not those that come later, which may be on a page that was read already
        pages = JobPages(PAGE, known=self._jobs)
        while missing and not pages.is_complete and self._listing.is_next_page_worthwhile(pages, len(missing), wanted):
            found = pages.add(await self._send_in_turn(pages.next_page()))
            for name, job in found.items():
                self._deliver_from_list(name, job)
            missing.difference_update(found)
        missing &= self._waiters.keys()  # others are not waited for any more
        for name in missing:
            for waiter in self._waiters[name]:
                self._schedule.missed_by_list(waiter, LIST_VALID)
        self._listing.succeeded(pages, len(missing), self._loop.time())

    def _deliver_from_list(self, name: str, job: Job) -> None:
        for waiter in [*self._waiters.get(name, ())]:
            if job.status.is_terminal:
                self._schedule.require_name(waiter)
            elif self._schedule.answered_by_list(waiter):
                self._jobs[name] = job
                waiter.receive(job)

    # Sending -----------------------------------------------------------------------------------------------------

    async def _send_in_turn(self, call: Call[T]) -> T:
        """Send any call as soon as a slot is free and the budget allows it. Raises a BitaHubError, as `_send` does."""
        await self._hook.get()  # first, since the connection says what the budget is
        async with self._probe_slots if call.request.is_foreign else nullcontext(), self._slots:
            await self._wait_for_budget()
            return await self._send(call)

    async def _send(self, call: Call[T]) -> T:
        """Send a call immediately. Raises a BitaHubError: whatever else goes wrong says nothing about any job."""
        try:
            answer: Any = await self._hook.send(call)
        except BitaHubError as error:
            answer = error
        except Exception as error:
            log.exception("Could not %s", call.request.action)
            answer = UnexpectedResponseError(f"Could not {call.request.action}: {type(error).__name__}: {error}")
        if not call.request.is_foreign:
            metrics.count(metrics.QUERIES, self._tags)
        if not (call.request.is_foreign or call.is_optional):
            self._note_for_all(answer)
        if isinstance(answer, BitaHubError):
            raise answer
        result: T = answer
        return result

    async def _wait_for_budget(self) -> None:
        """Wait until the limit of requests per second, or a pause the platform has asked for, allows a request."""
        while (wait := self._next_request_at - self._loop.time()) > 0:
            await asyncio.sleep(wait)
        self._next_request_at = max(self._next_request_at, self._loop.time() - _BURST) + self._spacing

    def _note_for_all(self, answer: Any) -> None:
        """Draw those conclusions from an answer that concern all waiters."""
        if isinstance(answer, RateLimitError):
            metrics.count(metrics.PAUSES, self._tags)
            pause_until = self._loop.time() + retry.rate_limit_pause(answer)
            self._next_request_at = max(self._next_request_at, pause_until)
            self._deliver_to_all_due(answer)
        self._unanswered = self._unanswered + 1 if isinstance(answer, TransportError) else 0
        if self._unanswered >= _UNREACHABLE:
            self._deliver_to_all_due(answer)

    # The connection, and tasks -----------------------------------------------------------------------------------

    def _apply(self, settings: Settings) -> None:
        budget = settings.number("max_requests_per_second", 1000)
        self._spacing = 1 / budget
        self._schedule.early_rate = min(EARLY_RATE, budget / 2)
        self.longest_poll_interval = settings.number("longest_poll_interval", 0)
        self._listing = ListingCost()  # what is known of the list may be about another platform
        self._listing.mode = settings.choice("watch", WATCH_MODES)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own, so that its log lines do not go to the log of the task that happens to cause it.
        task = Context().run(self._loop.create_task, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _close(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hook.close()
