"""Runs the jobs that `state` records."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from airflow_bitahub.api.jobs import JobSpec, TaskRole
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.mounts.workdir import BindMount, Workdir, normalize_mount_path
from airflow_bitahub.emulator.run.images import Image
from airflow_bitahub.emulator.run.processes import ProcessGroup, RecoverableCommand
from airflow_bitahub.emulator.run.rendezvous import assign_endpoints, replica_variables
from airflow_bitahub.emulator.run.runs import (
    RunContext,
    Runs,
    build_message,
    check_label,
    check_text,
    create_log,
    image_mounts,
)
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import JobKey, StoredJob

TaskId = tuple[str, int]  # role and index

MAX_TASKS = 64  # of one job: more than a laptop can run


class Outcome(NamedTuple):
    """How a job ended; `exit_code` is None if it never ran, and `is_underpowered` if it never could."""

    exit_code: int | None
    message: str
    is_underpowered: bool = False


class JobRuns(Runs[JobKey, Outcome]):
    """Runs jobs, as many at once as the capacity allows.

    :param oversized_fail: a job that can never run becomes UNDERPOWERED instead of being refused
    """

    def __init__(self, context: RunContext, capacity: Capacity, *, oversized_fail: bool) -> None:
        super().__init__(context)
        self.capacity = capacity
        self._oversized_fail = oversized_fail
        self._endpoint_blocks = count()

    def log_of(self, key: JobKey) -> Path:
        """Return the file that holds what a job of one task printed."""
        return self._context.home / "jobs" / key.namespace / key.name / "log"

    def logs_of(self, record: StoredJob) -> dict[TaskId, Path]:
        """Return the files that hold what the tasks of a job printed: one for each."""
        ids = [(task.role, task.index) for task in record.tasks]
        file = self.log_of(record.key)
        if len(ids) < 2:
            return dict.fromkeys(ids, file)
        return {(role, index): file.with_name(f"log.{role}-{index}") for role, index in ids}

    def submit(self, namespace: str, spec: JobSpec, user: str, task_url: str = "") -> StoredJob:
        """Record a job and run it as soon as the capacity allows.

        :param user: the user who submits it; "" if nobody has signed in
        :param task_url: the page of the Airflow task that submits it
        :raises Conflict: the name is in use
        :raises InvalidRequest: it could never run here; nothing was recorded
        """
        self._state.require_unused(JobKey(namespace, spec.job_name))
        check_label("namespace", namespace)
        if sum(role.task_number for role in spec.task_roles) > MAX_TASKS:
            raise InvalidRequest(f"the job has more than {MAX_TASKS} tasks, which is more than the emulator runs")
        script = self._context.scripts.for_job(spec)
        if script is None:
            self._check(spec)
        elif spec.output is not None:
            self._storage.locate(spec.output.mount_source.path)
        shortage = self.capacity.shortage(spec)
        if shortage and not self._oversized_fail:
            raise InvalidRequest(f"the job can never run: {shortage}")
        record = self._state.create_job(namespace, spec, user, task_url)
        self._start_task(record.key, self._refuse(shortage) if shortage else self._run(record, script))
        return record

    async def finish_immediate(self, key: JobKey) -> None:
        """Wait for the end of a scripted job that takes no time, so that the first query of it shows the end."""
        script = self._context.scripts.for_job(self._state.job(key).spec)
        if script is not None and not script.queue_seconds and not script.run_seconds and key in self.tasks:
            await asyncio.wait([self.tasks[key]], timeout=1)  # it may have to wait for capacity

    def delete(self, key: JobKey) -> None:
        """Stop a job, or remove record and log of one that has ended. Raises NotFound when there is none."""
        if not self._state.job(key).status.is_terminal:
            self.stop(key)
            return
        self._state.remove_job(key)
        shutil.rmtree(self.log_of(key).parent, ignore_errors=True)

    def resume(self) -> None:
        """Continue the jobs of an earlier emulator: those that waited wait again, those that ran are found again."""
        jobs = [job for job in reversed(self._state.jobs()) if not job.status.is_terminal]
        jobs.sort(
            key=lambda job: job.status is JobStatus.WAITING
        )  # running jobs first, since they use capacity already
        for job in jobs:
            if job.status is JobStatus.WAITING and (shortage := self.capacity.shortage(job.spec)):
                self._start_task(job.key, self._refuse(shortage))
            elif job.status is JobStatus.WAITING:
                self._start_task(job.key, self._run(job, None))
            else:
                self.capacity.occupy(job.key, job.spec)
                self._start_task(job.key, self._continue(job))

    def _check(self, spec: JobSpec) -> None:
        self._mounts(spec, check_only=True)
        for role in spec.task_roles:
            check_text("command", role.command)
            self._images.find(role.image)

    def _mounts(self, spec: JobSpec, *, check_only: bool = False) -> dict[str, BindMount]:
        inputs = [("dataset", mount) for mount in spec.datasets] + [("model", mount) for mount in spec.models or ()]
        if spec.code is not None:
            inputs.append(("code", spec.code))
        mounts = {
            normalize_mount_path(mount.mount_source.mount_path): BindMount(
                self._storage.locate_input(kind, mount.mount_source.path)
            )
            for kind, mount in inputs
        }
        if spec.output is not None:
            locate = self._storage.locate if check_only else self._storage.locate_output
            folder = locate(spec.output.mount_source.path)
            mount_path = normalize_mount_path(spec.output.mount_source.mount_path)
            for other in mounts:
                # The job could replace the inner mount's folder by a link, through which it would be made elsewhere.
                if other.startswith(f"{mount_path}/"):
                    raise InvalidRequest(f"nothing can be mounted at {other!r}: it is below the output {mount_path!r}")
            mounts[mount_path] = BindMount(folder, is_writable=True)
        return mounts

    async def _refuse(self, shortage: str) -> Outcome:
        return Outcome(None, f"the job can never run: {shortage}", is_underpowered=True)

    async def _run(self, record: StoredJob, script: ScriptedJob | None) -> Outcome:
        key, spec = record.key, record.spec
        if not record.retries:
            for file in self.logs_of(record).values():
                create_log(file)
        if script is None:
            await self._prepare_images(key, spec)
        else:
            await self._sleep(script.queue_seconds)
        if shortage := self.capacity.current_shortage(spec):
            self._try_to_write(partial(self._state.set_job_message, key, f"waiting: {shortage}"))
        await self.capacity.acquire(key, spec)
        if script is not None:
            return await self._play_script(key, spec, script)
        return await self._retry(key, spec, await self._run_tasks(key, spec))

    async def _prepare_images(self, key: JobKey, spec: JobSpec) -> list[tuple[Image, Path]]:
        """Return each role's image and its interpreter. If an environment must be built first, this takes minutes."""
        prepared = []
        for role in spec.task_roles:
            image = self._images.find(role.image)
            if not self._images.is_ready(image):
                self._try_to_write(partial(self._state.set_job_message, key, build_message(role.image)))
            prepared.append((image, await self._images.prepare(image)))
        return prepared

    async def _retry(self, key: JobKey, spec: JobSpec, outcome: Outcome) -> Outcome:
        """Run a job again while it fails, up to its `retry_count`."""
        allowed = spec.retry_count or 0
        while outcome.exit_code and self._state.job(key).retries < allowed:
            retries = self._state.job(key).retries + 1
            message = f"restart {retries} of {allowed}: {outcome.message}"
            await self._write(partial(self._state.restart_job, key, message))
            outcome = await self._run_tasks(key, spec)
        return outcome

    async def _play_script(self, key: JobKey, spec: JobSpec, script: ScriptedJob) -> Outcome:
        await self._write(partial(self._state.launch_job, key))
        next(iter(self.logs_of(self._state.job(key)).values())).write_text(script.log)
        await self._sleep(script.run_seconds)
        if spec.output is not None:
            script.write_outputs(self._storage.locate_output(spec.output.mount_source.path))
        for task in self._state.job(key).tasks:
            await self._write(partial(self._state.finish_task, key, task.role, task.index, script.exit_code))
        role = spec.task_roles[0].task_role_name
        return Outcome(script.exit_code, _task_failure(role, 0, script.exit_code) if script.exit_code else "")

    async def _run_tasks(self, key: JobKey, spec: JobSpec) -> Outcome:
        prepared, mounts = await self._prepare_images(key, spec), self._mounts(spec)
        workdirs = [self._context.workdir_type({**image_mounts(image), **mounts}, python) for image, python in prepared]
        endpoints = assign_endpoints(spec.task_roles, next(self._endpoint_blocks))
        groups: dict[TaskId, ProcessGroup] = {}
        shutil.rmtree(self._trace_of(key, "any").parent, ignore_errors=True)  # of an earlier attempt
        with ExitStack() as stack:
            for role, workdir in zip(spec.task_roles, workdirs, strict=True):
                stack.enter_context(workdir)
                workdir.record_path(self._trace_of(key, role.task_role_name))
            await self._write(partial(self._state.launch_job, key))
            try:
                for role, workdir in zip(spec.task_roles, workdirs, strict=True):
                    for index in range(role.task_number):
                        variables = replica_variables(key.name, role, index, spec.task_roles, endpoints)
                        task = self._start_program(key, role, index, workdir, variables)
                        groups[role.task_role_name, index] = task
                return await self._wait_for_tasks(key, groups)
            finally:
                await self._end_all(groups)

    async def _continue(self, record: StoredJob) -> Outcome:
        """Continue a job whose programs an earlier emulator started."""
        key = record.key
        roles = {role.task_role_name: role for role in record.spec.task_roles}
        groups = {
            (task.role, task.index): RecoverableCommand(self._trace_of(key, f"{task.role}-{task.index}")).find()
            for task in record.tasks
            if not task.status.is_terminal
        }
        logs = self.logs_of(record)
        for (name, index), group in groups.items():
            self._context.memory.add(group, roles[name].memory_mb, logs[name, index])
        try:
            if record.status is JobStatus.STOPPING:
                return Outcome(None, "")
            outcome = await self._wait_for_tasks(key, groups)
        finally:
            await self._end_all(groups)
            for role in record.spec.task_roles:
                Workdir.remove_recorded(self._trace_of(key, role.task_role_name))
        return await self._retry(key, record.spec, outcome)

    async def _end_all(self, groups: dict[TaskId, ProcessGroup]) -> None:
        await asyncio.gather(*(group.end(self._context.grace) for group in groups.values()))

    async def _wait_for_tasks(self, key: JobKey, groups: dict[TaskId, ProcessGroup]) -> Outcome:
        """Wait until all programs have ended, or until enough of one role have that the whole job ends."""
        waits = {asyncio.create_task(group.wait()): task_id for task_id, group in groups.items()}
        pending = set(waits)
        try:
            while True:
                record = self._state.job(key)
                outcomes = [self._role_outcome(record, role) for role in record.spec.task_roles]
                if decisive := [outcome for outcome in outcomes if outcome is not None]:
                    return min(decisive)  # exit code 0 first: success takes precedence over failure
                if not pending:
                    return Outcome(0, "")
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await self._write(partial(self._state.finish_task, key, *waits[task], task.result()))
        finally:
            for task in pending:
                task.cancel()

    def _role_outcome(self, record: StoredJob, role: TaskRole) -> Outcome | None:
        """Return the outcome of the whole job that a role's tasks already decide, if they do."""
        tasks = [task for task in record.tasks if task.role == role.task_role_name]
        succeeded = [task for task in tasks if task.status is JobStatus.SUCCEEDED]
        failed = [task for task in tasks if task.status is JobStatus.FAILED]
        if role.min_succeeded_task_count and len(succeeded) >= role.min_succeeded_task_count:
            return Outcome(0, "")
        if len(failed) >= (role.min_failed_task_count or 1):
            first = min(failed, key=lambda task: task.finished)
            code = first.exit_code or 0
            return Outcome(code, _task_failure(first.role, first.index, code))
        return None

    def _start_program(
        self, key: JobKey, role: TaskRole, index: int, workdir: Workdir, variables: dict[str, str]
    ) -> ProcessGroup:
        program = RecoverableCommand(self._trace_of(key, f"{role.task_role_name}-{index}"))
        log = self.logs_of(self._state.job(key))[role.task_role_name, index]
        group = program.start(role.command, workdir, variables, log)
        self._context.memory.add(group, role.memory_mb, log)
        return group

    def _record_stop(self, key: JobKey) -> bool:
        return self._state.stop_job(key)

    def _record_end(self, key: JobKey, failure: str) -> None:
        outcome = Outcome(None, failure) if failure else self._work[key].result()
        if outcome.is_underpowered:
            self._state.refuse_job(key, outcome.message)
        else:
            self._state.finish_job(key, outcome.exit_code, outcome.message)

    def _release(self, key: JobKey) -> None:
        self.capacity.release(key)


def _task_failure(role: str, index: int, code: int) -> str:
    return f"task {index} of role {role!r} ended with exit code {code}"
