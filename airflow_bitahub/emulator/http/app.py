"""The ASGI application: all routes, the errors they answer, and the middleware around them."""

from __future__ import annotations

import logging
import re
from functools import cache, partial
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub import __version__
from airflow_bitahub.emulator.answers import error_answer
from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.faults.hangup import HangUp
from airflow_bitahub.emulator.faults.injector import FaultInjector
from airflow_bitahub.emulator.http import control, jobs, servings, signin
from airflow_bitahub.emulator.http.access import ANY, KUBESPHERE, AccessControl, needs_token
from airflow_bitahub.emulator.http.bodies import validation_message
from airflow_bitahub.emulator.http.context import AppContext
from airflow_bitahub.emulator.http.openapi import DESCRIPTION, complete_openapi
from airflow_bitahub.emulator.http.profiles import Profile
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.origins import Origins
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.errors import Conflict, InvalidRequest, NotFound, NotWritten, RequestRefused
from airflow_bitahub.emulator.state.records import JobKey
from airflow_bitahub.emulator.state.state import State

log = logging.getLogger(__name__)

_STATUS_OF: dict[type[RequestRefused], int] = {InvalidRequest: 400, NotFound: 404, Conflict: 409, NotWritten: 503}
# As in KubeSphere, an address without a cluster means the host cluster.
_ROOTS = ("/clusters/{cluster}", "")
_JOBS = "/jobserver.leinao.ai/v1/workspaces/{workspace}/namespaces/{namespace}/jobs"
_SERVINGS = "/inference.leinao.ai/v1/workspaces/{workspace}/namespaces/{namespace}/serving"
_JOB_PATH = r"(?:/clusters/[^/]+)?/jobserver\.leinao\.ai/v1/[^?]*/namespaces/([^/]+)/jobs/([^/]+)"


def create_app(
    state: State,
    runner: Runner,
    faults: Faults,
    token: str,
    origins: Origins,
    profile: Profile,
    sign_in: SignIn | None,
    *,
    token_for_reading: bool,
    prefix: str,
    auth: str,
) -> FastAPI:
    """Return the ASGI application.

    :param token: required for every change; it allows everything
    :param origins: the names of the emulator
    :param profile: how queries of jobs are answered
    :param sign_in: knows the users who may sign in; None: there are none
    :param token_for_reading: queries need a token, too, as they always do where users sign in
    :param prefix: the first part of the addresses of jobs and servings
    :param auth: how requests have to be signed, see `AccessControl`
    """
    app = FastAPI(
        title="BitaHub emulator",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # the interactive pages would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # the platform, too, refuses an address with an extra slash
        routes=[*_routes(prefix), *(signin.router.routes if sign_in is not None and auth in (ANY, KUBESPHERE) else ())],
    )
    app.state.context = AppContext(state, runner, faults, profile)
    app.state.sign_in = sign_in
    _add_error_answers(app)
    for_reading = token_for_reading or sign_in is not None
    complete_openapi(app, partial(needs_token, for_reading=for_reading, signing_in=sign_in is not None))
    app.add_middleware(FaultInjector, faults=faults, state=state)
    app.add_middleware(DefectHandler)
    app.add_middleware(LedgerWriter, state=state, prefix=prefix)
    app.add_middleware(AccessControl, token=token, origins=origins, for_reading=for_reading, sign_in=sign_in, auth=auth)
    return app


@cache
def _routes(prefix: str) -> tuple[BaseRoute, ...]:
    """Return the routes of every emulator with this prefix.

    Making them takes FastAPI longer than all else that an emulator starts.
    """
    router = APIRouter()
    for root in _ROOTS:
        router.include_router(jobs.router, prefix=f"/{prefix}{root}{_JOBS}")
        router.include_router(servings.router, prefix=f"/{prefix}{root}{_SERVINGS}")
    router.include_router(control.router)
    return tuple(router.routes)


def _add_error_answers(app: FastAPI) -> None:
    """Answer every error in the platform's envelope."""

    @app.exception_handler(RequestRefused)
    async def refused(_: Request, error: RequestRefused) -> Response:
        return error_answer(_STATUS_OF.get(type(error), 400), str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_answer(400, validation_message(error.errors()))

    @app.exception_handler(HTTPException)
    async def unroutable(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NOT_FOUND:
            # Without the envelope, which a gateway does not know. So a client can distinguish a wrong address from a
            # job that does not exist.
            return PlainTextResponse(f"there is no such address: {request.url.path}\n", 404)
        answer = error_answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        answer.headers.update(error.headers or {})
        return answer


class DefectHandler:
    """ASGI middleware that answers 500 after an unexpected error. FastAPI's own would also close the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:  # nothing was sent yet, since every answer here is sent as a whole
            log.exception("%s %s failed", scope.get("method"), scope.get("path"))
            answer = error_answer(500, f"the emulator itself failed ({type(error).__name__}); see its output")
            await answer(scope, receive, send)


class LedgerWriter:
    """ASGI middleware that records each request about a job, and the status that the client received."""

    def __init__(self, app: ASGIApp, state: State, prefix: str) -> None:
        self._app = app
        self._state = state
        self._job_path = re.compile(f"/{re.escape(prefix)}{_JOB_PATH}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        match = self._job_path.match(scope.get("path", "")) if scope["type"] == "http" else None
        if match is None:
            await self._app(scope, receive, send)
            return
        key = JobKey(match[1], match[2])

        def record(status: int) -> None:
            reached = scope["state"].get("reached", False)
            self._state.log_request(key, scope["method"], scope["path"], status, reached=reached)

        async def record_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Record first: a client that has its answer must find the request in the ledger.
                record(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, record_and_send)
        except HangUp:
            record(0)
            raise
