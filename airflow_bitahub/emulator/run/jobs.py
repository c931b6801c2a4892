"""Performs what `state.py` records of jobs: runs them, and ends them."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple

from airflow_bitahub.api.jobs import JobSpec, JobStatus, TaskRole
from airflow_bitahub.emulator.mounts.workdir import Folder, Room, clean
from airflow_bitahub.emulator.run import rendezvous
from airflow_bitahub.emulator.run.images import Image
from airflow_bitahub.emulator.run.processes import ProcessGroup, TracedCommand
from airflow_bitahub.emulator.run.runs import (
    Runs,
    Workshop,
    building,
    check_label,
    check_text,
    ending,
    files_of,
    new_log,
    why,
)
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.errors import Invalid
from airflow_bitahub.emulator.state.state import JobKey, JobRecord

Replica = tuple[str, int]  # of a job: role and index

MAX_TASKS = 64  # of one job: more than a laptop will run


class Outcome(NamedTuple):
    """How a job ended: `exit_code` None when it never ran."""

    exit_code: int | None
    message: str


class JobRuns(Runs[JobKey, Outcome]):
    """Runs jobs, as many at once as there is room for.

    :param oversized_fail: a job for which there can never be room becomes UNDERPOWERED, instead of being refused
    """

    def __init__(self, workshop: Workshop, capacity: Capacity, *, oversized_fail: bool) -> None:
        super().__init__(workshop)
        self._capacity = capacity
        self._oversized_fail = oversized_fail
        self._blocks = count()

    def log_of(self, key: JobKey) -> Path:
        """Give the file that holds what a job printed."""
        return self._home / "jobs" / key.namespace / key.name / "log"

    def submit(self, namespace: str, spec: JobSpec, user: str) -> JobRecord:
        """Record a job and run it as soon as its turn comes.

        :param user: who has signed in to submit it; "": nobody has
        :raises Conflict: the name is taken
        :raises Invalid: it could never run here; nothing was recorded
        """
        self._state.require_free(JobKey(namespace, spec.job_name))
        check_label("namespace", namespace)
        if sum(role.task_number for role in spec.task_roles) > MAX_TASKS:
            raise Invalid(f"the job has more than {MAX_TASKS} tasks, which is more than the emulator runs")
        script = self._scripts.for_job(spec)
        if script is None:
            self._check(spec)
        elif spec.output is not None:
            self._storage.locate(spec.output.mount_source.path)
        lacks = self._capacity.lacks(spec)
        if lacks and not self._oversized_fail:
            raise Invalid(f"the job can never run: {lacks}")
        record = self._state.create_job(namespace, spec, user)
        if lacks:
            return self._state.refuse_job(record.key, f"the job can never run: {lacks}")
        self.begin(record.key, self._run(record, script))
        return record

    def delete(self, key: JobKey) -> None:
        """Stop a job that is alive; remove the record and log of one that is over. Raises Unknown."""
        if not self._state.job(key).status.is_terminal:
            if self._state.stop_job(key):
                self.tasks[key].cancel()
            return
        self._state.remove_job(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def resume(self) -> None:
        """Go on with what an earlier emulator has left: what waited waits on, what runs is found again."""
        jobs = [job for job in reversed(self._state.jobs()) if not job.status.is_terminal]
        jobs.sort(key=lambda job: job.status is JobStatus.WAITING)  # those that run already have their places
        for job in jobs:
            if job.status is JobStatus.WAITING and (lacks := self._capacity.lacks(job.spec)):
                self._state.refuse_job(job.key, f"the job can never run: {lacks}")
            elif job.status is JobStatus.WAITING:
                self.begin(job.key, self._run(job, None))
            else:
                self._capacity.occupy(job.key, job.spec)
                self.begin(job.key, self._find_tasks(job))

    def _check(self, spec: JobSpec) -> None:
        self._mounts(spec, check_only=True)
        for role in spec.task_roles:
            check_text("command", role.command)
            self._images.find(role.image)

    def _mounts(self, spec: JobSpec, *, check_only: bool = False) -> dict[str, Folder]:
        inputs = [("dataset", mount) for mount in spec.datasets] + [("model", mount) for mount in spec.models or ()]
        if spec.code is not None:
            inputs.append(("code", spec.code))
        mounts = {
            clean(mount.mount_source.mount_path): Folder(self._storage.locate_input(kind, mount.mount_source.path))
            for kind, mount in inputs
        }
        if spec.output is not None:
            locate = self._storage.locate if check_only else self._storage.locate_output
            place = locate(spec.output.mount_source.path)
            mounts[clean(spec.output.mount_source.mount_path)] = Folder(place, is_writable=True)
        return mounts

    async def _run(self, record: JobRecord, script: ScriptedJob | None) -> Outcome:
        key, spec = record.key, record.spec
        if not record.retries:
            new_log(self.log_of(key))
        if script is None:
            await self._pythons(key, spec)
        else:
            await self.pass_time(script.queue_seconds)
        if missing := self._capacity.missing_now(spec):
            self._state.explain_job(key, f"waiting: {missing}")
        await self._capacity.enter(key, spec)
        if script is not None:
            return await self._play(key, spec, script)
        return await self._retry(key, spec, await self._run_tasks(key, spec))

    async def _pythons(self, key: JobKey, spec: JobSpec) -> list[tuple[Image, Path]]:
        """Give each role's image and its interpreter; the first time that may take minutes."""
        pythons = []
        for role in spec.task_roles:
            image = self._images.find(role.image)
            if not self._images.is_ready(image):
                self._state.explain_job(key, building(role.image))
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

    async def _play(self, key: JobKey, spec: JobSpec, script: ScriptedJob) -> Outcome:
        file = self.log_of(key)
        self._state.launch_job(key)
        file.write_text(script.log)
        await self.pass_time(script.run_seconds)
        if spec.output is not None:
            script.write_outputs(self._storage.locate_output(spec.output.mount_source.path))
        for task in self._state.job(key).tasks:
            self._state.finish_task(key, task.role, task.index, script.exit_code)
        role = spec.task_roles[0].task_role_name
        return Outcome(script.exit_code, _failure(role, 0, script.exit_code, file) if script.exit_code else "")

    async def _run_tasks(self, key: JobKey, spec: JobSpec) -> Outcome:
        pythons, mounts = await self._pythons(key, spec), self._mounts(spec)
        rooms = [self._make_room({**files_of(image), **mounts}, python) for image, python in pythons]
        endpoints = rendezvous.endpoints(spec.task_roles, next(self._blocks))
        groups: dict[Replica, ProcessGroup] = {}
        shutil.rmtree(self.trace_of(key, "any").parent, ignore_errors=True)  # an earlier attempt's
        with ExitStack() as stack:
            for role, room in zip(spec.task_roles, rooms, strict=True):
                stack.enter_context(room)
                room.note(self.trace_of(key, role.task_role_name))
            self._state.launch_job(key)
            try:
                for role, room in zip(spec.task_roles, rooms, strict=True):
                    for index in range(role.task_number):
                        told = rendezvous.variables(key.name, role, index, spec.task_roles, endpoints)
                        groups[role.task_role_name, index] = self._start_task(key, role, index, room, told)
                return await self._watch_tasks(key, groups)
            finally:
                await asyncio.gather(*(group.end(self._grace) for group in groups.values()))

    async def _find_tasks(self, record: JobRecord) -> Outcome:
        """Go on with a job whose programs an earlier emulator started."""
        key = record.key
        groups = {
            (task.role, task.index): TracedCommand(self.trace_of(key, f"{task.role}-{task.index}")).find()
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
                Room.remove_noted(self.trace_of(key, role.task_role_name))
        return await self._retry(key, record.spec, outcome)

    async def _watch_tasks(self, key: JobKey, groups: dict[Replica, ProcessGroup]) -> Outcome:
        """Wait until all programs are over, or as many of one role as shall end the whole job."""
        watches = {asyncio.create_task(group.wait()): replica for replica, group in groups.items()}
        pending = set(watches)
        try:
            while True:
                record = self._state.job(key)
                outcomes = [self._role_outcome(record, role) for role in record.spec.task_roles]
                if ends := [outcome for outcome in outcomes if outcome is not None]:
                    return min(ends)  # success counts before failure
                if not pending:
                    return Outcome(0, "")
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._state.finish_task(key, *watches[task], task.result())
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

    def _start_task(self, key: JobKey, role: TaskRole, index: int, room: Room, told: dict[str, str]) -> ProcessGroup:
        program = TracedCommand(self.trace_of(key, f"{role.task_role_name}-{index}"))
        return program.start(role.command, room, told, self.log_of(key))

    def over(self, key: JobKey, task: asyncio.Task[Outcome]) -> None:
        """Note how a job ended."""
        outcome = Outcome(None, why(task)) if task.cancelled() or task.exception() else task.result()
        self._state.finish_job(key, *outcome)
        # Only now, so that never more jobs are on record as running than there are places.
        self._capacity.leave(key)


def _failure(role: str, index: int, code: int, file: Path) -> str:
    return f"task {index} of role {role!r} ended with exit code {code}{ending(file)}"
