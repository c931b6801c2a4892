"""Following a job's log in the triggerer, beside the waiting for the job."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.xcom import XCom

from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.procedures.job_log import CURSOR_KEY, JobLog, Pauses
from airflow_bitahub.secret_digests import SecretMask
from airflow_bitahub.triggers.watch.line_budget import AT_ONCE, shared_budget

if TYPE_CHECKING:
    from airflow_bitahub.triggers.watch.watcher import Watcher

_LAST_CURSOR_TIMEOUT = 5.0  # seconds


@asynccontextmanager
async def following(
    watcher: Watcher, task_instance: Any, log: Any, job_name: str, interval: float, masks: Mapping[str, Any]
) -> AsyncIterator[None]:
    """Log new lines of a job's log while the block runs, whatever that costs: it neither fails nor delays the block.

    Without a task instance, as in `dag.test()`, the cursor cannot be kept, so that lines would come twice. Then the
    worker logs them all at the end.

    :param log: the trigger's logger
    :param interval: seconds between two looks; 0: none
    :param masks: see `secret_digests`
    """
    if not interval or task_instance is None:
        yield
        return
    follower = _LogFollower(watcher, task_instance, log, job_name, interval, masks)
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await follower.end()


class _LogFollower:
    """Follows the log of the job that a trigger waits for, see `following`."""

    def __init__(
        self, watcher: Watcher, ti: Any, log: Any, job_name: str, interval: float, masks: Mapping[str, Any]
    ) -> None:
        self._task = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
        self._log = log
        self._mask = SecretMask(masks)
        self._name = job_name
        self._interval = interval
        self._watcher = watcher
        self._budget = shared_budget()
        self._clock = asyncio.get_running_loop().time
        self._pauses = Pauses(self._clock)
        self._saved_at = self._clock()
        self._job_log: JobLog | None = None
        self._pending: deque[str] = deque()  # lines that were read and not logged yet
        self._unsaved: Any = None  # the cursor after them

    async def run(self) -> None:
        """Follow the log until this is cancelled."""
        self._budget.followers += 1
        try:
            # Triggers that start together must not read together for ever.
            await asyncio.sleep(random.random() * self._budget.pause(self._interval))  # noqa: S311
            while True:
                try:
                    if self._watcher.has_started(self._name) and self._pauses.is_over:
                        await self._look()
                except Exception as error:  # such as one of Airflow's store; the next look may fare better
                    self._log.debug("The job's log could not be followed: %s", error)
                await asyncio.sleep(self._budget.pause(self._interval))
        finally:
            self._budget.followers -= 1

    async def end(self) -> None:
        """Log what was read, and store how far that is, for the worker."""
        while self._pending:
            self._write(min(AT_ONCE, len(self._pending)))
            await asyncio.sleep(0)
        if self._unsaved is not None:
            await asyncio.wait({asyncio.create_task(self._save())}, timeout=_LAST_CURSOR_TIMEOUT)

    async def _look(self) -> None:
        if self._job_log is None:
            self._job_log = JobLog(self._name, await XCom.aget_one(key=CURSOR_KEY, **self._task), self._mask)
        job_log = self._job_log
        try:
            most = self._budget.share(self._interval)
            parts = await self._watcher.read_log(job_log.call(most))
        except BitaHubError as error:
            self._pauses.failed(error)
            return
        if parts is None:
            return
        self._pauses.succeeded()
        # Many secrets in many long lines take seconds to mask.
        look = await asyncio.to_thread(job_log.take, parts, most) if self._mask.longest else job_log.take(parts, most)
        self._unsaved = job_log.cursor
        self._pending += look.shown()
        while self._pending:
            self._write(await self._budget.spend(len(self._pending)))
        if self._clock() - self._saved_at >= self._budget.cursor_pause:
            await self._save()

    def _write(self, lines: int) -> None:
        for _ in range(lines):
            self._log.info("%s", self._pending.popleft())

    async def _save(self) -> None:
        cursor, self._saved_at = self._unsaved, self._clock()
        await XCom.aset(key=CURSOR_KEY, value=cursor, **self._task)
        if self._unsaved is cursor:
            self._unsaved = None
