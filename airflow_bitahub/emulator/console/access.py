"""Who may see and change what on the console's pages, and the headers that keep these pages from other pages' reach.

A person types the emulator's token once, and has a session from then on. Its cookie holds a random number, not the
token. Cookies do not distinguish ports, so a page that a job or serving serves on this machine counts as the same site.
Therefore a change must come from a page of exactly this address, as browsers say in the Origin header.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub.emulator.answers import CONSOLE_COOKIE
from airflow_bitahub.emulator.origins import READ_METHODS, Origins

ROOT = "/console"
SESSION_PATH = f"{ROOT}/session"
STATIC = f"{ROOT}/static/"
SESSION_SECONDS = 12 * 3600
_MAX_SESSIONS = 100
_MAX_FORM_BYTES = 1 << 16
MAX_PICTURE_BYTES = 16 << 20  # of one request to a serving, as the demo's program allows

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",  # blob: the preview of a picture that was dropped
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",  # with no-referrer, browsers would send "Origin: null" with forms
    "cache-control": "no-store",
}


class Sessions:
    """The sessions of people who typed the token. Its methods must be called in the event loop.

    :param clock: returns seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}

    def begin(self) -> str:
        """Return the id of a new session. The oldest one ends if there are too many."""
        now = self._clock()
        self._ends = {key: end for key, end in self._ends.items() if end > now}
        while len(self._ends) >= _MAX_SESSIONS:
            del self._ends[next(iter(self._ends))]
        key = secrets.token_urlsafe(32)
        self._ends[key] = now + SESSION_SECONDS
        return key

    def is_open(self, key: str) -> bool:
        """Return whether there is such a session."""
        return self._ends.get(key, 0) > self._clock()

    def end(self, key: str) -> None:
        """End a session, if there is one."""
        self._ends.pop(key, None)


def cookie_name(scope: Scope) -> str:
    """Return the name of the session's cookie, which has the port in it: emulators of one machine share cookies."""
    server = scope.get("server") or ("", 0)
    return f"{CONSOLE_COOKIE}-{server[1]}"


def session_of(scope: Scope) -> str:
    """Return the id of the session that a request claims; "" if none."""
    return cookie_parser("; ".join(Headers(scope=scope).getlist("cookie"))).get(cookie_name(scope), "")


class ConsoleAccess:
    """ASGI middleware that refuses requests, and adds the headers that all pages have.

    :param for_reading: looking needs a session, too
    """

    def __init__(self, app: ASGIApp, origins: Origins, sessions: Sessions, *, for_reading: bool) -> None:
        self._app = app
        self._origins = origins
        self._sessions = sessions
        self._for_reading = for_reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_signed_in = self._sessions.is_open(session_of(scope))
        scope.setdefault("state", {})["is_signed_in"] = is_signed_in

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refuse(scope, is_signed_in)
        await (answer or self._app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope, is_signed_in: bool) -> Response | None:
        headers, path, is_change = Headers(scope=scope), scope["path"], scope["method"] not in READ_METHODS
        if (unknown_host := self._origins.refuse_host(headers)) is not None:
            return unknown_host
        if is_change and headers.get("origin") != f"{scope['scheme']}://{headers['host']}":
            return PlainTextResponse("Only the console's own pages may send this.\n", 403)
        if is_change and (refusal := _refuse_body(headers, path)) is not None:
            return refusal
        if is_signed_in or path == SESSION_PATH or path.startswith(STATIC) or not (is_change or self._for_reading):
            return None
        back = path if not is_change else ROOT
        query = scope["query_string"].decode("latin-1")
        back = f"{back}?{query}" if query and not is_change else back
        return RedirectResponse(f"{SESSION_PATH}?next={quote(back, safe='/')}", 303)


def _refuse_body(headers: Headers, path: str) -> Response | None:
    length, limit = headers.get("content-length", ""), MAX_PICTURE_BYTES if path.endswith("/ask") else _MAX_FORM_BYTES
    if "transfer-encoding" in headers or not length.isdecimal():
        return PlainTextResponse("The request has no Content-Length.\n", 411)
    if int(length) > limit:
        return PlainTextResponse(f"This is more than {limit} bytes.\n", 413)
    return None
