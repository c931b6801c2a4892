"""Who may ask the emulator, and how. It runs commands for whoever gets past here.

A web page that the user happens to visit can send requests to the loopback interface too. It cannot know the token,
cannot send JSON to another origin without being asked for permission, which is never given (there are no CORS
headers), and gives itself away by its Host header when it tries DNS rebinding.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 1 << 20  # bytes; the document's bodies have 2 KB
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(:\d+)?")


def envelope(code: int, message: str, http_status: int | None = None) -> JSONResponse:
    """Give an error in the platform's envelope; `http_status` is the code unless told otherwise."""
    body = {"status": {"code": code, "msg": message}, "data": None}
    return JSONResponse(body, status_code=http_status or code)


class Gate:
    """ASGI middleware that lets only proper requests through.

    :param token: required for everything that changes state
    :param hosts: names by which the emulator is known, without port
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope.setdefault("state", {})["knows_token"] = knows = self._knows_token(headers)
        answer = self._refuse(scope["method"], headers, knows)
        await (answer or self._app)(scope, receive, send)

    def _refuse(self, method: str, headers: Headers, knows_token: bool) -> JSONResponse | None:
        host = _HOST.fullmatch(headers.get("host", "").lower())
        if host is None or host[1] not in self._hosts or len(headers.getlist("host")) > 1:
            return envelope(403, f"the Host {headers.get('host', '')!r} is not one this emulator is known by")
        if "transfer-encoding" in headers:
            return envelope(411, "the request has no Content-Length")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return envelope(413, f"the body is larger than {MAX_BODY} bytes")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if int(length) > 0 and media_type != "application/json":
            return envelope(415, f"the body's content type is {media_type!r}, not application/json")
        if method not in ("GET", "HEAD", "OPTIONS") and not knows_token:
            return _unauthorized()
        return None

    def _knows_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        right = secrets.compare_digest(token.strip().encode(), self._token.encode())
        return right and scheme.lower() == "bearer"


def _unauthorized() -> JSONResponse:
    """Answer as the platform's gateway does, which is not the platform's envelope."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "Unauthorized: this needs the emulator's token, as 'Authorization: Bearer ...'",
        "reason": "Unauthorized",
        "code": 401,
    }
    return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "Bearer"})
