"""The console as an ASGI application, in front of the platform's: it answers what is below ``/console``."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_bitahub.emulator.console import capacity, faults, jobs, models, servings, session
from airflow_bitahub.emulator.console.access import ROOT, STATIC, ConsoleAccess, Sessions
from airflow_bitahub.emulator.console.pages import FOLDER, ConsoleContext, render
from airflow_bitahub.emulator.origins import Origins
from airflow_bitahub.emulator.state.errors import InvalidRequest, NotFound
from airflow_bitahub.pages.rendering import static_file

_SCRIPT = FOLDER / "static" / "console.js"


class Console:
    """ASGI application with the pages, which passes every other request on.

    The pages are not part of the platform: no fault strikes them, and no description of the platform names them.

    :param app: the platform's application
    :param token: a person who types it may change something
    :param for_reading: without it, nobody sees anything
    """

    def __init__(
        self, app: ASGIApp, context: ConsoleContext, token: str, origins: Origins, *, for_reading: bool
    ) -> None:
        self._app = app
        sessions = Sessions()
        self._pages = Starlette(
            routes=_ROUTES,
            middleware=[Middleware(ConsoleAccess, origins=origins, sessions=sessions, for_reading=for_reading)],
            exception_handlers=dict.fromkeys((HTTPException, NotFound, InvalidRequest), _show_error),
        )
        self._pages.router.redirect_slashes = False
        self._pages.state.context = context
        self._pages.state.token = token
        self._pages.state.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        is_page = path == ROOT or path.startswith(f"{ROOT}/") or (path == "/" and _is_browser(scope))
        await (self._pages if is_page else self._app)(scope, receive, send)


def _is_browser(scope: Scope) -> bool:
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")


async def _start(_: Request) -> Response:
    return RedirectResponse(f"{ROOT}/jobs", 302)


async def _send_static(request: Request) -> Response:
    name = request.path_params["name"]
    found = static_file(name, _SCRIPT)
    if found is None:
        raise NotFound(f"there is no file {name!r}")
    file, media_type = found
    return FileResponse(file, media_type=media_type, headers={"Cache-Control": "no-cache"})


async def _show_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        code, message = error.status_code, ""
    else:
        code, message = 404 if isinstance(error, NotFound) else 400, str(error)
    return render(request, "error.html", code, code=code, message=message)


_ROUTES = [
    Route("/", _start),
    Route(ROOT, _start),
    Route(f"{ROOT}/", _start),
    *jobs.routes,
    *servings.routes,
    *models.routes,
    *capacity.routes,
    *faults.routes,
    *session.routes,
    Route(f"{STATIC}{{name}}", _send_static),
]
