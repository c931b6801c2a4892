"""Decides who may use the emulator. This matters, since the emulator runs the commands that it is sent.

A web page that the user visits can send requests to the loopback interface, too. But it does not know the token. It
cannot send JSON to another origin without permission, which the emulator never gives: it sends no CORS headers. And if
it tries DNS rebinding, its Host header is wrong.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_bitahub.emulator.answers import (
    basic_credentials,
    bearer_token,
    error_answer,
    gateway_error_answer,
    unauthorized_answer,
)
from airflow_bitahub.emulator.http.signin import TOKEN_PATH, SignIn, SignInError
from airflow_bitahub.emulator.origins import READ_METHODS, Origins

MAX_BODY_BYTES = 1 << 20  # the bodies in the platform's document have 2 KB
_PUBLIC_PATHS = ("/", "/healthz")
# Ways in which requests may have to be signed: those of the connection's extra `auth`, and any of them.
ANY, BEARER, HEADER, BASIC, KUBESPHERE = AUTHS = ("any", "bearer", "header", "basic", "kubesphere")
_NAMESPACE = re.compile(r"/[^/]+(?:/clusters/[^/]+)?/[^/]+/v1/workspaces/[^/]+/namespaces/([^/]+)")


def needs_token(method: str, path: str, *, for_reading: bool, signing_in: bool) -> bool:
    """Return whether a request needs a token: every change does.

    :param for_reading: queries need one, too
    :param signing_in: users can sign in
    """
    if signing_in and path == TOKEN_PATH:
        return False
    return method not in READ_METHODS or (for_reading and path not in _PUBLIC_PATHS)


class AccessControl:
    """ASGI middleware that refuses malformed and unauthorized requests.

    :param token: the emulator's own, which allows everything
    :param for_reading: queries need a token, too
    :param sign_in: knows the users and their tokens; None: there are no users
    :param auth: the only way of signing requests that is accepted, one of `AUTHS`: ``bearer`` and ``header`` with the
        emulator's own token, ``basic`` with a user's name and password, ``kubesphere`` with a token from a sign-in
    """

    def __init__(
        self, app: ASGIApp, token: str, origins: Origins, *, for_reading: bool, sign_in: SignIn | None, auth: str
    ) -> None:
        self._app = app
        self._token = token
        self._origins = origins
        self._for_reading = for_reading
        self._sign_in = sign_in
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        # Only the ways of the platform: the emulator's own routes take its token in any case.
        auth = ANY if path.startswith("/emulator/") else self._auth
        token = bearer_token(headers) if auth != HEADER else ""
        token = token or (headers.get("token", "") if auth in (ANY, HEADER) else "")
        is_own_token = auth not in (BASIC, KUBESPHERE) and secrets.compare_digest(token.encode(), self._token.encode())
        user = self._find_user(token, headers) if auth in (ANY, BASIC, KUBESPHERE) else None
        scope.setdefault("state", {}).update(knows_token=is_own_token or user is not None, user=user or "")
        signs_in = self._sign_in is not None and path == TOKEN_PATH
        # A web page may send a form. But without the password it gets no token, and it could not read the answer. It
        # can only use up a user's attempts; the emulator's own token still works then.
        answer = self._refuse_malformed(
            headers, "application/x-www-form-urlencoded" if signs_in else "application/json"
        )
        if answer is None and not is_own_token:
            answer = self._refuse_unauthorized(method, path, user)
        await (answer or self._app)(scope, receive, send)

    def _find_user(self, token: str, headers: Headers) -> str | None:
        """Return the user of a token, or of a name and a password as HTTP's basic authentication sends them."""
        if self._sign_in is None:
            return None
        if (credentials := basic_credentials(headers)) is None:
            return self._sign_in.user_of(token) if self._auth != BASIC else None
        if self._auth == KUBESPHERE:
            return None
        try:
            return self._sign_in.check_password(*credentials)
        except SignInError:
            return None

    def _refuse_malformed(self, headers: Headers, expected: str) -> JSONResponse | None:
        """Return why a request is refused, whoever sends it; `expected` is the media type that a body must have."""
        if (answer := self._origins.refuse_host(headers)) is not None:
            return answer
        if "transfer-encoding" in headers:
            return error_answer(411, "the request has no Content-Length")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return error_answer(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if int(length) > 0 and media_type != expected:
            return error_answer(415, f"the body's content type is {media_type!r}, not {expected}")
        return None

    def _refuse_unauthorized(self, method: str, path: str, user: str | None) -> JSONResponse | None:
        """Return why a request without the emulator's own token is refused, if it is."""
        if self._sign_in is None or user is None:
            signing_in = self._sign_in is not None
            if not needs_token(method, path, for_reading=self._for_reading, signing_in=signing_in):
                return None
            which = "the emulator's token" if self._sign_in is None else "a token, which is missing, wrong or expired"
            return unauthorized_answer(f"this needs {which}")
        if path.startswith("/emulator/") and method not in READ_METHODS:
            return gateway_error_answer(403, "Forbidden", "this needs the emulator's own token")
        namespace = _NAMESPACE.match(path)
        if namespace and not self._sign_in.may_work_in(namespace[1]):
            return gateway_error_answer(403, "Forbidden", f"user {user!r} may not work in namespace {namespace[1]!r}")
        return None
