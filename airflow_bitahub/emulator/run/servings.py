"""Performs what `state.py` records of servings: starts their programs, again if need be, and ends them."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from pathlib import Path

from airflow_bitahub.api.servings import ServingSpec, ServingStatus
from airflow_bitahub.emulator.mounts.workdir import Folder, Room, clean
from airflow_bitahub.emulator.run.gateway import LOOPBACK, Gateway, Guard, Spread
from airflow_bitahub.emulator.run.processes import TracedCommand
from airflow_bitahub.emulator.run.runs import (
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
from airflow_bitahub.emulator.state.errors import Invalid
from airflow_bitahub.emulator.state.state import Replica, ServingKey, ServingRecord

MAX_REPLICAS = 64
_LONGEST_PAUSE = 60  # seconds before a restart
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class ServingRuns(Runs[ServingKey, None]):
    """Runs servings, all at once.

    :param restarts: so often each program that has ended is started again
    :param need_tokens: servings refuse who does not bring their access token
    """

    def __init__(self, workshop: Workshop, *, restarts: int, need_tokens: bool) -> None:
        super().__init__(workshop)
        self._restarts = restarts
        self._need_tokens = need_tokens
        self._ports: set[int] = set()
        self._changes: dict[ServingKey, asyncio.Event] = {}

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
        self._check(spec)
        record = self._state.create_serving(namespace, spec)
        new_log(self.log_of(record.key))
        self._begin(record.key)
        return record

    def update(self, key: ServingKey, spec: ServingSpec) -> None:
        """Let a serving be another from now on; it keeps its address, its access token and its record.

        Programs that go on as they are do not notice. The others end before new ones start, so that it never takes
        more than it asks for: it is away meanwhile.

        :raises Unknown: there is none
        :raises Invalid: the new one could never run here; nothing was changed
        """
        self._state.serving(key)
        if (spec.name, spec.version) != (key.name, key.version):
            raise Invalid(f"name, version: {spec.name!r}, {spec.version!r} are not the {key} in the address")
        self._check(spec)
        self._state.update_serving(key, spec)
        if change := self._changes.get(key):
            change.set()

    def scale(self, key: ServingKey, replicas: int) -> None:
        """Let so many programs of a serving run. Raises Unknown, and Invalid as `update` does."""
        self.update(key, self._state.serving(key).spec.model_copy(update={"replicas": replicas}))

    async def start(self, key: ServingKey) -> None:
        """Run a serving that was stopped or has failed again; nothing happens to one that is alive. Raises Unknown."""
        if self._state.serving(key).status is ServingStatus.STOPPING:
            await asyncio.wait([self.tasks[key]])
        if self._state.start_serving(key):
            self._begin(key)

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
                self._begin(serving.key)

    def _check(self, spec: ServingSpec) -> None:
        if spec.replicas > MAX_REPLICAS:
            raise Invalid(f"replicas: the emulator runs at most {MAX_REPLICAS} of one serving")
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
        if self._scripts.for_serving(spec) is None:
            self._mounts(spec)
            self._images.find(spec.image)

    def _mounts(self, spec: ServingSpec) -> dict[str, Folder]:
        return {clean(spec.model.mount_path): Folder(self._storage.locate_input("model", spec.model.path))}

    def _begin(self, key: ServingKey) -> None:
        self._changes[key] = asyncio.Event()
        self.begin(key, self._run(key, self._scripts.for_serving(self._state.serving(key).spec)))

    async def _run(self, key: ServingKey, script: ScriptedServing | None) -> None:
        """Serve at one address, with the replicas that the record has, until all of them have failed."""
        record = self._state.serving(key)
        if record.status is ServingStatus.STOPPING:
            await self._end_others(key, set())
            return
        await self._end_others(key, {replica.number for replica in record.running})
        app = Spread(lambda: [one.port for one in self._state.serving(key).running]) if script is None else script.app()
        last_port = int(record.url.rpartition(":")[2] or 0)
        async with Gateway(Guard(app, record.token) if self._need_tokens else app, last_port) as gateway:
            self._state.open_serving(key, gateway.url)
            await self._keep_replicas(key, script)

    async def _end_others(self, key: ServingKey, running: set[int]) -> None:
        """End what an earlier emulator, killed before it could, has left running of replicas that are not wanted."""
        for folder in self._replica_trace(key, 0).parent.parent.glob("*"):
            if int(folder.name) not in running:
                await TracedCommand(folder / "program").find().end(self._grace)
                Room.remove_noted(folder / "program")
                shutil.rmtree(folder, ignore_errors=True)

    async def _keep_replicas(self, key: ServingKey, script: ScriptedServing | None) -> None:
        """Let those replicas run that the record has, and no others, until all of them have failed."""
        live: dict[int, asyncio.Task[str]] = {}
        ending: set[asyncio.Task[str]] = set()
        change = self._changes[key]
        try:
            while True:
                change.clear()
                wanted = {replica.number: replica for replica in self._state.serving(key).replicas}
                for number in live.keys() - wanted.keys():
                    live[number].cancel()
                    ending.add(live.pop(number))
                if ending:
                    await asyncio.wait(ending)
                    ending.clear()
                for number in wanted.keys() - live.keys():
                    live[number] = self._begin_replica(key, wanted[number], script, change)
                if all(task.done() for task in live.values()):
                    return
                await change.wait()
        finally:
            for task in live.values():
                task.cancel()
            if remaining := [*live.values(), *ending]:
                await asyncio.wait(remaining)

    def _begin_replica(
        self, key: ServingKey, replica: Replica, script: ScriptedServing | None, change: asyncio.Event
    ) -> asyncio.Task[str]:
        def finish(task: asyncio.Task[str]) -> None:
            if not task.cancelled():
                self._state.fail_replica(key, replica.number, why(task) if task.exception() else task.result())
                change.set()

        work = self._keep_running(key, replica) if script is None else self._play(key, replica.number, script)
        task = asyncio.create_task(work)
        task.add_done_callback(finish)
        return task

    async def _keep_running(self, key: ServingKey, replica: Replica) -> str:
        """Run a replica's program, again as often as it may after longer and longer pauses, and tell how it ended."""
        number, port = replica.number, replica.port or self._free_port()
        self._ports.add(port)
        try:
            is_found = replica.status is ServingStatus.RUNNING
            failure = await (self._find_program(key, number) if is_found else self._serve(key, number, port))
            for restart in range(replica.restarts + 1, self._restarts + 1):
                pause = min(2 ** (restart - 1), _LONGEST_PAUSE)
                message = f"restart {restart} of {self._restarts} in {pause} s: {failure}"
                self._state.restart_replica(key, number, restart, message)
                await self.pass_time(pause)
                failure = await self._serve(key, number, port)
            return failure
        finally:
            self._ports.discard(port)

    async def _serve(self, key: ServingKey, number: int, port: int) -> str:
        """Run a replica's program until it ends, and tell how."""
        spec, trace = self._state.serving(key).spec, self._replica_trace(key, number)
        image = self._images.find(spec.image)
        if not self._images.is_ready(image):
            self._state.explain_replica(key, number, building(spec.image))
        python = await self._images.prepare(image)
        with self._make_room({**files_of(image), **self._mounts(spec)}, python) as room:
            told = {
                **{name: room.map(value) for name, value in spec.envs.items()},
                # Several programs at once cannot all have the port of their image.
                "HOST": LOOPBACK,
                "PORT": str(port),
            }
            room.note(trace)
            group = TracedCommand(trace).start("\n".join(spec.commands), room, told, self.log_of(key))
            try:
                self._state.launch_replica(key, number, port)
                return self._failure(key, number, await group.wait())
            finally:
                await group.end(self._grace)
                shutil.rmtree(trace.parent, ignore_errors=True)

    async def _find_program(self, key: ServingKey, number: int) -> str:
        """Go on with a replica whose program an earlier emulator started, until it ends, and tell how."""
        trace = self._replica_trace(key, number)
        group = TracedCommand(trace).find()
        try:
            return self._failure(key, number, await group.wait())
        finally:
            await group.end(self._grace)
            Room.remove_noted(trace)
            shutil.rmtree(trace.parent, ignore_errors=True)

    async def _play(self, key: ServingKey, number: int, script: ScriptedServing) -> str:
        self._state.launch_replica(key, number, 0)
        if script.exit_code is None:
            await asyncio.Event().wait()  # the script itself answers
        return self._failure(key, number, script.exit_code or 0)

    def _failure(self, key: ServingKey, number: int, code: int) -> str:
        """Say how a program ended; also who has the port it was meant for, which is why some do."""
        held, port = "", self._state.serving(key).spec.protocols[0].port
        for other in self._state.servings():
            meant = other.running if other.spec.protocols[0].port == port else []
            if any((other.key, replica.number) != (key, number) for replica in meant):
                try:
                    socket.create_server((LOOPBACK, port)).close()
                except OSError:
                    held = f"; port {port} is taken, it seems by {other.key}: let the program listen on $PORT"
        return f"the program ended by itself with exit code {code}{held}{ending(self.log_of(key))}"

    def over(self, key: ServingKey, task: asyncio.Task[None]) -> None:
        """Note how a serving ended."""
        del self._changes[key]
        self._state.finish_serving(key, why(task) if task.cancelled() or task.exception() else "")

    def _replica_trace(self, key: ServingKey, number: int) -> Path:
        return self.trace_of(key, str(number)) / "program"

    def _free_port(self) -> int:
        """Choose a free port that no program was told, even if that does not listen yet."""
        while True:
            with socket.create_server((LOOPBACK, 0)) as free:
                port: int = free.getsockname()[1]
            if port not in self._ports:
                return port
