"""Runs the servings that `state` records: starts their programs, restarts them, and ends them."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.listener import LOOPBACK
from airflow_bitahub.emulator.mounts.sandbox import SandboxWorkdir
from airflow_bitahub.emulator.mounts.workdir import BindMount, Workdir, normalize_mount_path, socket_in
from airflow_bitahub.emulator.run.gateway import Gateway, OriginCheck, RoundRobinProxy, TokenAuth
from airflow_bitahub.emulator.run.processes import RecoverableCommand
from airflow_bitahub.emulator.run.runs import (
    RunContext,
    Runs,
    build_message,
    check_count,
    check_label,
    check_text,
    create_log,
    failure_message,
    image_mounts,
    log_excerpt,
)
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import Replica, ServingKey, StoredServing

MAX_REPLICAS = 64
_MAX_RESTART_DELAY = 60  # seconds
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class ServingRuns(Runs[ServingKey, None]):
    """Runs servings, all at once.

    :param restarts: how often a program is restarted after it has ended
    :param need_tokens: servings refuse requests without their access token
    """

    def __init__(self, context: RunContext, *, restarts: int, need_tokens: bool) -> None:
        super().__init__(context)
        self._restarts = restarts
        self._need_tokens = need_tokens
        # Otherwise another program could find the port and go round the token.
        self._has_private_networks = need_tokens and context.workdir_type is SandboxWorkdir
        self._ports: set[int] = set()
        self._sockets: dict[tuple[ServingKey, int], Path] = {}
        self._changes: dict[ServingKey, asyncio.Event] = {}

    def log_of(self, key: ServingKey) -> Path:
        """Return the file that holds what a serving printed."""
        return self._context.home / "servings" / key.namespace / key.name / key.version / "log"

    def create(self, namespace: str, spec: ServingSpec) -> StoredServing:
        """Record a serving and start it.

        :raises Conflict: name and version are in use
        :raises InvalidRequest: it could never run here; nothing was recorded
        """
        self._state.require_unused(ServingKey(namespace, spec.name, spec.version))
        check_label("namespace", namespace)
        check_label("version", spec.version)
        self._check(spec)
        create_log(self.log_of(ServingKey(namespace, spec.name, spec.version)))
        record = self._state.create_serving(namespace, spec)
        self._begin(record.key)
        return record

    def update(self, key: ServingKey, spec: ServingSpec) -> None:
        """Give a serving another specification; it keeps its address, its access token and its record.

        Replicas that the change does not affect keep running. All others end before new ones start, so a serving never
        uses more than it requests. Until the new ones answer, the serving is not available.

        :raises NotFound: there is no such serving
        :raises InvalidRequest: the new specification could never run here; nothing was changed
        """
        self._state.serving(key)
        if (spec.name, spec.version) != (key.name, key.version):
            raise InvalidRequest(f"name, version: {spec.name!r}, {spec.version!r} are not the {key} in the address")
        self._check(spec)
        self._state.update_serving(key, spec)
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
            self._mounts(spec)
            self._images.find(spec.image)

    def _mounts(self, spec: ServingSpec) -> dict[str, BindMount]:
        folder = self._storage.locate_input("model", spec.model.path)
        return {normalize_mount_path(spec.model.mount_path): BindMount(folder)}

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
        app: ASGIApp = script.app() if script else RoundRobinProxy(lambda: self._addresses(key))
        last_port = int(record.url.rpartition(":")[2] or 0)
        if self._need_tokens:
            app = TokenAuth(app, record.token)
        async with Gateway(OriginCheck(app, self._context.origins), last_port) as gateway:
            await self._write(partial(self._state.set_serving_url, key, gateway.url))
            await self._manage_replicas(key, script)

    def _addresses(self, key: ServingKey) -> list[int | Path]:
        """Return the port of each program that runs, or the socket file where it has a network of its own."""
        running = self._state.serving(key).running
        return [self._sockets.get((key, replica.number), replica.port) for replica in running]

    async def _end_leftovers(self, key: ServingKey, running: set[int]) -> None:
        """End the programs of an earlier, killed emulator whose replicas are not in `running`."""
        for folder in self._replica_trace(key, 0).parent.parent.glob("*"):
            if int(folder.name) not in running:
                await RecoverableCommand(folder / "program").find().end(self._context.grace)
                Workdir.remove_recorded(folder / "program")
                shutil.rmtree(folder, ignore_errors=True)

    async def _manage_replicas(self, key: ServingKey, script: ScriptedServing | None) -> None:
        """Run exactly the replicas in the record, which may change, until all of them have failed."""
        active: dict[int, asyncio.Task[None]] = {}
        ending: set[asyncio.Task[None]] = set()
        change = self._changes[key]
        try:
            while True:
                change.clear()
                desired = {replica.number: replica for replica in self._state.serving(key).replicas}
                for number in active.keys() - desired.keys():
                    active[number].cancel()
                    ending.add(active.pop(number))
                if ending:
                    await asyncio.wait(ending)
                    ending.clear()
                for number in desired.keys() - active.keys():
                    work = self._follow_replica(key, desired[number], script, change)
                    active[number] = asyncio.create_task(work)
                if all(task.done() for task in active.values()):
                    return
                await change.wait()
        finally:
            for task in active.values():
                task.cancel()
            if remaining := [*active.values(), *ending]:
                await asyncio.wait(remaining)

    async def _follow_replica(
        self, key: ServingKey, replica: Replica, script: ScriptedServing | None, change: asyncio.Event
    ) -> None:
        try:
            work = self._run_replica(key, replica) if script is None else self._play_script(key, replica.number, script)
            message = await work
        except Exception as error:
            message = failure_message(error)
        await self._write(partial(self._state.fail_replica, key, replica.number, message))
        change.set()

    async def _run_replica(self, key: ServingKey, replica: Replica) -> str:
        """Run a replica's program, restart it after growing delays, and return how it ended the last time."""
        number, port = replica.number, replica.port
        if self._has_private_networks:
            port = self._state.serving(key).spec.protocols[0].port
        port = port or self._free_port()
        self._ports.add(port)
        try:
            is_found = replica.status is ServingStatus.RUNNING
            failure = await (self._continue_program(key, number) if is_found else self._run_program(key, number, port))
            for restart in range(replica.restarts + 1, self._restarts + 1):
                delay = min(2 ** (restart - 1), _MAX_RESTART_DELAY)
                message = f"restart {restart} of {self._restarts} in {delay} s: {failure}"
                await self._write(partial(self._state.restart_replica, key, number, restart, message))
                await self._sleep(delay)
                failure = await self._run_program(key, number, port)
            return failure
        finally:
            self._ports.discard(port)

    async def _run_program(self, key: ServingKey, number: int, port: int) -> str:
        """Run a replica's program once, and return how it ended."""
        spec, trace = self._state.serving(key).spec, self._replica_trace(key, number)
        image = self._images.find(spec.image)
        if not self._images.is_ready(image):
            self._try_to_write(partial(self._state.set_replica_message, key, number, build_message(spec.image)))
        python = await self._images.prepare(image)
        private_port = port if self._has_private_networks else None
        with self._context.workdir_type({**image_mounts(image), **self._mounts(spec)}, python, private_port) as workdir:
            if private_port is not None:
                self._sockets[key, number] = socket_in(workdir.path)
            variables = {
                **{name: workdir.map_paths(value) for name, value in spec.envs.items()},
                # Several programs on one machine cannot all listen on the port of their image.
                "HOST": LOOPBACK,
                "PORT": str(port),
            }
            workdir.record_path(trace)
            command = "\n".join(spec.commands)
            group = RecoverableCommand(trace).start(command, workdir, variables, self.log_of(key))
            self._context.memory.add(group, spec.resource.memory_mb, self.log_of(key))
            try:
                await self._write(partial(self._state.launch_replica, key, number, port))
                return self._program_failure(key, number, await group.wait())
            finally:
                self._sockets.pop((key, number), None)
                await group.end(self._context.grace)
                shutil.rmtree(trace.parent, ignore_errors=True)

    async def _continue_program(self, key: ServingKey, number: int) -> str:
        """Wait for a replica's program that an earlier emulator started, and return how it ended."""
        trace = self._replica_trace(key, number)
        if (folder := Workdir.recorded(trace)) and (file := socket_in(folder)).exists():
            self._sockets[key, number] = file
        group = RecoverableCommand(trace).find()
        self._context.memory.add(group, self._state.serving(key).spec.resource.memory_mb, self.log_of(key))
        try:
            return self._program_failure(key, number, await group.wait())
        finally:
            self._sockets.pop((key, number), None)
            await group.end(self._context.grace)
            Workdir.remove_recorded(trace)
            shutil.rmtree(trace.parent, ignore_errors=True)

    async def _play_script(self, key: ServingKey, number: int, script: ScriptedServing) -> str:
        await self._write(partial(self._state.launch_replica, key, number, 0))
        if script.exit_code is None:
            await asyncio.Event().wait()  # the script's app answers the requests
        return self._program_failure(key, number, script.exit_code or 0)

    def _program_failure(self, key: ServingKey, number: int, code: int) -> str:
        """Return how a program ended. If its own port is in use, a common cause, name the serving that uses it."""
        cause, port = "", self._state.serving(key).spec.protocols[0].port
        for other in self._state.servings():
            candidates = other.running if other.spec.protocols[0].port == port else []
            if any((other.key, replica.number) != (key, number) for replica in candidates):
                try:
                    socket.create_server((LOOPBACK, port)).close()
                except OSError:
                    cause = f"; port {port} is in use, probably by {other.key}: let the program listen on $PORT"
        return f"the program ended by itself with exit code {code}{cause}{log_excerpt(self.log_of(key))}"

    def _record_stop(self, key: ServingKey) -> bool:
        return self._state.stop_serving(key)

    def _record_end(self, key: ServingKey, failure: str) -> None:
        self._state.finish_serving(key, failure)

    def _release(self, key: ServingKey) -> None:
        del self._changes[key]

    def _replica_trace(self, key: ServingKey, number: int) -> Path:
        return self._trace_of(key, str(number)) / "program"

    def _free_port(self) -> int:
        """Choose a free port that no other program was told to use, even if that program does not listen yet."""
        while True:
            with socket.create_server((LOOPBACK, 0)) as free:
                port: int = free.getsockname()[1]
            if port not in self._ports:
                return port
