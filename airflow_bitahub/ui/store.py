"""What Airflow's database says about a task instance. Read in the api-server, which has that database."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.identity import JobRecord
from airflow_bitahub.operators.records import (
    JOB_RECORD_KEY,
    ROLLOUT_KEY,
    SUBMISSIONS_KEY,
    Submission,
    TaskRollout,
    read_record,
    read_submissions,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_bitahub.ui.access import TaskKey

_MAX_TRIES = 50
_MAX_MAPPED = 500
_MAX_RESULT = 1 << 20  # characters of an XCom


class Try(NamedTuple):
    """A try of a task instance. Times are milliseconds since the epoch; 0: not yet."""

    number: int
    state: str
    start: float
    end: float


@dataclass(frozen=True)
class StoredTask:
    """A task instance.

    :param tries: the last one last
    :param record: what it knows of its job; None: it has none
    :param submissions: what it has submitted, the last one last
    :param result: its XCom result, if that is the one of a job
    :param arguments: what its operator was given, as it was rendered; Airflow keeps that of the last runs only
    :param conn_id: the connection that its operator uses; "": not known
    :param rollout: what it did to give a serving another version; None: nothing
    """

    state: str
    tries: list[Try]
    record: JobRecord | None
    submissions: list[Submission]
    result: dict[str, Any]
    arguments: dict[str, Any]
    conn_id: str
    rollout: TaskRollout | None = None


def read_task(task: TaskKey) -> StoredTask | None:
    """Return a task instance; None where there is none."""
    with create_session(scoped=False) as session:
        present = _tries(session, TaskInstance, task)
        if not present:
            return None
        arguments = _arguments(session, task)
        return StoredTask(
            present[0].state,
            [*_tries(session, TaskInstanceHistory, task), *present][-_MAX_TRIES:],
            _record(_stored(session, task, JOB_RECORD_KEY)),
            _submissions(_stored(session, task, SUBMISSIONS_KEY)),
            _result(session, task),
            arguments,
            _text(arguments.get("bitahub_conn_id")) or _parsed_conn_id(session, task),
            _rollout(_stored(session, task, ROLLOUT_KEY)),
        )


def read_mapped(task: TaskKey) -> list[tuple[int, str]]:
    """Return the map indexes of a mapped task's instances, each with its state; empty where it is not mapped."""
    with create_session(scoped=False) as session:
        rows = (
            session.query(TaskInstance.map_index, TaskInstance.state)
            .filter(*_same(TaskInstance, task, ("dag_id", "run_id", "task_id")), TaskInstance.map_index >= 0)
            .order_by(TaskInstance.map_index)
            .limit(_MAX_MAPPED)
        )
        return [(index, state or "") for index, state in rows]


def _tries(session: Session, model: Any, task: TaskKey) -> list[Try]:
    columns = (model.try_number, model.state, model.start_date, model.end_date)
    rows = session.query(*columns).filter(*_same(model, task)).order_by(model.try_number)
    return [Try(number, state or "", _milliseconds(start), _milliseconds(end)) for number, state, start, end in rows]


def _milliseconds(time: datetime | None) -> float:
    return time.timestamp() * 1000 if time else 0


def _stored(session: Session, task: TaskKey, key: str) -> Any:
    """Return a JSON value of the task state store; None where there is none."""
    rows = session.query(TaskStateStoreModel.value).filter(
        TaskStateStoreModel.key == key, *_same(TaskStateStoreModel, task)
    )
    row = rows.one_or_none()
    with suppress(ValueError):
        return None if row is None else json.loads(row[0])
    return None


def _arguments(session: Session, task: TaskKey) -> dict[str, Any]:
    rows = session.query(RenderedTaskInstanceFields.rendered_fields).filter(*_same(RenderedTaskInstanceFields, task))
    row = rows.one_or_none()
    return row[0] if row is not None and isinstance(row[0], dict) else {}


def _parsed_conn_id(session: Session, task: TaskKey) -> str:
    """Return the connection that the DAG's file names; "" where that is a template."""
    stored = SerializedDagModel.get(task.dag_id, session=session)
    tasks = stored.data.get("dag", {}).get("tasks", ()) if stored is not None and stored.data else ()
    for each in tasks:
        values = each.get("__var", {})
        if values.get("task_id") == task.task_id:
            found = _text(values.get("bitahub_conn_id") or values.get("partial_kwargs", {}).get("bitahub_conn_id"))
            return "" if "{" in found else found
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# Others may store something under the same keys, so what is read is checked.


def _record(value: Any) -> JobRecord | None:
    with suppress(ConfigurationError):
        record = read_record(JobRecord, value)
        if record is not None and isinstance(record.job_name, str) and isinstance(record.output_path, str):
            return record
    return None


def _submissions(value: Any) -> list[Submission]:
    with suppress(ConfigurationError):
        return [each for each in read_submissions(value) if _is_sound(each)]
    return []


def _is_sound(submission: Submission) -> bool:
    texts = (submission.job_name, submission.output_path)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(submission.time, int | float)
        and isinstance(submission.body, dict | None)
        and isinstance(submission.masks, dict)
    )


def _rollout(value: Any) -> TaskRollout | None:
    with suppress(ConfigurationError, TypeError, ValueError):
        rollout = read_record(TaskRollout, value)
        if rollout is not None:
            steps = [[str(name), float(at)] for name, at in rollout.steps]
            texts = {"digest": str(rollout.digest), "model_path": str(rollout.model_path)}
            return replace(rollout, steps=steps, ended_at=rollout.ended_at and float(rollout.ended_at), **texts)
    return None


def _result(session: Session, task: TaskKey) -> dict[str, Any]:
    row = session.query(XComModel.value).filter(XComModel.key == "return_value", *_same(XComModel, task)).one_or_none()
    with suppress(Exception):  # another XCom backend may have stored anything
        if row is not None and len(str(row[0])) < _MAX_RESULT:
            value = XComModel.deserialize_value(row)
            if isinstance(value, dict) and isinstance(value.get("job_name"), str):
                return value
    return {}


def _same(
    model: Any, task: TaskKey, names: tuple[str, ...] = ("dag_id", "run_id", "task_id", "map_index")
) -> list[Any]:
    return [getattr(model, name) == getattr(task, name) for name in names]
