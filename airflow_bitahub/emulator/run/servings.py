"""Runs the servings that `state` records: their addresses, and which replicas each of them has."""

from __future__ import annotations

import asyncio
import re
import shutil
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.run.gateway import Gateway, OriginCheck, RoundRobinProxy, TokenAuth
from airflow_bitahub.emulator.run.replicas import ReplicaRuns
from airflow_bitahub.emulator.run.runs import RunContext, check_count, check_label, check_text, create_log
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing

MAX_REPLICAS = 64
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class ServingRuns(ReplicaRuns):
    """Runs servings, all at once.

    :param restarts: how often a program is restarted after it has ended
    :param need_tokens: servings refuse requests without their access token
    :param is_rolling: an updated serving ends each old program when a new one listens; otherwise, all old ones end
        before new ones start, so a serving never uses more than it requests
    """

    def __init__(self, context: RunContext, *, restarts: int, need_tokens: bool, is_rolling: bool) -> None:
        super().__init__(context, restarts=restarts)
        self._need_tokens = need_tokens
        self._is_rolling = is_rolling

    def log_of(self, key: ServingKey) -> Path:
        """Return the file that holds what a serving printed."""
        return self._context.home / "servings" / key.namespace / key.name / key.version / "log"

    def create(self, namespace: str, spec: ServingSpec, task_url: str = "") -> StoredServing:
        """Record a serving and start it.

        :param task_url: the page of the Airflow task that creates it

        :raises Conflict: name and version are in use
        :raises InvalidRequest: it could never run here; nothing was recorded
        """
        self._state.require_unused(ServingKey(namespace, spec.name, spec.version))
        check_label("namespace", namespace)
        check_label("version", spec.version)
        self._check(spec)
        create_log(self.log_of(ServingKey(namespace, spec.name, spec.version)))
        record = self._state.create_serving(namespace, spec, task_url)
        self._begin(record.key)
        return record

    def update(self, key: ServingKey, spec: ServingSpec, task_url: str = "") -> None:
        """Give a serving another specification; it keeps its address, its access token and its record.

        Replicas that the change does not affect keep running. If the new ones fail, the old ones go on, unless updates
        are not rolling: a serving is then not available until the new ones answer.

        :param task_url: the page of the Airflow task that gives it
        :raises NotFound: there is no such serving
        :raises InvalidRequest: the new specification could never run here; nothing was changed
        """
        self._state.serving(key)
        if (spec.name, spec.version) != (key.name, key.version):
            raise InvalidRequest(f"name, version: {spec.name!r}, {spec.version!r} are not the {key} in the address")
        self._check(spec)
        self._state.update_serving(key, spec, rolling=self._is_rolling, task_url=task_url)
        if change := self._changes.get(key):
            change.set()

    def scale(self, key: ServingKey, replicas: int) -> None:
        """Change the number of replicas. Raises NotFound and InvalidRequest as `update` does."""
        self.update(key, self._state.serving(key).spec.model_copy(update={"replicas": replicas}))

    async def start(self, key: ServingKey) -> None:
        """Start a serving that has stopped or failed; do nothing if it is active. Raises NotFound."""
        if self._state.serving(key).status is ServingStatus.STOPPING:
            await asyncio.wait([self.tasks[key]])
        if self._state.start_serving(key):
            self._begin(key)

    async def delete(self, key: ServingKey) -> None:
        """Stop a serving, wait until it has ended, and remove its record and log. Raises NotFound."""
        self.stop(key)
        if task := self.tasks.get(key):
            await asyncio.wait([task])
        self._state.remove_serving(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def resume(self) -> None:
        """Continue the servings of an earlier emulator; programs that still run are found again."""
        for serving in reversed(self._state.servings()):
            if not serving.status.is_terminal:
                self._begin(serving.key)

    def _check(self, spec: ServingSpec) -> None:
        if spec.replicas > MAX_REPLICAS:
            raise InvalidRequest(f"replicas: the emulator runs at most {MAX_REPLICAS} of one serving")
        check_count("resource.cpu", spec.resource.cpu)
        check_count("resource.memory", spec.resource.memory_mb)
        if spec.resource.acc_device is not None:
            check_count("resource.accDevice.requests", spec.resource.acc_device.requests)
        for command in spec.commands:
            check_text("commands", command)
        for name, value in spec.envs.items():
            if not _VARIABLE.fullmatch(name):
                raise InvalidRequest(f"envs: {name!r} is not the name of an environment variable")
            check_text(f"envs.{name}", value)
        if self._context.scripts.for_serving(spec) is None:
            self._model_mount(spec)
            self._images.find(spec.image)

    def _begin(self, key: ServingKey) -> None:
        self._changes[key] = asyncio.Event()
        self._start_task(key, self._run(key, self._context.scripts.for_serving(self._state.serving(key).spec)))

    async def _run(self, key: ServingKey, script: ScriptedServing | None) -> None:
        """Serve at one address, with the replicas in the record, until all of them have failed."""
        record = self._state.serving(key)
        if record.status is ServingStatus.STOPPING:
            await self._end_leftovers(key, set())
            return
        await self._end_leftovers(key, {replica.number for replica in record.running})
        app: ASGIApp = script.app() if script else RoundRobinProxy(partial(self._answering, key))
        if self._need_tokens:
            app = TokenAuth(app, record.token)
        while not self._state.serving(key).has_failed:  # unless it was updated while its address was being closed
            last_port = int(self._state.serving(key).url.rpartition(":")[2] or 0)
            async with Gateway(OriginCheck(app, self._context.origins), last_port) as gateway:
                await self._write(partial(self._state.set_serving_url, key, gateway.url))
                await self._manage_replicas(key, script)

    async def _manage_replicas(self, key: ServingKey, script: ScriptedServing | None) -> None:
        """Run exactly the replicas in the record, which may change, until all of them have failed."""
        work: dict[int, asyncio.Task[None]] = {}
        ending: set[int] = set()
        change = self._changes[key]
        try:
            while True:
                change.clear()
                await self._write(partial(self._state.advance_serving, key, rolling=self._is_rolling))
                for replica in self._state.serving(key).ending:
                    task = work.get(replica.number)
                    if task is None or task.done():
                        await self._write(partial(self._state.remove_replica, key, replica.number))
                    elif replica.number not in ending:  # another cancellation would interrupt its orderly end
                        ending.add(replica.number)
                        task.cancel()
                record = self._state.serving(key)
                for replica in record.replicas if self._is_rolling or not record.ending else ():
                    is_to_run = replica.status in (ServingStatus.WAITING, ServingStatus.RUNNING)
                    if is_to_run and replica.number not in work:
                        task = asyncio.create_task(self._follow_replica(key, replica, script))
                        task.add_done_callback(lambda _: change.set())
                        work[replica.number] = task
                if record.has_failed:
                    return
                await change.wait()
        finally:
            for number, task in work.items():
                if number not in ending:
                    task.cancel()
            if work:
                await asyncio.wait(work.values())

    def _record_stop(self, key: ServingKey) -> bool:
        return self._state.stop_serving(key)

    def _record_end(self, key: ServingKey, failure: str) -> None:
        self._state.finish_serving(key, failure)

    def _release(self, key: ServingKey) -> None:
        del self._changes[key]
