"""Performs what `state.py` records of servings: starts their programs, again if need be, and ends them."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from pathlib import Path

from airflow_bitahub.api.servings import ServingSpec, ServingStatus
from airflow_bitahub.emulator.processes import TracedCommand
from airflow_bitahub.emulator.refused import Invalid
from airflow_bitahub.emulator.rooms import Folder, Room, clean
from airflow_bitahub.emulator.runs import (
    Runs,
    Workshop,
    building,
    check_count,
    check_label,
    check_text,
    ending,
    files_of,
    new_log,
    why,
)
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.state import ServingKey, ServingRecord

LOOPBACK = "127.0.0.1"
_LONGEST_PAUSE = 60  # seconds before a restart
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class ServingRuns(Runs[ServingKey, str]):
    """Runs servings, all at once. What a task returns is how the program ended.

    :param restarts: so often a program that has ended is started again
    """

    def __init__(self, workshop: Workshop, *, restarts: int) -> None:
        super().__init__(workshop)
        self._restarts = restarts
        self._ports: set[int] = set()

    def log_of(self, key: ServingKey) -> Path:
        """Give the file that holds what a serving printed."""
        return self._home / "servings" / key.namespace / key.name / key.version / "log"

    def create(self, namespace: str, spec: ServingSpec) -> ServingRecord:
        """Record a serving and start it.

        :raises Conflict: name and version are taken
        :raises Invalid: it could never run here; nothing was recorded
        """
        self._state.require_free(ServingKey(namespace, spec.name, spec.version))
        check_label("namespace", namespace)
        check_label("version", spec.version)
        check_count("replicas", spec.replicas)
        check_count("resource.cpu", spec.resource.cpu)
        check_count("resource.memory", spec.resource.memory)
        if spec.resource.acc_device is not None:
            check_count("resource.accDevice.requests", spec.resource.acc_device.requests)
        for command in spec.commands:
            check_text("commands", command)
        for name, value in spec.envs.items():
            if not _VARIABLE.fullmatch(name):
                raise Invalid(f"envs: {name!r} is not the name of an environment variable")
            check_text(f"envs.{name}", value)
        script = self._scripts.for_serving(spec)
        if script is None:
            self._mounts(spec)
            self._images.find(spec.image)
        record = self._state.create_serving(namespace, spec)
        work = self._run(record) if script is None else self._play(record.key, script)
        self.begin(record.key, work)
        return record

    def stop(self, key: ServingKey) -> None:
        """End a serving and keep its record; nothing happens to one that is over. Raises Unknown."""
        if self._state.stop_serving(key):
            self.tasks[key].cancel()

    async def delete(self, key: ServingKey) -> None:
        """End a serving, wait until it is over, and remove its record and log. Raises Unknown."""
        self.stop(key)
        if task := self.tasks.get(key):
            await asyncio.wait([task])
        self._state.remove_serving(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def resume(self) -> None:
        """Go on with what an earlier emulator has left: what waited waits on, what runs is found again."""
        for serving in reversed(self._state.servings()):
            if not serving.status.is_terminal:
                waits = serving.status is ServingStatus.WAITING
                self.begin(serving.key, self._run(serving) if waits else self._find_program(serving))

    def _mounts(self, spec: ServingSpec) -> dict[str, Folder]:
        return {clean(spec.model.mount_path): Folder(self._storage.locate_input("model", spec.model.path))}

    async def _run(self, record: ServingRecord) -> str:
        if not record.restarts:
            new_log(self.log_of(record.key))
        port = self._take_port()
        try:
            return await self._revive(record, port, await self._serve(record, port))
        finally:
            self._ports.discard(port)

    async def _revive(self, record: ServingRecord, port: int, failure: str) -> str:
        """Start a program that has ended again, as often as it may and after longer and longer pauses."""
        while (restarts := self._state.serving(record.key).restarts) < self._restarts:
            pause = min(2**restarts, _LONGEST_PAUSE)
            self._state.restart_serving(
                record.key, f"restart {restarts + 1} of {self._restarts} in {pause} s: {failure}"
            )
            await self.pass_time(pause)
            failure = await self._serve(record, port)
        return failure

    async def _serve(self, record: ServingRecord, port: int) -> str:
        """Run a serving's program until it ends, and tell how."""
        key, spec = record.key, record.spec
        image = self._images.find(spec.image)
        if not self._images.is_ready(image):
            self._state.explain_serving(key, building(spec.image))
        python = await self._images.prepare(image)
        with self._make_room({**files_of(image), **self._mounts(spec)}, python) as room:
            told = {
                **{name: room.map(value) for name, value in spec.envs.items()},
                # Several servings at once cannot all have the port of their image.
                "HOST": LOOPBACK,
                "PORT": str(port),
            }
            room.note(self.trace_of(key, "program"))
            program = TracedCommand(self.trace_of(key, "program"))
            await program.find().end(self._grace)  # started by an emulator that was killed before it could say so
            group = program.start("\n".join(spec.commands), room, told, self.log_of(key))
            try:
                self._state.launch_serving(key, f"http://{LOOPBACK}:{port}")
                return self._failure(key, await group.wait())
            finally:
                await group.end(self._grace)

    async def _find_program(self, record: ServingRecord) -> str:
        """Go on with a serving whose program an earlier emulator started."""
        group = TracedCommand(self.trace_of(record.key, "program")).find()
        port = int(record.url.rpartition(":")[2] or 0)
        self._ports.add(port)
        try:
            try:
                if record.status is ServingStatus.STOPPING:
                    return ""
                failure = self._failure(record.key, await group.wait())
            finally:
                await group.end(self._grace)
                Room.remove_noted(self.trace_of(record.key, "program"))
            return await self._revive(record, port, failure)
        finally:
            self._ports.discard(port)

    async def _play(self, key: ServingKey, script: ScriptedServing) -> str:
        new_log(self.log_of(key))
        with socket.create_server((LOOPBACK, 0)) as listener:
            self._state.launch_serving(key, f"http://{LOOPBACK}:{listener.getsockname()[1]}")
            if script.exit_code is None:
                await script.serve(listener)
        return self._failure(key, script.exit_code or 0)

    def _failure(self, key: ServingKey, code: int) -> str:
        """Say how a program ended; also who has the port it was meant for, which is why some do."""
        held, port = "", self._state.serving(key).spec.protocols[0].port
        for other in self._state.servings():
            has_it = other.status is ServingStatus.RUNNING and other.spec.protocols[0].port == port
            if has_it and other.key != key:
                try:
                    socket.create_server((LOOPBACK, port)).close()
                except OSError:
                    held = f"; port {port} is taken, it seems by {other.key}: let the program listen on $PORT"
        return f"the program ended by itself with exit code {code}{held}{ending(self.log_of(key))}"

    def over(self, key: ServingKey, task: asyncio.Task[str]) -> None:
        """Note how a serving ended."""
        self._state.finish_serving(key, why(task) if task.cancelled() or task.exception() else task.result())

    def _take_port(self) -> int:
        """Choose a free port that no serving was told, even if its program does not listen yet."""
        while True:
            with socket.create_server((LOOPBACK, 0)) as free:
                port: int = free.getsockname()[1]
            if port not in self._ports:
                self._ports.add(port)
                return port
