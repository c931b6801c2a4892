"""The page "BitaHub job" of a task instance, and the files that its job has written."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.utils.state import State
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.records import Submission
from airflow_bitahub.pages.file_kinds import Kind, file_headers
from airflow_bitahub.pages.hiding import hide_secrets
from airflow_bitahub.ui.access import RequestedTask, TaskKey, may_see
from airflow_bitahub.ui.job_view import view_job
from airflow_bitahub.ui.metrics import Pictures, draw
from airflow_bitahub.ui.outputs import Content, Listing, OutputFolder, text_of
from airflow_bitahub.ui.ownership import is_own_folder, is_own_job
from airflow_bitahub.ui.platform import Look, look_at_job, masked, open_hook
from airflow_bitahub.ui.rendering import render, translator_for
from airflow_bitahub.ui.serving import find_serving_page
from airflow_bitahub.ui.store import StoredTask, read_mapped, read_task
from airflow_bitahub.ui.threads import in_thread

router = APIRouter()

_SEES_TASK = may_see(DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
_Job = Annotated[str, Query(max_length=63)]
_FilePath = Annotated[str, Query(min_length=1, max_length=4096)]


class Outputs(NamedTuple):
    """What is shown of the output folder.

    :param problem: why it cannot be shown, in words
    """

    listing: Listing = Listing([], False)
    pictures: Pictures = Pictures([], [])
    problem: str = ""


@router.get("/job", dependencies=[_SEES_TASK])
async def show_job(request: Request, task: RequestedTask, job: _Job = "") -> Response:
    """Show the job of a task instance: its last one, or the one of this name."""
    return await _show_job(request, task, job, with_log=False)


@router.get("/job-log", dependencies=[_SEES_TASK, may_see(DagAccessEntity.TASK_LOGS)])
async def show_job_and_log(request: Request, task: RequestedTask, job: _Job = "") -> Response:
    """Show the job with the end of its log."""
    return await _show_job(request, task, job, with_log=True)


@router.get("/file", dependencies=[_SEES_TASK])
async def show_file(request: Request, task: RequestedTask, path: _FilePath, job: _Job = "") -> Response:
    """Show an output file on a page: text, JSON or a picture."""
    submission, file = await in_thread(_open_file, task, job, path)
    values: dict[str, Any] = {"job": submission, "path": path, "query": _query(task, job), "is_cut": False}
    if submission is None or file is None:
        return render(request, "error.html", 404, code=404)
    if isinstance(file, str):
        return render(request, "file.html", **values, problem=file, kind="", text="")
    shown, values["is_cut"] = text_of(path, file.content) if file.kind is Kind.TEXT else ("", False)
    return render(request, "file.html", **values, problem="", kind=file.kind.value, text=shown)


@router.get("/content", dependencies=[_SEES_TASK])
async def send_file(request: Request, task: RequestedTask, path: _FilePath, job: _Job = "", save: str = "") -> Response:
    """Send an output file: a picture to be shown, anything else to be saved."""
    _, file = await in_thread(_open_file, task, job, path)
    if not isinstance(file, Content):
        return render(request, "error.html", 404, code=404)
    return Response(file.content, headers=file_headers(path, file.kind, file.media_type, save=bool(save)))


async def _show_job(request: Request, task: TaskKey, name: str, *, with_log: bool) -> Response:
    stored = await in_thread(read_task, task)
    submission = find_submission(stored, name)
    if stored is not None and submission is None and not name:
        page = await find_serving_page(request, task, stored)
        if page is not None:
            return page
    if stored is None or submission is None:
        mapped = await in_thread(read_mapped, task) if stored is None else []
        problem = "no_task" if stored is None else "no_such_job" if name else _missing(stored)
        queries = [(index, state, _query(task._replace(map_index=index), "")) for index, state in mapped]
        return render(request, "no_job.html", task=task, problem=problem, mapped=queries)
    look, outputs = await asyncio.gather(
        _look(stored, submission, with_log=with_log), _outputs(request, stored, submission)
    )
    view = view_job(stored, submission, look.job, time.time() * 1000)
    return render(
        request,
        "job.html",
        task=task,
        stored=stored,
        submission=submission,
        is_last=submission is stored.submissions[-1] if stored.submissions else True,
        look=look,
        job=view,
        may_change=view.is_live or stored.state not in State.finished,
        outputs=outputs,
        result=json.dumps(hide_secrets(stored.result), indent=2, ensure_ascii=False) if stored.result else "",
        query=_query(task, name),
        queries={each.job_name: _query(task, each.job_name) for each in stored.submissions},
        latest=_query(task, ""),
    )


def _missing(stored: StoredTask) -> str:
    """Return the key of the text that says why there is no job to show."""
    return "no_record" if stored.record is None else "not_verified"


def find_submission(stored: StoredTask | None, name: str) -> Submission | None:
    """Return what is on record of a job; of the last one if there is no name."""
    if stored is None:
        return None
    record = stored.record
    wanted = name or (record.job_name if record else "")
    if not is_own_job(wanted, stored.arguments):
        return None
    found = next((each for each in reversed(stored.submissions) if each.job_name == wanted), None)
    if found is None and record is not None and record.job_name == wanted:
        return Submission(record.job_name, record.output_path, record.attempt, 0, 0)
    return found


async def _look(stored: StoredTask, submission: Submission, *, with_log: bool) -> Look:
    if not stored.conn_id:
        return Look(problem="connection_unknown")
    try:
        return await in_thread(look_at_job, stored.conn_id, submission.job_name, submission.masks, with_log=with_log)
    except TimeoutError:
        return Look(problem="not_in_time")


async def _outputs(request: Request, stored: StoredTask, submission: Submission) -> Outputs:
    if not stored.conn_id:
        return Outputs()
    try:
        return await in_thread(_read_outputs, stored, submission, translator_for(request)("step"))
    except TimeoutError:
        return Outputs(problem=translator_for(request)("not_in_time"))


def _read_outputs(stored: StoredTask, submission: Submission, step: str) -> Outputs:
    try:
        folder = output_folder(stored, submission)
        listing = folder.files()
        return Outputs(listing, draw(folder, listing.files, step=step))
    except Exception as error:  # of the connection or of the storage, which are of many kinds
        return Outputs(problem=masked(error))


def output_folder(stored: StoredTask, submission: Submission) -> OutputFolder:
    """Return the output folder of a job. Raises StorageError where it may not be the task's own."""
    hook = open_hook(stored.conn_id)
    if not is_own_folder(submission.output_path, stored.arguments, hook.folders):
        raise StorageError(f"It is not certain that {submission.output_path} is an output folder of this task.")
    return OutputFolder(hook.storage, submission.output_path)


def _open_file(task: TaskKey, name: str, path: str) -> tuple[Submission | None, Content | str | None]:
    """Return the job that a file belongs to, and the file; None: there is none; a text: why it cannot be shown."""
    stored = read_task(task)
    submission = find_submission(stored, name)
    if stored is None or submission is None:
        return None, None
    try:
        return submission, output_folder(stored, submission).open(path)
    except Exception as error:  # of the connection or of the storage, which are of many kinds
        return submission, masked(error)


def _query(task: TaskKey, job: str) -> str:
    values: dict[str, Any] = task._asdict()
    return urlencode({**values, "job": job} if job else values)
