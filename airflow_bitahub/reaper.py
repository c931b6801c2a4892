"""Orphaned jobs: live jobs whose tasks have ended. Works where Airflow's own commands run, since it reads its database.

A job belongs to this deployment if its name contains the deployment's marker; names set by `job_name` do not. Such a
job is

- *owned* while a task instance that has not finished has it on record,
- *detached* when its task has finished and left it running on purpose (`wait_for_completion=False`,
  `cancel_on_kill=False`),
- an *orphan* otherwise. For example, its worker was killed on the last try, its task was marked between two tries, or
  its run was deleted while Airflow was down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import JobRecord, is_marked
from airflow_bitahub.operators.records import JOB_RECORD_KEY, read_record
from airflow_bitahub.procedures.jobs import end_job, list_all_jobs

_FINISHED_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}
_METASTORE = "airflow.state.metastore.MetastoreBackend"


class OwningTask(NamedTuple):
    """A task instance that has a job on record.

    :param name: such as ``train of mnist_lifecycle, manual__2026-01-01``
    :param is_finished: the task instance does not run again unless someone clears it
    """

    name: str
    record: JobRecord
    is_finished: bool


class LiveJob(NamedTuple):
    """A live job of this deployment.

    :param task: the name of the task that has it on record; "" when there is none
    """

    job: Job
    task: str
    ownership: Literal["owned", "detached", "orphan"]


def server_hook(bitahub_conn_id: str) -> BitaHubHook:
    """Return a hook that looks for its connection where Airflow's own commands do, which includes the database.

    :raises ConfigurationError: the connection does not exist, or is wrong
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    hook = BitaHubHook(bitahub_conn_id)
    try:
        hook.settings  # noqa: B018  reads the connection
    except AirflowNotFoundException as error:
        raise ConfigurationError(str(error)) from error
    return hook


def find_live_jobs(hook: BitaHubHook) -> list[LiveJob]:
    """Return all live jobs of this deployment.

    :raises ConfigurationError: Airflow's database does not contain the tasks' records, or contains none
    :raises BitaHubError: the platform's list of jobs could not be read
    """
    # Query the platform first: a task stores its record before it submits, so each job on the list has its record.
    jobs = hook.run(list_all_jobs())
    live = [job for job in jobs if is_marked(job.name, hook.marker) and not job.status.is_terminal]
    tasks = read_owning_tasks() if live else {}
    if live and not tasks:
        raise ConfigurationError(
            f"The platform has {len(live)} live jobs of this deployment, but Airflow's database contains no record of "
            f"a job: is this the right database?"
        )
    return classify_jobs(live, tasks)


def classify_jobs(jobs: Iterable[Job], tasks: Mapping[str, OwningTask]) -> list[LiveJob]:
    """Return each job with the task that owns it.

    :param tasks: by the name of the job on their record
    """
    classified = []
    for job in jobs:
        task = tasks.get(job.name)
        if task is None:
            classified.append(LiveJob(job, "", "orphan"))
        elif not task.is_finished:
            classified.append(LiveJob(job, task.name, "owned"))
        else:
            classified.append(LiveJob(job, task.name, "detached" if task.record.detached else "orphan"))
    return classified


def read_owning_tasks() -> dict[str, OwningTask]:
    """Return from Airflow's database which task instance has which job on record, by the name of the job.

    :raises ConfigurationError: Airflow stores the records elsewhere, or removes them
    """
    from airflow.configuration import conf
    from airflow.models.task_state_store import TaskStateStoreModel as StoredState
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    worker_backend = conf.get("workers", "state_store_backend", fallback="")
    clears_on_success = conf.getboolean("state_store", "clear_on_success", fallback=False)
    if conf.get("state_store", "backend", fallback=_METASTORE) != _METASTORE or worker_backend or clears_on_success:
        raise ConfigurationError(
            "This Airflow stores the state of tasks outside its database, or removes it when they succeed (see its "
            "settings [state_store] backend, [workers] state_store_backend and [state_store] clear_on_success), so "
            "orphaned jobs cannot be identified."
        )
    key = ("dag_id", "run_id", "task_id", "map_index")
    same_task = [getattr(TaskInstance, name) == getattr(StoredState, name) for name in key]
    columns = [getattr(StoredState, name) for name in (*key, "value")]
    tasks = {}
    with create_session(scoped=False) as session:
        rows = session.query(*columns, TaskInstance.state).filter(StoredState.key == JOB_RECORD_KEY, *same_task)
        for dag_id, run_id, task_id, map_index, value, state in rows:
            record = read_record(JobRecord, json.loads(value))
            if record is not None:
                name = f"{task_id}[{map_index}]" if map_index >= 0 else task_id
                is_finished = state in _FINISHED_STATES
                tasks[record.job_name] = OwningTask(f"{name} of {dag_id}, {run_id}", record, is_finished)
    return tasks


def require_distinct_marker(hook: BitaHubHook) -> None:
    """Raise ConfigurationError if another Airflow may use the same marker for its jobs."""
    from airflow.configuration import conf

    if hook.settings.text("deployment"):
        return
    host = urlsplit(conf.get("api", "base_url", fallback="") or "").hostname or ""
    if host in ("", "localhost") or _is_loopback(host):
        raise ConfigurationError(
            f"Another Airflow on the same account may use the marker {hook.marker!r} too, since this one's "
            f"[api] base_url is {host or 'not set'!r}. Name this deployment in the extra 'deployment' of the Airflow "
            f"connection {hook.bitahub_conn_id!r}. Jobs submitted after that have a marker of their own."
        )


def stop_orphan(hook: BitaHubHook, orphan: LiveJob) -> str:
    """Stop a job and return its state in words. Raises BitaHubError if it could not be stopped."""
    job = hook.run(end_job(orphan.job.name, timeout=60))
    return "the platform no longer has it" if job is None else f"it is {job.raw_state}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
