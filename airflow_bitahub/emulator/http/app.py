"""HTTP <-> state and runner: the document's paths, bodies and answers. No logic of jobs lives here."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub import __version__
from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.faults.faults import Fault, Faults
from airflow_bitahub.emulator.faults.hangup import HangUp
from airflow_bitahub.emulator.faults.injector import FaultInjector
from airflow_bitahub.emulator.http.access import Gate, envelope, needs_token
from airflow_bitahub.emulator.http.openapi import (
    ABOUT,
    CONFLICT,
    PROFILED,
    Items,
    JobName,
    Log,
    Record,
    Scale,
    ServingName,
    Success,
    describe,
    gives,
    takes,
)
from airflow_bitahub.emulator.http.profiles import Profile
from airflow_bitahub.emulator.http.signin import SignIn, sign_in_routes
from airflow_bitahub.emulator.http.views import ledger_view, serving_view
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.errors import Conflict, Invalid, Refused, Unknown
from airflow_bitahub.emulator.state.state import JobKey, ServingKey, State

log = logging.getLogger(__name__)

_STATUS_OF: dict[type[Refused], int] = {Invalid: 400, Unknown: 404, Conflict: 409}
# The cluster's segment may be left out, as in KubeSphere: the host cluster is meant then.
_ROOTS = ("/lapis/clusters/{cluster}", "/lapis")
_JOBS = "/jobserver.leinao.ai/v1/workspaces/{workspace}/namespaces/{namespace}/jobs"
_SERVINGS = "/inference.leinao.ai/v1/workspaces/{workspace}/namespaces/{namespace}/serving"
_JOB_PATH = re.compile(r"/lapis(?:/clusters/[^/]+)?/jobserver\.leinao\.ai/v1/[^?]*/namespaces/([^/]+)/jobs/([^/]+)")

M = TypeVar("M", bound=BaseModel)
TailLines = Annotated[int, Query(alias="tailLines", ge=0, le=100_000)]


def create_app(
    state: State,
    runner: Runner,
    faults: Faults,
    token: str,
    hosts: Iterable[str],
    profile: Profile,
    sign_in: SignIn | None,
) -> FastAPI:
    """Give the ASGI application.

    :param token: required for everything that changes state, and good for everything
    :param hosts: names by which the emulator is known, without port
    :param profile: how queries of jobs are answered
    :param sign_in: who may sign in; None: nobody
    """
    # The interactive pages would load scripts from elsewhere.
    app = FastAPI(
        title="BitaHub emulator",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # an address with a slash too many is a wrong one, at the platform too
    )
    for root in _ROOTS:
        app.include_router(_job_routes(state, runner, profile), prefix=root + _JOBS)
        app.include_router(_serving_routes(state, runner), prefix=root + _SERVINGS)
    if sign_in is not None:
        app.include_router(sign_in_routes(sign_in))
    _add_own_routes(app, state, faults)
    _add_error_answers(app)
    describe(app, partial(needs_token, signing_in=sign_in is not None))
    app.add_middleware(FaultInjector, faults=faults, state=state)
    app.add_middleware(Defects)
    app.add_middleware(Ledger, state=state)
    app.add_middleware(Gate, token=token, hosts=hosts, sign_in=sign_in)
    return app


def success(data: Any) -> JSONResponse:
    """Give the platform's envelope around data."""
    return JSONResponse({"status": {"code": 0, "msg": "success"}, "data": data})


