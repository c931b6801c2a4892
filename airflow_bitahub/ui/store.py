"""What Airflow's database says about a task instance. Read in the api-server, which has that database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session

from airflow_bitahub.identity import JobRecord
from airflow_bitahub.operators.records import JOB_RECORD_KEY, read_record

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_bitahub.ui.access import TaskKey


def read_task(task: TaskKey) -> tuple[str | None, JobRecord | None] | None:
    """Return a task instance's state and its job record; None where there is no such task instance."""
    with create_session(scoped=False) as session:
        row = session.query(TaskInstance.state).filter(*_same(TaskInstance, task)).one_or_none()
        return None if row is None else (row[0], read_record(JobRecord, _stored(session, task, JOB_RECORD_KEY)))


def _stored(session: Session, task: TaskKey, key: str) -> Any:
    """Return a JSON value of the task state store; None where there is none."""
    found = session.query(TaskStateStoreModel.value).filter(
        TaskStateStoreModel.key == key, *_same(TaskStateStoreModel, task)
    )
    row = found.one_or_none()
    return None if row is None else json.loads(row[0])


def _same(model: Any, task: TaskKey) -> list[Any]:
    return [getattr(model, name) == value for name, value in task._asdict().items()]
