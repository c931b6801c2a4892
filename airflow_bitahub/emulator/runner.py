"""Performs what `state.py` records: runs jobs and servings, and ends them.

One asyncio task per job or serving, all in the event loop that serves the requests. What a task returns is written
into the state when it is over, in one callback, however it came to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from airflow_bitahub.api.jobs import JobSpec, JobStatus, TaskRole
from airflow_bitahub.api.servings import ServingSpec, ServingStatus
from airflow_bitahub.emulator import rendezvous
from airflow_bitahub.emulator.capacity import Capacity
from airflow_bitahub.emulator.images import Image, Images
from airflow_bitahub.emulator.links import LinkFolder, clean
from airflow_bitahub.emulator.processes import ProcessGroup, TracedCommand, tail
from airflow_bitahub.emulator.refused import Invalid
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing, Scripts
from airflow_bitahub.emulator.state import JobKey, JobRecord, ServingKey, ServingRecord, State
from airflow_bitahub.emulator.storage import Storage
from airflow_bitahub.exceptions import BitaHubError

log = logging.getLogger(__name__)

Replica = tuple[str, int]  # of a job: role and index
K = TypeVar("K", JobKey, ServingKey)
T = TypeVar("T")

LOOPBACK = "127.0.0.1"
MAX_TASKS = 64  # of one job: more than a laptop will run
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LONGEST_PAUSE = 60  # seconds before a restart
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Outcome(NamedTuple):
    """How a job ended: `exit_code` None when it never ran."""

    exit_code: int | None
    message: str


class Runner:
    """Runs jobs, as many at once as there is room for, and servings, all at once.

    Its methods are called in the event loop.

    :param scripts: jobs and servings that take a course told in advance instead of really running
    :param home: logs are kept below ``jobs/`` and ``servings/`` there
    :param grace: seconds between SIGTERM and SIGKILL
    :param expire: seconds after its end at which a job or serving is removed; None: it is kept
    :param oversized_fail: a job for which there can never be room becomes UNDERPOWERED, instead of being refused
    :param serving_restarts: so often a serving's program that has ended is started again
    """

    def __init__(
        self,
        state: State,
        storage: Storage,
        images: Images,
        scripts: Scripts,
        home: Path,
        *,
        capacity: Capacity,
        grace: float = 5.0,
        expire: float | None = None,
        oversized_fail: bool = False,
        serving_restarts: int = 3,
    ) -> None:
        self._state = state
        self._storage = storage
        self._images = images
        self._scripts = scripts
        self._home = home
        self._capacity = capacity
        self._grace = grace
        self._expire = expire
        self._oversized_fail = oversized_fail
        self._serving_restarts = serving_restarts
        self._blocks = count()
        self._sweep: asyncio.Task[None] | None = None
        self._tasks: dict[JobKey | ServingKey, asyncio.Task[Any]] = {}
        self._ports: set[int] = set()

    def log_of(self, key: JobKey | ServingKey) -> Path:
        """Give the file that holds what a job or serving printed."""
        if isinstance(key, JobKey):
            return self._home / "jobs" / key.namespace / key.name / "log"
        return self._home / "servings" / key.namespace / key.name / key.version / "log"

    # Jobs

    def submit_job(self, namespace: str, spec: JobSpec, user: str) -> JobRecord:
        """Record a job and run it as soon as its turn comes.

        :param user: who has signed in to submit it; "": nobody has
        :raises Conflict: the name is taken
        :raises Invalid: it could never run here; nothing was recorded
        """
        self._state.require_free(JobKey(namespace, spec.job_name))
        _check_label("namespace", namespace)
        script = self._scripts.for_job(spec)
        if script is None:
            self._check_job(spec)
        elif spec.output is not None:
            self._storage.locate(spec.output.mount_source.path)
        lacks = self._capacity.lacks(spec)
        if lacks and not self._oversized_fail:
            raise Invalid(f"the job can never run: {lacks}")
        record = self._state.create_job(namespace, spec, user)
        if lacks:
            return self._state.refuse_job(record.key, f"the job can never run: {lacks}")
        self._begin(record.key, self._run_job(record, script), self._job_over)
        return record

    def delete_job(self, key: JobKey) -> None:
        """Stop a job that is alive; remove the record and log of one that is over. Raises Unknown."""
        if not self._state.job(key).status.is_terminal:
            if self._state.stop_job(key):
                self._tasks[key].cancel()
            return
        self._state.remove_job(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def _check_job(self, spec: JobSpec) -> None:
        if sum(role.task_number for role in spec.task_roles) > MAX_TASKS:
            raise Invalid(f"the job has more than {MAX_TASKS} tasks, which is more than the emulator runs")
        self._job_mounts(spec, check_only=True)
        for role in spec.task_roles:
            _check_text("command", role.command)
            self._images.find(role.image)

    def _job_mounts(self, spec: JobSpec, *, check_only: bool = False) -> dict[str, Path]:
        inputs = [("dataset", mount) for mount in spec.datasets] + [("model", mount) for mount in spec.models or ()]
        if spec.code is not None:
            inputs.append(("code", spec.code))
        mounts = {
            clean(mount.mount_source.mount_path): self._storage.locate_input(kind, mount.mount_source.path)
            for kind, mount in inputs
        }
        if spec.output is not None:
            locate = self._storage.locate if check_only else self._storage.locate_output
            mounts[clean(spec.output.mount_source.mount_path)] = locate(spec.output.mount_source.path)
        return mounts

    async def _run_job(self, record: JobRecord, script: ScriptedJob | None) -> Outcome:
        key, spec = record.key, record.spec
        if not record.retries:
            _new_log(self.log_of(key))
        if script is None:
            await self._pythons(key, spec)
        else:
            await self._pass(script.queue_seconds)
        if missing := self._capacity.missing_now(spec):
            self._state.explain_job(key, f"waiting: {missing}")
        await self._capacity.enter(key, spec)
        if script is not None:
            return await self._play_job(key, spec, script)
        return await self._retry(key, spec, await self._run_tasks(key, spec))

    async def _pythons(self, key: JobKey, spec: JobSpec) -> list[tuple[Image, Path]]:
        """Give each role's image and its interpreter; the first time that may take minutes."""
        pythons = []
        for role in spec.task_roles:
            image = self._images.find(role.image)
            if not self._images.is_ready(image):
                self._state.explain_job(key, _building(role.image))
            pythons.append((image, await self._images.prepare(image)))
        return pythons

    async def _retry(self, key: JobKey, spec: JobSpec, outcome: Outcome) -> Outcome:
        """Run a job that failed again, as often as it may be."""
        allowed = spec.retry_count or 0
        while outcome.exit_code and self._state.job(key).retries < allowed:
            retries = self._state.job(key).retries + 1
            self._state.restart_job(key, f"restart {retries} of {allowed}: {outcome.message}")
            outcome = await self._run_tasks(key, spec)
        return outcome

    async def _play_job(self, key: JobKey, spec: JobSpec, script: ScriptedJob) -> Outcome:
        file = self.log_of(key)
        self._state.launch_job(key)
        file.write_text(script.log)
        await self._pass(script.run_seconds)
        if spec.output is not None:
            script.write_outputs(self._storage.locate_output(spec.output.mount_source.path))
        for task in self._state.job(key).tasks:
            self._state.finish_task(key, task.role, task.index, script.exit_code)
        role = spec.task_roles[0].task_role_name
        return Outcome(script.exit_code, _failure(role, 0, script.exit_code, file) if script.exit_code else "")

    async def _pass(self, seconds: float) -> None:
        """Let so much time pass by the emulator's clock, which a test may drive."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end:
            await asyncio.sleep(0.005)

    async def _run_tasks(self, key: JobKey, spec: JobSpec) -> Outcome:
        pythons, mounts = await self._pythons(key, spec), self._job_mounts(spec)
        folders = [LinkFolder({**_files(image), **mounts}, python) for image, python in pythons]
        hosts = rendezvous.addresses(spec.task_roles, next(self._blocks))
        groups: dict[Replica, ProcessGroup] = {}
        with ExitStack() as stack:
            for role, folder in zip(spec.task_roles, folders, strict=True):
                stack.enter_context(folder)
                folder.note(self._trace_of(key, role.task_role_name))
            self._state.launch_job(key)
            try:
                for role, folder in zip(spec.task_roles, folders, strict=True):
                    for index in range(role.task_number):
                        told = rendezvous.variables(key.name, role, index, spec.task_roles, hosts)
                        groups[role.task_role_name, index] = self._start_task(key, role, index, folder, told)
                return await self._watch_tasks(key, groups)
            finally:
                await asyncio.gather(*(group.end(self._grace) for group in groups.values()))

    async def _find_tasks(self, record: JobRecord) -> Outcome:
        """Go on with a job whose programs an earlier emulator started."""
        key = record.key
        groups = {
            (task.role, task.index): TracedCommand(self._trace_of(key, f"{task.role}-{task.index}")).find()
            for task in record.tasks
            if not task.status.is_terminal
        }
        try:
            if record.status is JobStatus.STOPPING:
                return Outcome(None, "")
            outcome = await self._watch_tasks(key, groups)
        finally:
            await asyncio.gather(*(group.end(self._grace) for group in groups.values()))
            for role in record.spec.task_roles:
                LinkFolder.remove_noted(self._trace_of(key, role.task_role_name))
        return await self._retry(key, record.spec, outcome)

    async def _watch_tasks(self, key: JobKey, groups: dict[Replica, ProcessGroup]) -> Outcome:
        """Wait until all programs are over, or as many of one role as shall end the whole job."""
        watches = {asyncio.create_task(group.wait()): replica for replica, group in groups.items()}
        pending = set(watches)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._state.finish_task(key, *watches[task], task.result())
                record = self._state.job(key)
                outcomes = [self._role_outcome(record, role) for role in record.spec.task_roles]
                if ends := [outcome for outcome in outcomes if outcome is not None]:
                    return min(ends)  # success counts before failure
            return Outcome(0, "")
        finally:
            for task in pending:
                task.cancel()

    def _role_outcome(self, record: JobRecord, role: TaskRole) -> Outcome | None:
        """Give the outcome of the whole job that a role brings about, if it does."""
        tasks = [task for task in record.tasks if task.role == role.task_role_name]
        succeeded = [task for task in tasks if task.status is JobStatus.SUCCEEDED]
        failed = [task for task in tasks if task.status is JobStatus.FAILED]
        if role.min_succeeded_task_count and len(succeeded) >= role.min_succeeded_task_count:
            return Outcome(0, "")
        if len(failed) >= (role.min_failed_task_count or 1):
            first = min(failed, key=lambda task: task.finished)
            code = first.exit_code or 0
            return Outcome(code, _failure(first.role, first.index, code, self.log_of(record.key)))
        return None

    def _start_task(
        self, key: JobKey, role: TaskRole, index: int, folder: LinkFolder, told: dict[str, str]
    ) -> ProcessGroup:
        program = TracedCommand(self._trace_of(key, f"{role.task_role_name}-{index}"))
        env = {**folder.environment(), **told}
        return program.start(folder.map(role.command), cwd=folder.scratch, env=env, log=self.log_of(key))

    def _trace_of(self, key: JobKey | ServingKey, part: str) -> Path:
        """Give how the names of the files begin by which a part of a job or serving is found again."""
        return self.log_of(key).parent / "traces" / part

    def _job_over(self, key: JobKey, task: asyncio.Task[Outcome]) -> None:
        outcome = Outcome(None, _why(task)) if task.cancelled() or task.exception() else task.result()
        self._state.finish_job(key, *outcome)
        # Only now, so that never more jobs are on record as running than there are places.
        self._capacity.leave(key)

    # Servings

    def create_serving(self, namespace: str, spec: ServingSpec) -> ServingRecord:
        """Record a serving and start it.

        :raises Conflict: name and version are taken
        :raises Invalid: it could never run here; nothing was recorded
        """
        self._state.require_free(ServingKey(namespace, spec.name, spec.version))
        _check_label("namespace", namespace)
        _check_label("version", spec.version)
        for command in spec.commands:
            _check_text("commands", command)
        for name, value in spec.envs.items():
            if not _VARIABLE.fullmatch(name):
                raise Invalid(f"envs: {name!r} is not the name of an environment variable")
            _check_text(f"envs.{name}", value)
        script = self._scripts.for_serving(spec)
        if script is None:
            self._serving_mounts(spec)
            self._images.find(spec.image)
        record = self._state.create_serving(namespace, spec)
        work = self._run_serving(record) if script is None else self._play_serving(record.key, script)
        self._begin(record.key, work, self._serving_over)
        return record

    def stop_serving(self, key: ServingKey) -> None:
        """End a serving and keep its record; nothing happens to one that is over. Raises Unknown."""
        if self._state.stop_serving(key):
            self._tasks[key].cancel()

    async def delete_serving(self, key: ServingKey) -> None:
        """End a serving, wait until it is over, and remove its record and log. Raises Unknown."""
        self.stop_serving(key)
        if task := self._tasks.get(key):
            await asyncio.wait([task])
        self._state.remove_serving(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def _serving_mounts(self, spec: ServingSpec) -> dict[str, Path]:
        return {clean(spec.model.mount_path): self._storage.locate_input("model", spec.model.path)}

    async def _run_serving(self, record: ServingRecord) -> str:
        if not record.restarts:
            _new_log(self.log_of(record.key))
        port = self._take_port()
        try:
            return await self._revive(record, port, await self._serve(record, port))
        finally:
            self._ports.discard(port)

    async def _revive(self, record: ServingRecord, port: int, failure: str) -> str:
        """Start a program that has ended again, as often as it may and after longer and longer pauses."""
        while (restarts := self._state.serving(record.key).restarts) < self._serving_restarts:
            pause = min(2**restarts, _LONGEST_PAUSE)
            self._state.restart_serving(
                record.key, f"restart {restarts + 1} of {self._serving_restarts} in {pause} s: {failure}"
            )
            await self._pass(pause)
            failure = await self._serve(record, port)
        return failure

    async def _serve(self, record: ServingRecord, port: int) -> str:
        """Run a serving's program until it ends, and tell how."""
        key, spec = record.key, record.spec
        image = self._images.find(spec.image)
        if not self._images.is_ready(image):
            self._state.explain_serving(key, _building(spec.image))
        python = await self._images.prepare(image)
        with LinkFolder({**_files(image), **self._serving_mounts(spec)}, python) as folder:
            env = {
                **folder.environment(),
                **{name: folder.map(value) for name, value in spec.envs.items()},
                # Several servings at once cannot all have the port of their image.
                "HOST": LOOPBACK,
                "PORT": str(port),
            }
            folder.note(self._trace_of(key, "program"))
            command = folder.map("\n".join(spec.commands))
            program = TracedCommand(self._trace_of(key, "program"))
            group = program.start(command, cwd=folder.scratch, env=env, log=self.log_of(key))
            try:
                self._state.launch_serving(key, f"http://{LOOPBACK}:{port}")
                return self._serving_failure(key, await group.wait())
            finally:
                await group.end(self._grace)

    async def _find_program(self, record: ServingRecord) -> str:
        """Go on with a serving whose program an earlier emulator started."""
        group = TracedCommand(self._trace_of(record.key, "program")).find()
        port = int(record.url.rpartition(":")[2] or 0)
        self._ports.add(port)
        try:
            try:
                if record.status is ServingStatus.STOPPING:
                    return ""
                failure = self._serving_failure(record.key, await group.wait())
            finally:
                await group.end(self._grace)
                LinkFolder.remove_noted(self._trace_of(record.key, "program"))
            return await self._revive(record, port, failure)
        finally:
            self._ports.discard(port)

    async def _play_serving(self, key: ServingKey, script: ScriptedServing) -> str:
        _new_log(self.log_of(key))
        with socket.create_server((LOOPBACK, 0)) as listener:
            self._state.launch_serving(key, f"http://{LOOPBACK}:{listener.getsockname()[1]}")
            if script.exit_code is None:
                await script.serve(listener)
        return self._serving_failure(key, script.exit_code or 0)

    def _serving_failure(self, key: ServingKey, code: int) -> str:
        """Say how a program ended; also who has the port it was meant for, which is why some do."""
        held, port = "", self._state.serving(key).spec.protocols[0].port
        for other in self._state.servings():
            has_it = other.status is ServingStatus.RUNNING and other.spec.protocols[0].port == port
            if has_it and other.key != key:
                with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=0.5):
                    held = f"; port {port} is taken, it seems by {other.key}: let the program listen on $PORT"
        return f"the program ended by itself with exit code {code}{held}{_ending(self.log_of(key))}"

    def _serving_over(self, key: ServingKey, task: asyncio.Task[str]) -> None:
        self._state.finish_serving(key, _why(task) if task.cancelled() or task.exception() else task.result())

    def _take_port(self) -> int:
        """Choose a free port that no serving was told, even if its program does not listen yet."""
        while True:
            with socket.create_server((LOOPBACK, 0)) as free:
                port: int = free.getsockname()[1]
            if port not in self._ports:
                self._ports.add(port)
                return port

    # Both

    def resume(self) -> None:
        """Go on with what an earlier emulator on this home has left: what waited waits on, what runs is found again."""
        jobs = [job for job in reversed(self._state.jobs()) if not job.status.is_terminal]
        jobs.sort(key=lambda job: job.status is JobStatus.WAITING)  # those that run already have their places
        for job in jobs:
            waits = job.status is JobStatus.WAITING
            if not waits:
                self._capacity.occupy(job.key, job.spec)
            self._begin(job.key, self._run_job(job, None) if waits else self._find_tasks(job), self._job_over)
        for serving in reversed(self._state.servings()):
            if not serving.status.is_terminal:
                waits = serving.status is ServingStatus.WAITING
                work = self._run_serving(serving) if waits else self._find_program(serving)
                self._begin(serving.key, work, self._serving_over)
        if self._expire is not None:
            self._sweep = asyncio.create_task(self._remove_expired(self._expire))

    async def _remove_expired(self, seconds: float) -> None:
        while True:
            before = self._state.now() - seconds * 1000
            for job in self._state.jobs():
                if job.status.is_terminal and job.finished < before:
                    self.delete_job(job.key)
            for serving in self._state.servings():
                if serving.status.is_terminal and serving.finished < before:
                    await self.delete_serving(serving.key)
            await asyncio.sleep(min(seconds / 10 + 0.01, 1))

    def _begin(self, key: K, work: Coroutine[Any, Any, T], over: Callable[[K, asyncio.Task[T]], None]) -> None:
        def finish(task: asyncio.Task[T]) -> None:
            del self._tasks[key]
            over(key, task)

        task = self._tasks[key] = asyncio.create_task(work)
        task.add_done_callback(finish)

    async def clear(self) -> None:
        """Stop and remove every job and serving."""
        for serving in self._state.servings():
            await self.delete_serving(serving.key)
        for job in self._state.jobs():
            if not job.status.is_terminal:
                self.delete_job(job.key)
                if task := self._tasks.get(job.key):
                    await asyncio.wait([task])
            self.delete_job(job.key)

    async def close(self) -> None:
        """Stop every job and serving, wait until nothing runs, and give up all builds."""
        for key in list(self._tasks):
            stop = self._state.stop_job(key) if isinstance(key, JobKey) else self._state.stop_serving(key)
            if stop:
                self._tasks[key].cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        if self._sweep is not None:
            self._sweep.cancel()
        await self._images.close()