def _job_routes(state: State, runner: Runner, profile: Profile) -> APIRouter:
    router = APIRouter(tags=["jobs"])

    @router.get("", summary="List the jobs of a namespace, newest first.", response_description=PROFILED)
    async def list_jobs(
        namespace: str, page: Annotated[int, Query(ge=1)] = 1, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> JSONResponse:
        records = state.jobs(namespace)
        shown = records[(page - 1) * limit : page * limit]
        return JSONResponse(profile.answer_list(shown, len(records)))

    @router.post(
        "/{name}", summary="Submit a job.", openapi_extra=takes(JobSpec), responses=gives(Success[JobName]) | CONFLICT
    )
    async def submit_job(
        namespace: str, name: str, request: Request, body: Annotated[bytes, Depends(_body)]
    ) -> JSONResponse:
        spec = _parse(JobSpec, body)
        if spec.job_name != name:
            raise Invalid(f"jobName: {spec.job_name!r} is not the name in the address, {name!r}")
        runner.jobs.submit(namespace, spec, request.state.user)
        return success({"jobName": name})

    @router.get("/{name}", summary="Give a job.", response_description=PROFILED)
    async def get_job(namespace: str, name: str) -> JSONResponse:
        return JSONResponse(profile.answer(state.job(JobKey(namespace, name))))

    @router.delete("/{name}", summary="Stop a job, or remove one that is over.", responses=gives(Success[JobName]))
    async def delete_job(namespace: str, name: str) -> JSONResponse:
        runner.jobs.delete(JobKey(namespace, name))
        return success({"jobName": name})

    @router.get("/{name}/log", summary="Give the last lines of what a job printed.", responses=gives(Success[Log]))
    async def read_job_log(namespace: str, name: str, tail_lines: TailLines = 100) -> JSONResponse:
        record = state.job(JobKey(namespace, name))
        return success({"log": tail(runner.jobs.log_of(record.key), tail_lines)})

    return router


def _serving_routes(state: State, runner: Runner) -> APIRouter:
    router = APIRouter(tags=["servings"])

    def view(key: ServingKey, request: Request) -> dict[str, Any]:
        return serving_view(state.serving(key), state.now(), show_token=request.state.knows_token)

    @router.post(
        "",
        summary="Create a serving.",
        openapi_extra=takes(ServingSpec),
        responses=gives(Success[ServingName]) | CONFLICT,
    )
    async def create_serving(namespace: str, body: Annotated[bytes, Depends(_body)]) -> JSONResponse:
        record = runner.servings.create(namespace, _parse(ServingSpec, body))
        return success({"name": record.key.name, "version": record.key.version})

    @router.get("", summary="List the servings of a namespace, newest first.", responses=gives(Success[Items]))
    async def list_servings(namespace: str, request: Request) -> JSONResponse:
        items = [view(record.key, request) for record in state.servings(namespace)]
        return success({"items": items, "totalItems": len(items)})

    @router.get("/{name}", summary="Give a serving.", responses=gives(Success[Record]))
    async def get_serving(namespace: str, name: str, request: Request, version: str = "v1") -> JSONResponse:
        return success(view(ServingKey(namespace, name, version), request))

    @router.put(
        "/{name}",
        summary="Let a serving be another; its address and its access token stay.",
        openapi_extra=takes(ServingSpec),
        responses=gives(Success[ServingName]),
    )
    async def update_serving(
        namespace: str, name: str, body: Annotated[bytes, Depends(_body)], version: str = "v1"
    ) -> JSONResponse:
        runner.servings.update(ServingKey(namespace, name, version), _parse(ServingSpec, body))
        return success({"name": name, "version": version})

    @router.patch(
        "/{name}",
        summary="Let more or fewer programs of a serving run.",
        openapi_extra=takes(Scale),
        responses=gives(Success[ServingName]),
    )
    async def scale_serving(
        namespace: str, name: str, body: Annotated[bytes, Depends(_body)], version: str = "v1"
    ) -> JSONResponse:
        runner.servings.scale(ServingKey(namespace, name, version), _parse(Scale, body).replicas)
        return success({"name": name, "version": version})

    @router.put("/{name}/start", summary="Run a serving that is over again.", responses=gives(Success[ServingName]))
    async def start_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        await runner.servings.start(ServingKey(namespace, name, version))
        return success({"name": name, "version": version})

    @router.put("/{name}/stop", summary="Stop a serving and keep its record.", responses=gives(Success[ServingName]))
    async def stop_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        runner.servings.stop(ServingKey(namespace, name, version))
        return success({"name": name, "version": version})

    @router.delete("/{name}", summary="End a serving and remove it.", responses=gives(Success[ServingName]))
    async def delete_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        await runner.servings.delete(ServingKey(namespace, name, version))
        return success({"name": name, "version": version})

    @router.get("/{name}/log", summary="Give the last lines of what a serving printed.", responses=gives(Success[Log]))
    async def read_serving_log(
        namespace: str, name: str, version: str = "v1", tail_lines: TailLines = 100
    ) -> JSONResponse:
        record = state.serving(ServingKey(namespace, name, version))
        return success({"log": tail(runner.servings.log_of(record.key), tail_lines)})

    return router


def _add_own_routes(app: FastAPI, state: State, faults: Faults) -> None:
    """Add what the platform does not have."""

    @app.get("/", tags=["emulator"], summary="Tell what this is.", responses=gives(Success[Record]))
    async def about() -> JSONResponse:
        return success({"name": "BitaHub emulator", "version": __version__})

    @app.get("/healthz", tags=["emulator"], summary="Tell that it serves.", responses=gives(Success[str]))
    async def healthz() -> JSONResponse:
        return success("ok")

    @app.get(
        "/emulator/ledger",
        tags=["emulator"],
        summary="List every job that ever existed, with what was asked about it.",
        responses=gives(Success[list[Record]]),
    )
    async def ledger() -> JSONResponse:
        return success([ledger_view(entry) for entry in state.ledger()])

    @app.post(
        "/emulator/faults",
        tags=["emulator"],
        summary="Put a fault in force.",
        openapi_extra=takes(Fault),
        responses=gives(Success[Record]),
    )
    async def add_fault(body: Annotated[bytes, Depends(_body)]) -> JSONResponse:
        return success(faults.add(_parse(Fault, body)).view())

    @app.get(
        "/emulator/faults",
        tags=["emulator"],
        summary="List the faults in force.",
        responses=gives(Success[list[Record]]),
    )
    async def list_faults() -> JSONResponse:
        return success([armed.view() for armed in faults])

    @app.delete(
        "/emulator/faults", tags=["emulator"], summary="Take all faults out of force.", responses=gives(Success[None])
    )
    async def clear_faults() -> JSONResponse:
        faults.clear()
        return success(None)

    @app.delete(
        "/emulator/faults/{fault_id}",
        tags=["emulator"],
        summary="Take a fault out of force.",
        responses=gives(Success[None]),
    )
    async def remove_fault(fault_id: str) -> JSONResponse:
        faults.remove(fault_id)
        return success(None)


async def _body(request: Request) -> bytes:
    return await request.body()


def _parse(model: type[M], body: bytes) -> M:
    """Read a body exactly as the document spells it: no other names, no numbers as text.

    :raises Invalid: naming each wrong field
    """
    try:
        return model.model_validate_json(body, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Invalid(_sentence(error.errors())) from None


def _sentence(errors: Iterable[Any]) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg'].removeprefix('Value error, ')}"
        for error in errors
    )


def _add_error_answers(app: FastAPI) -> None:
    """Put every error of the platform's into its envelope."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return envelope(_STATUS_OF.get(type(error), 400), str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return envelope(400, _sentence(error.errors()))

    @app.exception_handler(HTTPException)
    async def unroutable(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NOT_FOUND:
            # Not in the envelope: a gateway does not know the platform's, and a client must be able to tell a wrong
            # address from a job that does not exist.
            return PlainTextResponse(f"there is no such address: {request.url.path}\n", 404)
        answer = envelope(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        answer.headers.update(error.headers or {})
        return answer


class Defects:
    """ASGI middleware that answers what nobody foresaw. FastAPI's own would have the connection cut off after it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # every answer here is sent in one piece, so none was begun
            log.exception("%s %s failed", scope.get("method"), scope.get("path"))
            answer = envelope(500, f"the emulator itself failed ({type(error).__name__}); its output tells more")
            await answer(scope, receive, send)


class Ledger:
    """ASGI middleware that writes down each request that concerned a job, and what the client was answered."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        match = _JOB_PATH.match(scope.get("path", "")) if scope["type"] == "http" else None
        if match is None:
            await self._app(scope, receive, send)
            return
        key = JobKey(match[1], match[2])

        # Before the client learns of it, so that whoever then reads the ledger finds it there.
        def note(status: int) -> None:
            reached = scope["state"].get("reached", False)
            self._state.note_request(key, scope["method"], scope["path"], status, reached=reached)

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except HangUp:
            note(0)
            raise
