"""The page "BitaHub job" of a task instance."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.ui.access import RequestedTask, TaskKey, may_see
from airflow_bitahub.ui.rendering import render
from airflow_bitahub.ui.store import read_task
from airflow_bitahub.ui.threads import in_thread

router = APIRouter()


@router.get("/job", dependencies=[may_see(DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)])
async def show_job(request: Request, task: RequestedTask) -> Response:
    """Show the job of a task instance."""
    return await in_thread(_job_page, request, task)


def _job_page(request: Request, task: TaskKey) -> Response:
    found = read_task(task)
    state, record = found or ("", None)
    problem = "no_task" if found is None else "no_record" if record is None else ""
    return render(request, "job.html", task=task, state=state, record=record, problem=problem)