def _files(image: Image) -> dict[str, Path]:
    return {clean(path): source for path, source in image.files.items()}


def _new_log(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    return file


def _building(image: str) -> str:
    return f"building the Python environment that stands for image {image!r}; this happens once and may take minutes"


def _failure(role: str, index: int, code: int, file: Path) -> str:
    return f"task {index} of role {role!r} ended with exit code {code}{_ending(file)}"


def _ending(file: Path) -> str:
    """Give the last words of a log as the end of a sentence."""
    words = tail(file, 5, max_bytes=2000).rstrip()
    return f"; its log ends with:\n{words}" if words else ""


def _why(task: asyncio.Task[Any]) -> str:
    """Say why a task brought no result."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        return "the emulator ended"
    if not isinstance(error, BitaHubError):
        log.error("could not run it", exc_info=error)
        return f"the emulator could not run it: {error}"
    return str(error)


def _check_label(field: str, value: str) -> None:
    """Refuse what could not be the name of a folder, or of a Kubernetes object."""
    if not _LABEL.fullmatch(value):
        raise Invalid(f"{field}: {value!r} is not made of at most 63 letters, digits, '-', '_' and '.'")


def _check_text(field: str, value: str) -> None:
    if "\0" in value:
        raise Invalid(f"{field}: contains a null character")
