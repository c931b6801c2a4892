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

from airflow_bitahub.emulator.http.signin import TOKEN_PATH, SignIn

MAX_BODY = 1 << 20  # bytes; the document's bodies have 2 KB
_LOOKING = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/", "/healthz")
_NAMESPACE = re.compile(r"/lapis(?:/clusters/[^/]+)?/[^/]+/v1/workspaces/[^/]+/namespaces/([^/]+)")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(:\d+)?")


def envelope(code: int, message: str, http_status: int | None = None) -> JSONResponse:
    """Give an error in the platform's envelope; `http_status` is the code unless told otherwise."""
    body = {"status": {"code": code, "msg": message}, "data": None}
    return JSONResponse(body, status_code=http_status or code)


def needs_token(method: str, path: str, *, signing_in: bool) -> bool:
    """Tell whether a request is refused without a token: changes always are, and where users sign in so is looking."""
    if signing_in:
        return path != TOKEN_PATH and not (path in _OPEN and method in _LOOKING)
    return method not in _LOOKING


class Gate:
    """ASGI middleware that lets only proper requests through.

    :param token: required for everything that changes state, and good for everything
    :param hosts: names by which the emulator is known, without port
    :param sign_in: who else may have a token, which looking needs as well then; None: nobody, and looking is free
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], sign_in: SignIn | None) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        token = bearer(headers)
        is_ours = secrets.compare_digest(token.encode(), self._token.encode())
        user = self._sign_in.user_of(token) if self._sign_in else None
        scope.setdefault("state", {}).update(knows_token=is_ours or user is not None, user=user or "")
        signs_in = self._sign_in is not None and path == TOKEN_PATH
        # A web page may send a form, but gets nowhere without the password, and cannot read a token that is given. All
        # it could do is use up the tries of a user; the emulator's own token is good all the same.
        answer = self._refuse(headers, "application/x-www-form-urlencoded" if signs_in else "application/json")
        if answer is None and not is_ours:
            answer = self._refuse_caller(method, path, user)
        await (answer or self._app)(scope, receive, send)

    def _refuse(self, headers: Headers, expected: str) -> JSONResponse | None:
        """Refuse what is not a proper request, whoever sends it; `expected` is the media type of a body."""
        host = _HOST.fullmatch(headers.get("host", "").lower())
        if host is None or host[1] not in self._hosts or len(headers.getlist("host")) > 1:
            return envelope(403, f"the Host {headers.get('host', '')!r} is not one this emulator is known by")
        if "transfer-encoding" in headers:
            return envelope(411, "the request has no Content-Length")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return envelope(413, f"the body is larger than {MAX_BODY} bytes")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if int(length) > 0 and media_type != expected:
            return envelope(415, f"the body's content type is {media_type!r}, not {expected}")
        return None

    def _refuse_caller(self, method: str, path: str, user: str | None) -> JSONResponse | None:
        """Refuse whoever has not the emulator's own token and may not do this."""
        if self._sign_in is None or user is None:
            if not needs_token(method, path, signing_in=self._sign_in is not None):
                return None
            which = "the emulator's token" if self._sign_in is None else "a token, which is missing, wrong or expired"
            return unauthorized(f"this needs {which}")
        if path.startswith("/emulator/") and method not in _LOOKING:
            return _status(403, "Forbidden", "this needs the emulator's own token")
        namespace = _NAMESPACE.match(path)
        if namespace and not self._sign_in.may_work_in(namespace[1]):
            return _status(403, "Forbidden", f"user {user!r} may not work in namespace {namespace[1]!r}")
        return None


def bearer(headers: Headers) -> str:
    """Give the token that a request brings; "" when it brings none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def unauthorized(message: str) -> JSONResponse:
    """Refuse who has no token, or a wrong one; the message says which it takes."""
    answer = _status(401, "Unauthorized", f"{message}, as 'Authorization: Bearer ...'")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _status(code: int, reason: str, message: str) -> JSONResponse:
    """Answer as the platform's gateway does, which is not the platform's envelope."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"{reason}: {message}",
        "reason": reason,
        "code": code,
    }
    return JSONResponse(body, status_code=code)
