"""Jobs that nobody waits for any more, found by what Airflow's database knows: for where Airflow's own commands run.

A job is told to be this deployment's by the marker in its name, which a name given by a DAG's author does not have. It
is *wanted* while a task instance that is not over has it on record, *detached* when its task left it alone on purpose
(`wait_for_completion=False`, `cancel_on_kill=False`), and an *orphan* otherwise: its worker was killed on its last try,
its task was marked while it waited for the next one, or its run was deleted while everything was down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from airflow_bitahub.api.jobs import Job
from airflow_bitahub.api.procedures import end_job, list_all_jobs
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import RECORD_KEY, JobRecord, is_marked

_OVER = {"success", "failed", "skipped", "upstream_failed", "removed"}
_METASTORE = "airflow.state.metastore.MetastoreBackend"


class Owner(NamedTuple):
    """A task instance that has a job on record.

    :param task: in words
    :param is_over: nothing more will happen to it unless somebody clears it
    """

    task: str
    record: JobRecord
    is_over: bool


class Found(NamedTuple):
    """A live job of this deployment.

    :param task: whose it is, in words; "": nobody's
    """

    job: Job
    task: str
    verdict: Literal["wanted", "detached", "orphan"]


def hook_on_server(bitahub_conn_id: str) -> BitaHubHook:
    """Give a hook that finds connections as Airflow's own commands do, in its database too.

    :raises ConfigurationError: there is no such connection, or it is wrong
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    hook = BitaHubHook(bitahub_conn_id)
    try:
        hook.settings  # noqa: B018  looked up
    except AirflowNotFoundException as error:
        raise ConfigurationError(str(error)) from error
    return hook


def find_jobs(hook: BitaHubHook) -> list[Found]:
    """Find all live jobs of this deployment.

    :raises ConfigurationError: Airflow's database does not hold the tasks' records, or none at all
    :raises BitaHubError: the platform does not list its jobs
    """
    # The platform first: a task writes its record down before it submits, so no live task's job lacks an owner.
    jobs = hook.run(list_all_jobs())
    live = [job for job in jobs if is_marked(job.name, hook.marker) and not job.status.is_terminal]
    owners = read_owners() if live else {}
    if live and not owners:
        raise ConfigurationError(
            f"The platform has {len(live)} live jobs of this deployment, and Airflow's database knows of no job at "
            f"all: is this the right database?"
        )
    return judge(live, owners)


def judge(jobs: Iterable[Job], owners: Mapping[str, Owner]) -> list[Found]:
    """Tell of each job whether anybody wants it.

    :param owners: by the name of the job on their record
    """
    found = []
    for job in jobs:
        owner = owners.get(job.name)
        if owner is None:
            found.append(Found(job, "", "orphan"))
        elif not owner.is_over:
            found.append(Found(job, owner.task, "wanted"))
        else:
            found.append(Found(job, owner.task, "detached" if owner.record.detached else "orphan"))
    return found


def read_owners() -> dict[str, Owner]:
    """Read from Airflow's database which task instance has which job on record.

    :raises ConfigurationError: the records are kept elsewhere, so that it does not tell
    """
    from airflow.configuration import conf
    from airflow.models.task_state_store import TaskStateStoreModel as Kept
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    elsewhere = conf.get("workers", "state_store_backend", fallback="")
    forgets = conf.getboolean("state_store", "clear_on_success", fallback=False)
    if conf.get("state_store", "backend", fallback=_METASTORE) != _METASTORE or elsewhere or forgets:
        raise ConfigurationError(
            "This Airflow keeps the state of tasks outside its database, or removes it when they succeed (see its "
            "settings [state_store] backend, [workers] state_store_backend and [state_store] clear_on_success), so "
            "nobody can tell here which jobs are wanted."
        )
    same = [getattr(TaskInstance, name) == getattr(Kept, name) for name in ("dag_id", "run_id", "task_id", "map_index")]
    columns = (Kept.dag_id, Kept.run_id, Kept.task_id, Kept.map_index, Kept.value, TaskInstance.state)
    owners = {}
    with create_session(scoped=False) as session:
        rows = session.query(*columns).filter(Kept.key == RECORD_KEY, *same)
        for dag_id, run_id, task_id, map_index, value, state in rows:
            record = JobRecord.from_json(json.loads(value))
            if record is not None:
                name = f"{task_id}[{map_index}]" if map_index >= 0 else task_id
                owners[record.job_name] = Owner(f"{name} of {dag_id}, {run_id}", record, state in _OVER)
    return owners


def require_distinct_marker(hook: BitaHubHook) -> None:
    """Raise ConfigurationError where another Airflow may well use the same marker for its jobs."""
    from airflow.configuration import conf

    if hook.settings.text("deployment"):
        return
    host = urlsplit(conf.get("api", "base_url", fallback="") or "").hostname or ""
    if host in ("", "localhost") or _is_loopback(host):
        raise ConfigurationError(
            f"Another Airflow on the same account may use the marker {hook.marker!r} as well, since this one's "
            f"[api] base_url is {host or 'not set'!r}. Name this deployment in the extra 'deployment' of the Airflow "
            f"connection {hook.bitahub_conn_id!r}; jobs submitted from then on can be told from others."
        )


def stop(hook: BitaHubHook, found: Found) -> str:
    """Stop a job, and say what has become of it. Raises BitaHubError when it could not be stopped."""
    job = hook.run(end_job(found.job.name, timeout=60))
    return "it is gone" if job is None else f"it is {job.word}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
