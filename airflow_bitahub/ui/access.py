"""Who may see a page, and which task instance it is about."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, Query
from starlette.requests import Request

_Id = Annotated[str, Query(min_length=1, max_length=250)]


def may_see(*entities: DagAccessEntity) -> Any:
    """Return a dependency that refuses users who may not see these parts of the DAG in the query's `dag_id`."""

    def check(request: Request, user: GetUserDep, dag_id: _Id) -> None:
        for entity in entities:
            requires_access_dag("GET", entity, dag_id)(request, user)

    return Depends(check)


class TaskKey(NamedTuple):
    """A task instance; `map_index` is -1 for a task that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def _task_key(dag_id: _Id, run_id: _Id, task_id: _Id, map_index: str = "-1") -> TaskKey:
    # For a task that is not mapped, Airflow leaves "{MAP_INDEX}" as it is.
    return TaskKey(dag_id, run_id, task_id, int(map_index) if map_index.isdecimal() and len(map_index) < 10 else -1)


RequestedTask = Annotated[TaskKey, Depends(_task_key)]
