"""The routes of jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
from airflow_bitahub.emulator.http.context import Context
from airflow_bitahub.emulator.http.openapi import (
    CONFLICT,
    PROFILED,
    JobName,
    Log,
    LogPiece,
    Success,
    TailLines,
    TaskLogs,
    request_body,
    success_response,
)
from airflow_bitahub.emulator.http.task_url import TaskUrl
from airflow_bitahub.emulator.run.processes import read_log, tail
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import JobKey

# Of the whole log, or of each task's part.
_OFFSETS = r"^(?:[0-9]{1,15}|[a-z0-9-]+-[0-9]+:[0-9]{1,15}(?:,[a-z0-9-]+-[0-9]+:[0-9]{1,15})*)$"

router = APIRouter(tags=["jobs"])


@router.get("", response_description=PROFILED)
async def list_jobs(
    context: Context,
    namespace: str,
    page: Annotated[int, Query(ge=1)] = 1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    """List the jobs of a namespace, newest first."""
    records = context.state.jobs(namespace)
    shown = records[(page - 1) * limit : page * limit]
    return JSONResponse(context.profile.answer_list(shown, len(records)))


@router.post(
    "/{name}",
    openapi_extra=request_body(JobSpec),
    responses=success_response(Success[JobName]) | CONFLICT,
)
async def submit_job(
    context: Context,
    namespace: str,
    name: str,
    request: Request,
    body: Annotated[bytes, Depends(read_body)],
    task_url: TaskUrl,
) -> JSONResponse:
    """Submit a job."""
    spec = parse_body(JobSpec, body)
    if spec.job_name != name:
        raise InvalidRequest(f"jobName: {spec.job_name!r} is not the name in the address, {name!r}")
    record = context.runner.jobs.submit(namespace, spec, request.state.user, task_url)
    await context.runner.jobs.finish_immediate(record.key)
    return success_answer({"jobName": name})


@router.get("/{name}", response_description=PROFILED)
async def get_job(context: Context, namespace: str, name: str) -> JSONResponse:
    """Get a job."""
    return JSONResponse(context.profile.answer(context.state.job(JobKey(namespace, name))))


@router.delete("/{name}", responses=success_response(Success[JobName]))
async def delete_job(context: Context, namespace: str, name: str) -> JSONResponse:
    """Stop a job, or remove one that has ended."""
    context.runner.jobs.delete(JobKey(namespace, name))
    return success_answer({"jobName": name})


@router.get("/{name}/log", responses=success_response(Success[Log | LogPiece | TaskLogs]))
async def read_job_log(
    context: Context,
    namespace: str,
    name: str,
    tail_lines: TailLines = 100,
    offset: Annotated[str | None, Query(pattern=_OFFSETS)] = None,
) -> JSONResponse:
    """Get the last lines that a job printed; with an offset in bytes, those of them that come after it.

    Each task of a job of several has a log of its own. Its offset may be given by its role and index, such as
    `worker-0:120,worker-1:80`. Without an offset, their last lines follow one another.
    """
    record = context.state.job(JobKey(namespace, name))
    logs = context.runner.jobs.logs_of(record)
    if offset is None:
        return success_answer({"log": "".join(tail(file, tail_lines) for file in logs.values())})
    offsets = dict(part.split(":") for part in offset.split(",") if ":" in part)
    pieces = []
    for (role, index), file in logs.items():
        begin = int(offset if offset.isdecimal() else offsets.get(f"{role}-{index}", 0))
        text, start, end, skipped = read_log(file, begin, tail_lines)
        piece = {"log": text, "offset": start, "nextOffset": end, "skippedLines": skipped}
        pieces.append({**piece, "taskRoleName": role, "taskIndex": index} if len(logs) > 1 else piece)
    return success_answer({"taskLogs": pieces} if len(pieces) > 1 else pieces[0])
