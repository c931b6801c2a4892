"""The routes of jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
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
from airflow_bitahub.emulator.http.profiles import Profile
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import JobKey
from airflow_bitahub.emulator.state.state import State


def job_routes(state: State, runner: Runner, profile: Profile) -> APIRouter:
    """Return the routes below ``.../jobs``.

    :param profile: how queries of jobs are answered
    """
    router = APIRouter(tags=["jobs"])

    @router.get("", summary="List the jobs of a namespace, newest first.", response_description=PROFILED)
    async def list_jobs(
        namespace: str, page: Annotated[int, Query(ge=1)] = 1, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> JSONResponse:
        records = state.jobs(namespace)
        shown = records[(page - 1) * limit : page * limit]
        return JSONResponse(profile.answer_list(shown, len(records)))

    @router.post(
        "/{name}",
        summary="Submit a job.",
        openapi_extra=request_body(JobSpec),
        responses=success_response(Success[JobName]) | CONFLICT,
    )
    async def submit_job(
        namespace: str, name: str, request: Request, body: Annotated[bytes, Depends(read_body)]
    ) -> JSONResponse:
        spec = parse_body(JobSpec, body)
        if spec.job_name != name:
            raise InvalidRequest(f"jobName: {spec.job_name!r} is not the name in the address, {name!r}")
        runner.jobs.submit(namespace, spec, request.state.user)
        return success_answer({"jobName": name})

    @router.get("/{name}", summary="Get a job.", response_description=PROFILED)
    async def get_job(namespace: str, name: str) -> JSONResponse:
        return JSONResponse(profile.answer(state.job(JobKey(namespace, name))))

    @router.delete(
        "/{name}", summary="Stop a job, or remove one that has ended.", responses=success_response(Success[JobName])
    )
    async def delete_job(namespace: str, name: str) -> JSONResponse:
        runner.jobs.delete(JobKey(namespace, name))
        return success_answer({"jobName": name})

    @router.get(
        "/{name}/log", summary="Get the last lines that a job printed.", responses=success_response(Success[Log])
    )
    async def read_job_log(namespace: str, name: str, tail_lines: TailLines = 100) -> JSONResponse:
        record = state.job(JobKey(namespace, name))
        return success_answer({"log": tail(runner.jobs.log_of(record.key), tail_lines)})

    return router
