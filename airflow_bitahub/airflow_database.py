"""What Airflow's own database says about the tasks of this package. Only Airflow's own commands may read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.identity import JobRecord
from airflow_bitahub.operators.records import JOB_RECORD_KEY, MARKER_KEY, markers_in, read_record
from airflow_bitahub.triggers.events import TAKE_UP_SECONDS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_bitahub.procedures.deployments import Owner

_FINISHED_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}
_METASTORE = "airflow.state.metastore.MetastoreBackend"
_KEY = ("dag_id", "run_id", "task_id", "map_index")  # of a task instance
_TRIGGERS = "airflow_bitahub.triggers."


class OwningTask(NamedTuple):
    """A task instance that has a job on record.

    :param name: such as ``train of mnist_lifecycle, manual__2026-01-01``
    :param is_finished: the task instance does not run again unless someone clears it
    """

    name: str
    record: JobRecord
    is_finished: bool


class Database(NamedTuple):
    """What was read from Airflow's database.

    :param markers: the markers that this Airflow's jobs have in their names; usually one
    :param tasks: which task instance has which job on record, by the name of the job
    :param unwatched: for how many seconds a task instance has been deferred without a triggerer that watches its job or
        serving, by the name of the task as in `OwningTask`
    """

    markers: set[str]
    tasks: dict[str, OwningTask]
    unwatched: dict[str, float]


def read_database() -> Database:
    """Read Airflow's database.

    :raises ConfigurationError: it cannot be read; or Airflow stores the records elsewhere, or removes them
    """
    _require_records()
    with _session() as session:
        return Database(_markers(session), _owning_tasks(session), _unwatched(session))


def read_keys(prefix: str) -> list[str]:
    """Return the keys of all Variables that begin with a prefix. Raises ConfigurationError as `read_database` does."""
    with _session() as session:
        return _keys(session, prefix)


def is_active(owner: Owner) -> bool:
    """Return whether a task instance has not finished, so that it will go on with its deployment.

    :raises ConfigurationError: Airflow's database cannot be read
    """
    from airflow.models.taskinstance import TaskInstance

    with _session() as session:
        same_task = [getattr(TaskInstance, name) == getattr(owner, name) for name in _KEY]
        row = session.query(TaskInstance.state).filter(*same_task).one_or_none()
    return row is not None and row[0] not in _FINISHED_STATES


def update_extra(conn_id: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Change the extra of a connection in Airflow's database.

    :param change: returns the new extra for the present one
    :raises ConfigurationError: the database cannot be read or written, or does not have the connection
    """
    from airflow.models.connection import Connection

    with _session() as session:
        stored = session.query(Connection).filter(Connection.conn_id == conn_id).one_or_none()
        if stored is None:
            raise ConfigurationError(f"Airflow's database has no connection {conn_id!r}.")
        stored.set_extra(json.dumps(change(stored.extra_dejson)))


class DatabaseRecords(VariableRecords):
    """The record of one serving, read from Airflow's database and stored there directly."""

    def read(self, key: str) -> Any:
        """Return the JSON value of a Variable; None: there is none.

        :raises ConfigurationError: Airflow's database cannot be read, or is encrypted with another key
        """
        from airflow.models.variable import Variable

        with _session() as session:
            stored = session.query(Variable).filter(Variable.key == key).one_or_none()
            value = None if stored is None else stored.get_val()
        if stored is not None and value is None:
            raise ConfigurationError(
                f"The Variable {key!r} could not be decrypted. Run this with Airflow's own [core] fernet_key."
            )
        return None if value is None else json.loads(value)

    def write(self, key: str, value: Any, description: str) -> None:
        """Set a Variable to a JSON value. Raises ConfigurationError where Airflow's database cannot be written."""
        from airflow.models.variable import Variable

        with _session() as session:
            Variable.set(key, value, description=description, serialize_json=True, session=session)


def _require_records() -> None:
    from airflow.configuration import conf

    worker_backend = conf.get("workers", "state_store_backend", fallback="")
    clears_on_success = conf.getboolean("state_store", "clear_on_success", fallback=False)
    if conf.get("state_store", "backend", fallback=_METASTORE) != _METASTORE or worker_backend or clears_on_success:
        raise ConfigurationError(
            "This Airflow stores the state of tasks outside its database, or removes it when they succeed (see its "
            "settings [state_store] backend, [workers] state_store_backend and [state_store] clear_on_success), so "
            "orphaned jobs cannot be identified."
        )


@contextmanager
def _session() -> Iterator[Session]:
    from airflow.utils.session import create_session
    from sqlalchemy.exc import DBAPIError

    try:
        with create_session(scoped=False) as session:
            yield session
    except DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]  # in the driver's own words: the whole message contains the query
        raise ConfigurationError(
            f"Airflow's database could not be read ({reason}). Run this where Airflow's own commands run, with the "
            f"same settings; `airflow db check-migrations` tells whether the database has the tables of this version."
        ) from error


def _markers(session: Session) -> set[str]:
    return markers_in(_keys(session, MARKER_KEY))


def _keys(session: Session, prefix: str) -> list[str]:
    from airflow.models.variable import Variable

    return [key for (key,) in session.query(Variable.key).filter(Variable.key.startswith(prefix, autoescape=True))]


def _owning_tasks(session: Session) -> dict[str, OwningTask]:
    from airflow.models.task_state_store import TaskStateStoreModel as StoredState
    from airflow.models.taskinstance import TaskInstance

    same_task = [getattr(TaskInstance, name) == getattr(StoredState, name) for name in _KEY]
    columns = [getattr(StoredState, name) for name in (*_KEY, "value")]
    rows = session.query(*columns, TaskInstance.state).filter(StoredState.key == JOB_RECORD_KEY, *same_task)
    tasks = {}
    for *key, value, state in rows:
        record = read_record(JobRecord, json.loads(value))
        if record is not None:
            tasks[record.job_name] = OwningTask(_name(*key), record, state in _FINISHED_STATES)
    return tasks


def _unwatched(session: Session) -> dict[str, float]:
    from airflow.configuration import conf
    from airflow.jobs.job import Job as AirflowJob
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from sqlalchemy import or_, select

    now = datetime.now(timezone.utc)
    # As Airflow itself decides which triggerer is alive, see `Trigger.assign_unassigned`.
    threshold = conf.getfloat("triggerer", "triggerer_health_check_threshold")
    alive = select(AirflowJob.id).where(
        AirflowJob.job_type == "TriggererJob",
        AirflowJob.end_date.is_(None),
        AirflowJob.latest_heartbeat > now - timedelta(seconds=threshold),
    )
    rows = (
        session.query(*(getattr(TaskInstance, name) for name in _KEY), Trigger.created_date)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .filter(
            Trigger.classpath.startswith(_TRIGGERS, autoescape=True),
            Trigger.created_date < now - timedelta(seconds=TAKE_UP_SECONDS),
            or_(Trigger.triggerer_id.is_(None), Trigger.triggerer_id.not_in(alive)),
        )
    )
    return {_name(*key): (now - created).total_seconds() for *key, created in rows}


def _name(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return a task instance in words."""
    return f"{f'{task_id}[{map_index}]' if map_index >= 0 else task_id} of {dag_id}, {run_id}"
