"""Performs what `state.py` records: everything that runs, as a whole."""

from __future__ import annotations

import asyncio
import contextlib

from airflow_bitahub.emulator.run.jobs import JobRuns
from airflow_bitahub.emulator.run.runs import Workshop
from airflow_bitahub.emulator.run.servings import ServingRuns
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.errors import Unknown


class Runner:
    """Runs jobs and servings. Its methods are called in the event loop that serves the requests.

    :param expire: seconds after its end at which a job or serving is removed; None: it is kept
    :param oversized_fail: a job for which there can never be room becomes UNDERPOWERED, instead of being refused
    :param serving_restarts: so often each program of a serving that has ended is started again
    :param serving_tokens: servings refuse who does not bring their access token
    """

    def __init__(
        self,
        workshop: Workshop,
        capacity: Capacity,
        *,
        expire: float | None,
        oversized_fail: bool,
        serving_restarts: int,
        serving_tokens: bool,
    ) -> None:
        self.jobs = JobRuns(workshop, capacity, oversized_fail=oversized_fail)
        self.servings = ServingRuns(workshop, restarts=serving_restarts, need_tokens=serving_tokens)
        self._state = workshop.state
        self._images = workshop.images
        self._expire = expire
        self._sweep: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """Go on with what an earlier emulator on this home has left."""
        self.jobs.resume()
        self.servings.resume()
        if self._expire is not None:
            self._sweep = asyncio.create_task(self._remove_expired(self._expire))

    async def _remove_expired(self, seconds: float) -> None:
        while True:
            before = self._state.now() - seconds * 1000
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
            with contextlib.suppress(Unknown):  # somebody else removes it
                await self.servings.delete(servings[0].key)
        while jobs := self._state.jobs():
            with contextlib.suppress(Unknown):
                self.jobs.delete(jobs[0].key)
            if task := self.jobs.tasks.get(jobs[0].key):
                await asyncio.wait([task])

    async def close(self) -> None:
        """Stop every job and serving, wait until nothing runs, and give up all builds."""
        for key, job in list(self.jobs.tasks.items()):
            if self._state.stop_job(key):
                job.cancel()
        for name, serving in list(self.servings.tasks.items()):
            if self._state.stop_serving(name):
                serving.cancel()
        while running := [*self.jobs.tasks.values(), *self.servings.tasks.values()]:
            await asyncio.wait(running)
        if self._sweep is not None:
            self._sweep.cancel()
        await self._images.close()
