"""Runs everything that `state` records: jobs and servings together."""

from __future__ import annotations

import asyncio
import contextlib

from airflow_bitahub.emulator.run.jobs import JobRuns
from airflow_bitahub.emulator.run.runs import RunContext
from airflow_bitahub.emulator.run.servings import ServingRuns
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.errors import NotFound, NotWritten

SERVING_UPDATES = (ROLLING := "rolling", "recreate")  # see `ServingRuns`


class Runner:
    """Runs jobs and servings. Its methods must be called in the event loop that serves the requests.

    :param expire: seconds after its end at which a job or serving is removed; None: never
    :param oversized_fail: a job that can never run becomes UNDERPOWERED instead of being refused
    :param serving_restarts: how often a program of a serving is restarted after it has ended
    :param serving_tokens: servings refuse requests without their access token
    :param serving_update: one of `SERVING_UPDATES`
    """

    def __init__(
        self,
        context: RunContext,
        capacity: Capacity,
        *,
        expire: float | None,
        oversized_fail: bool,
        serving_restarts: int,
        serving_tokens: bool,
        serving_update: str,
    ) -> None:
        self.jobs = JobRuns(context, capacity, oversized_fail=oversized_fail)
        self.servings = ServingRuns(
            context, restarts=serving_restarts, need_tokens=serving_tokens, is_rolling=serving_update == ROLLING
        )
        self._state = context.state
        self._images = context.images
        self._expire = expire
        self._memory = context.memory
        self._background: list[asyncio.Task[None]] = []

    def resume(self) -> None:
        """Continue the jobs and servings of an earlier emulator on this home."""
        self.jobs.resume()
        self.servings.resume()
        self._background.append(asyncio.create_task(self._memory.watch()))
        if self._expire is not None:
            self._background.append(asyncio.create_task(self._remove_expired(self._expire)))

    async def _remove_expired(self, seconds: float) -> None:
        while True:
            before = self._state.now() - seconds * 1000
            with contextlib.suppress(NotWritten, NotFound):  # the next round tries again
                for job in self._state.jobs():
                    if job.status.is_terminal and job.finished < before:
                        self.jobs.delete(job.key)
                for serving in self._state.servings():
                    if serving.status.is_terminal and serving.finished < before:
                        await self.servings.delete(serving.key)
            await asyncio.sleep(min(seconds / 10 + 0.01, 1))

    async def clear(self) -> None:
        """Stop and remove every job and serving."""
        while servings := self._state.servings():
            with contextlib.suppress(NotFound):  # another request has removed it
                await self.servings.delete(servings[0].key)
        while jobs := self._state.jobs():
            with contextlib.suppress(NotFound):
                self.jobs.delete(jobs[0].key)
            if task := self.jobs.tasks.get(jobs[0].key):
                await asyncio.wait([task])

    async def close(self) -> None:
        """Stop every job and serving, wait until none of their programs runs, and cancel all builds."""
        self.jobs.close()
        self.servings.close()
        while running := [*self.jobs.tasks.values(), *self.servings.tasks.values()]:
            await asyncio.wait(running)
        for task in self._background:
            task.cancel()
        await self._images.close()
