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
    Success,
    TailLines,
    request_body,
    success_response,
)
from airflow_bitahub.emulator.http.task_url import TaskUrl
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import JobKey

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


@router.get("/{name}/log", responses=success_response(Success[Log]))
async def read_job_log(context: Context, namespace: str, name: str, tail_lines: TailLines = 100) -> JSONResponse:
    """Get the last lines that a job printed."""
    record = context.state.job(JobKey(namespace, name))
    return success_answer({"log": tail(context.runner.jobs.log_of(record.key), tail_lines)})
