"""The confusion matrix that a task's job has written, as a picture for a report."""

from __future__ import annotations

import logging

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.pages.confusion import ConfusionMatrix
from airflow_bitahub.ui.access import RequestedTask, TaskKey, may_see
from airflow_bitahub.ui.job import find_submission, output_folder
from airflow_bitahub.ui.metrics import draw
from airflow_bitahub.ui.outputs import OutputFile
from airflow_bitahub.ui.platform import masked
from airflow_bitahub.ui.rendering import render
from airflow_bitahub.ui.store import read_task
from airflow_bitahub.ui.threads import in_thread

log = logging.getLogger(__name__)

router = APIRouter()

# The picture runs nothing and loads nothing, also where somebody opens it as a page. Its style is in itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


@router.get("/confusion_matrix", dependencies=[may_see(DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)])
async def send_matrix(request: Request, task: RequestedTask) -> Response:
    """Send the picture; HTTP 404 where there is nothing to draw."""
    try:
        matrix = await in_thread(_read_matrix, task)
    except Exception as error:  # of the connection or of the storage, which are of many kinds
        log.warning("The confusion matrix of %s cannot be read: %s", task, masked(error))
        matrix = None
    if matrix is None or not matrix.labels:
        raise HTTPException(404)
    response = render(request, "confusion_matrix.svg", matrix=matrix)
    response.headers["content-type"] = "image/svg+xml"
    response.headers["content-security-policy"] = _POLICY
    return response


def _read_matrix(task: TaskKey) -> ConfusionMatrix | None:
    stored = read_task(task)
    submission = find_submission(stored, "")
    if stored is None or submission is None:
        return None
    folder = output_folder(stored, submission)
    return next(iter(draw(folder, [OutputFile("confusion_matrix.json", None)], step="").matrix), None)
