"""Orphaned jobs: live jobs whose tasks have ended. Works where Airflow's own commands run, since it reads its database.

A job belongs to this Airflow if one of its task instances has the job on record, or if the job's name contains this
Airflow's marker; names set by `job_name` do not count, because two Airflows may choose the same. Such a job is

- *owned* while a task instance that has not finished has it on record,
- *unwatched* if that task is deferred and no triggerer has begun to watch the job,
- *detached* when its task has finished and left it running on purpose (`wait_for_completion=False`,
  `cancel_on_kill=False`),
- an *orphan* otherwise. For example, its worker was killed on the last try, its task was marked between two tries, or
  its run was deleted while Airflow was down.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from airflow_bitahub.airflow_database import Database, OwningTask, read_database
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import marker_in
from airflow_bitahub.procedures.jobs import end_job, list_all_jobs
from airflow_bitahub.triggers.events import MORE_TRIGGERERS


class LiveJob(NamedTuple):
    """A live job of this Airflow.

    :param task: the name of the task that has it on record; "" when there is none
    """

    job: Job
    task: str
    ownership: Literal["owned", "unwatched", "detached", "orphan"]


class Findings(NamedTuple):
    """What the platform's list of jobs and Airflow's database say together.

    :param jobs: this Airflow's live jobs
    :param foreign: how many other live jobs of this package there are, by the marker in their names
    :param unreadable: the number of entries in the platform's list that could not be read
    """

    jobs: list[LiveJob]
    foreign: Counter[str]
    unreadable: int
    database: Database

    def notes(self) -> Iterator[str]:
        """Return what a user should know about the list of jobs, in sentences."""
        markers = self.database.markers
        names = f"the marker {', '.join(sorted(markers))}" if markers else "a marker (this Airflow has none yet)"
        yield f"This Airflow's jobs have {names} in their names, or are on record in its database."
        if self.foreign:
            others = ", ".join(f"{marker} ({count})" for marker, count in self.foreign.most_common())
            yield (
                f"Not shown: live jobs with other markers, which are not on record here: {others}. Most likely another "
                f"Airflow submitted them, so they are never stopped. If it did not: is this the right database?"
            )
        if self.unreadable:
            yield f"Not shown: entries in the platform's list that could not be read: {self.unreadable}."
        if unwatched := self.database.unwatched:
            yield (
                f"Deferred tasks that no triggerer watches: {len(unwatched)}, for up to "
                f"{max(unwatched.values()):.0f} s. {MORE_TRIGGERERS}"
            )


def server_hook(bitahub_conn_id: str) -> BitaHubHook:
    """Return a hook that looks for its connection where Airflow's own commands do, which includes the database.

    :raises ConfigurationError: the connection does not exist, or is wrong; or Airflow's database could not be read
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    hook = BitaHubHook(bitahub_conn_id)
    try:
        hook.settings  # noqa: B018  reads the connection
    except AirflowNotFoundException as error:
        read_database()  # if this fails, it is the reason why the connection was not found
        raise ConfigurationError(str(error)) from error
    return hook


def find_live_jobs(hook: BitaHubHook) -> Findings:
    """Return all live jobs of this Airflow.

    :raises ConfigurationError: Airflow's database could not be read, or does not contain the tasks' records
    :raises BitaHubError: the platform's list of jobs could not be read
    """
    # Query the platform first: a task stores its record before it submits, so each job on the list has its record.
    jobs, unreadable = hook.run(list_all_jobs())
    database = read_database()
    own: list[Job] = []
    foreign: Counter[str] = Counter()
    for job in jobs:
        if job.status.is_terminal:
            continue
        if _is_own(job.name, database):
            own.append(job)
        elif marker := marker_in(job.name):
            foreign[marker] += 1
    return Findings(list(classify_jobs(own, database)), foreign, unreadable, database)


def classify_jobs(jobs: Iterable[Job], database: Database) -> Iterator[LiveJob]:
    """Return each of this Airflow's jobs with the task that owns it."""
    for job in jobs:
        task = database.tasks.get(job.name)
        if task is None:
            yield LiveJob(job, "", "orphan")
        elif not task.is_finished:
            yield LiveJob(job, task.name, "unwatched" if task.name in database.unwatched else "owned")
        else:
            yield LiveJob(job, task.name, "detached" if task.record.detached else "orphan")


def stop_orphan(hook: BitaHubHook, orphan: LiveJob) -> str:
    """Stop a job and return its state in words. Raises BitaHubError if it could not be stopped."""
    job = hook.run(end_job(orphan.job.name, timeout=60))
    return "the platform no longer has it" if job is None else f"it is {job.raw_state}"


def _is_own(job_name: str, database: Database) -> bool:
    task: OwningTask | None = database.tasks.get(job_name)
    is_on_record = task is not None and f"-{task.record.token}-" in job_name
    return is_on_record or marker_in(job_name) in database.markers
