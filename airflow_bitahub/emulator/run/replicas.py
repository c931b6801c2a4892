"""Runs one replica of a serving: starts its program, finds where it listens, restarts it, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.listener import LOOPBACK
from airflow_bitahub.emulator.mounts.relay import OUTSIDE
from airflow_bitahub.emulator.mounts.sandbox import SandboxWorkdir
from airflow_bitahub.emulator.mounts.workdir import BindMount, Workdir, network_in, normalize_mount_path
from airflow_bitahub.emulator.run.gateway import Backend
from airflow_bitahub.emulator.run.outbound import Outbound
from airflow_bitahub.emulator.run.ports import backend_in, backend_of, is_taken, listens
from airflow_bitahub.emulator.run.processes import ProcessGroup, RecoverableCommand
from airflow_bitahub.emulator.run.runs import (
    RunContext,
    Runs,
    build_message,
    failure_message,
    image_mounts,
    log_excerpt,
)
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import Replica

_MAX_RESTART_DELAY = 60  # seconds
_LONGEST_PAUSE = 0.25  # seconds between two looks whether a program listens
_IN_USE = "in use"  # what programs say whose port is taken


class _End(NamedTuple):
    """How a program ended.

    :param code: its exit code; None: it never ran
    """

    message: str
    code: int | None = None


class ReplicaRuns(Runs[ServingKey, None]):
    """The part of running servings that is about one replica.

    :param restarts: how often a program is restarted after it has ended
    """

    def __init__(self, context: RunContext, *, restarts: int) -> None:
        super().__init__(context)
        self._restarts = restarts
        self._has_private_networks = context.workdir_type is SandboxWorkdir
        self._ports: set[int] = set()  # that programs were told to use
        self._programs: dict[tuple[ServingKey, int], ProcessGroup] = {}
        self._backends: dict[tuple[ServingKey, int], Backend] = {}
        self._changes: dict[ServingKey, asyncio.Event] = {}

    def _answering(self, key: ServingKey) -> list[Backend]:
        """Return the programs of a serving that may be asked now."""
        running = [(key, replica.number) for replica in self._state.serving(key).running]
        return [self._backends[replica] for replica in running if replica in self._backends]

    def _replica_trace(self, key: ServingKey, number: int) -> Path:
        return self._trace_of(key, str(number)) / "program"

    def _model_mount(self, spec: ServingSpec) -> dict[str, BindMount]:
        folder = self._storage.locate_input("model", spec.model.path)
        return {normalize_mount_path(spec.model.mount_path): BindMount(folder)}

    async def _end_leftovers(self, key: ServingKey, running: set[int]) -> None:
        """End the programs of an earlier, killed emulator whose replicas are not in `running`."""
        for folder in self._replica_trace(key, 0).parent.parent.glob("*"):
            if int(folder.name) not in running:
                await RecoverableCommand(folder / "program").find().end(self._context.grace)
                Workdir.remove_recorded(folder / "program")
                shutil.rmtree(folder, ignore_errors=True)

    async def _follow_replica(self, key: ServingKey, replica: Replica, script: ScriptedServing | None) -> None:
        """Run a replica until it has failed for good, and record that."""
        try:
            end = await (self._run_replica(key, replica) if script is None else self._play(key, replica, script))
        except Exception as error:
            end = _End(failure_message(error))
        await self._write(partial(self._state.fail_replica, key, replica.number, end.code, end.message))

    async def _play(self, key: ServingKey, replica: Replica, script: ScriptedServing) -> _End:
        await self._write(partial(self._state.launch_replica, key, replica.number, 0))
        if script.exit_code is not None:
            return self._end(key, replica, script.exit_code)
        await self._write(partial(self._state.set_replica_ready, key, replica.number))
        self._changes[key].set()
        await asyncio.Event().wait()  # the script's app answers the requests
        raise AssertionError("unreachable")

    async def _run_replica(self, key: ServingKey, replica: Replica) -> _End:
        """Run a replica's program, restart it after growing delays, and return how it ended the last time."""
        port = replica.spec.protocols[0].port if self._has_private_networks else replica.port or self._free_port()
        self._ports.add(port)
        try:
            is_found = replica.status is ServingStatus.RUNNING
            end = await (self._continue_program(key, replica) if is_found else self._run_program(key, replica, port))
            for restart in range(replica.restarts + 1, self._restarts + 1):
                delay = min(2 ** (restart - 1), _MAX_RESTART_DELAY)
                message = f"restart {restart} of {self._restarts} in {delay} s: {end.message}"
                record = partial(self._state.restart_replica, key, replica.number, restart, end.code, message)
                await self._write(record)
                await self._sleep(delay)
                end = await self._run_program(key, replica, port, message)
            return end
        finally:
            self._ports.discard(port)

    async def _run_program(self, key: ServingKey, replica: Replica, port: int, message: str = "") -> _End:
        """Run a replica's program once, and return how it ended.

        :param message: what the replica says until the program listens
        """
        spec, trace = replica.spec, self._replica_trace(key, replica.number)
        image = self._images.find(spec.image)
        if not self._images.is_ready(image):
            waits_for = build_message(spec.image)
            self._try_to_write(partial(self._state.set_replica_message, key, replica.number, waits_for))
        python = await self._images.prepare(image)
        mounts = {**image_mounts(image), **self._model_mount(spec)}
        private_port = port if self._has_private_networks else None
        with self._context.workdir_type(mounts, python, private_port) as workdir:
            variables = {
                **{name: workdir.map_paths(value) for name, value in spec.envs.items()},
                # In a network of its own it is the declared port. On a shared one, not all can listen on that.
                "HOST": LOOPBACK,
                "PORT": str(port),
            }
            workdir.record_path(trace)
            command = "\n".join(spec.commands)
            async with self._way_out(workdir.path):
                group = RecoverableCommand(trace).start(command, workdir, variables, self.log_of(key))
                launch = partial(self._state.launch_replica, key, replica.number, port, message)
                return await self._follow_program(key, replica, group, workdir.path, port, launch)

    async def _continue_program(self, key: ServingKey, replica: Replica) -> _End:
        """Wait for a replica's program that an earlier emulator started, and return how it ended."""
        trace = self._replica_trace(key, replica.number)
        folder = Workdir.recorded(trace)
        group = RecoverableCommand(trace).find()
        try:
            async with self._way_out(folder):
                return await self._follow_program(key, replica, group, folder, replica.port)
        finally:
            await group.end(self._context.grace)  # unless it has ended: the way out may have failed, or been cancelled
            Workdir.remove_recorded(trace)

    async def _follow_program(
        self,
        key: ServingKey,
        replica: Replica,
        group: ProcessGroup,
        workdir: Path | None,
        port: int,
        record: Callable[[], None] = lambda: None,
    ) -> _End:
        """Wait for a program that runs, and return how it ended. It is asked from when it listens.

        :param workdir: None: nobody knows
        :param record: records that it was started
        """
        declared = replica.spec.protocols[0].port
        if workdir is not None and network_in(workdir).exists():
            find = partial(backend_in, workdir)
        else:
            find = partial(backend_of, group, (port, declared))
        self._context.memory.add(group, replica.spec.resource.memory_mb, self.log_of(key))
        self._programs[key, replica.number] = group
        search = None
        try:
            await self._write(record)
            search = asyncio.create_task(self._find(key, replica.number, find))
            return self._end(key, replica, await group.wait())
        finally:
            if search is not None:
                search.cancel()
            if backend := self._backends.get((key, replica.number)):
                if any(one.number == replica.number for one in self._state.serving(key).ending):
                    await backend.drain(self._context.grace)
                del self._backends[key, replica.number]
                backend.close()
            await group.end(self._context.grace)
            del self._programs[key, replica.number]
            shutil.rmtree(self._replica_trace(key, replica.number).parent, ignore_errors=True)

    async def _find(self, key: ServingKey, number: int, find: Callable[[], Backend | None]) -> None:
        """Wait until a program listens, and record that."""
        pause = 0.02
        while (backend := find()) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        self._backends[key, number] = backend
        await self._write(partial(self._state.set_replica_ready, key, number))
        self._changes[key].set()

    def _way_out(self, workdir: Path | None) -> contextlib.AbstractAsyncContextManager[object]:
        """Return what opens the connections of a program with a network of its own, while it runs."""
        if workdir is None or not network_in(workdir).exists():
            return contextlib.nullcontext()
        return Outbound(network_in(workdir) / OUTSIDE)

    def _end(self, key: ServingKey, replica: Replica, code: int) -> _End:
        """Return how a program ended. If its own port is in use, a common cause, say by whom."""
        excerpt, cause = log_excerpt(self.log_of(key)), ""
        port = replica.spec.protocols[0].port
        if not self._has_private_networks and is_taken(port):
            others = [who for who in self._programs if who != (key, replica.number)]
            user = next((who for who in others if listens(self._programs[who], port)), None)
            owner = "another program"
            if user is not None:
                owner = f"replica {user[1]} of {'this serving' if user[0] == key else user[0]}"
            if user is not None or _IN_USE in excerpt:  # otherwise it may be of no importance
                cause = (
                    f"; port {port} is in use by {owner}. Without bubblewrap, all programs share this machine's "
                    "network: let the program listen on $PORT"
                )
        return _End(f"the program ended by itself with exit code {code}{cause}{excerpt}", code)

    def _free_port(self) -> int:
        """Choose a free port that no other program was told to use, even if that program does not listen yet."""
        while True:
            with socket.create_server((LOOPBACK, 0)) as free:
                port: int = free.getsockname()[1]
            if port not in self._ports:
                return port
