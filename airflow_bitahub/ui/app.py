"""The pages as an application of Airflow's api-server: their routes, headers and errors."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub.pages.rendering import static_file
from airflow_bitahub.ui import job, matrix, models, serving
from airflow_bitahub.ui.rendering import FOLDER, render

_SCRIPT = FOLDER / "static" / "frame.js"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",  # the Airflow UI shows the pages in a frame
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


def make_app() -> FastAPI:
    """Return the application. Every address is one level deep and says in its query what it is about."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[Middleware(_Headers)],
        exception_handlers=dict.fromkeys((HTTPException, RequestValidationError, TimeoutError), _show_error),
    )
    app.include_router(job.router)
    app.include_router(serving.router)
    app.include_router(models.router)
    app.include_router(matrix.router)
    app.add_api_route("/static/{name}", _send_static, include_in_schema=False)
    return app


class _Headers:
    """ASGI middleware that adds the headers that all pages have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_guarded)


async def _send_static(name: str) -> Response:
    found = static_file(name, _SCRIPT)
    if found is None:
        raise HTTPException(404)
    file, media_type = found
    return FileResponse(file, media_type=media_type, headers={"Cache-Control": "no-cache"})


async def _show_error(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 503 if isinstance(error, TimeoutError) else 404
    return render(request, "error.html", code, code=code)
