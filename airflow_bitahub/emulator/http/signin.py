"""Signing in as at KubeSphere: a name and a password become a token that is good for a while.

Everything is in memory and ends with the emulator. As in KubeSphere's older releases a client's own id and secret are
not asked for; unlike there, signing in leaves the user's earlier tokens alone.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from airflow_bitahub.emulator.http.openapi import takes
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

TOKEN_PATH = "/oauth/token"  # noqa: S105  an address
_TRIES, _LOCK_OUT = 5, 30 * 60  # so many wrong passwords within so many seconds keep a user out for as long
_NAMESPACES = ("bita-user", "inference")  # the document's


class SignInError(BitaHubError):
    """No token is given; the text says why.

    :param error: OAuth's word for it
    :param status: of HTTP
    """

    def __init__(self, message: str, error: str, status: int = 400) -> None:
        super().__init__(message)
        self.error = error
        self.status = status


class TokenForm(BaseModel):
    """What is sent for tokens. A client's own id and secret may come with it."""

    grant_type: Literal["password", "refresh_token"]
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class Tokens(BaseModel):
    """OAuth's token response; `expires_in` is seconds."""

    access_token: str
    token_type: Literal["Bearer"]
    refresh_token: str
    expires_in: int


class OAuthError(BaseModel):
    """OAuth's error response."""

    error: str
    error_description: str


class _Grant(NamedTuple):
    user: str
    until: float


class SignIn:
    """Who may sign in, and whose the tokens are. Its methods are called in the event loop.

    :param users: the password of each user
    :param expires_in: seconds for which an access token is good; a refresh token is good for twice as long
    :param namespaces: where these users may work; any other namespace is forbidden to them
    :param clock: seconds since the epoch
    :raises ConfigurationError: a name or a password is empty, or `expires_in` is not positive
    """

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        expires_in: int = 7200,
        namespaces: Collection[str] = _NAMESPACES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not all(users) or not all(users.values()):
            raise ConfigurationError("The name or the password of a user who may sign in is empty.")
        if expires_in <= 0:
            raise ConfigurationError(f"A token that is good for {expires_in} seconds is of no use.")
        self._passwords = dict(users)
        self._expires_in = expires_in
        self._namespaces = frozenset(namespaces)
        self._clock = clock
        self._wrong = {user: deque[float](maxlen=_TRIES) for user in users}
        self._access: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}

    def grant(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Give new tokens for a user's password or for a refresh token, as OAuth's token response.

        :param form: the request's fields, OAuth's: `grant_type` and what it asks for
        :raises SignInError: they are wrong, or there were too many wrong passwords
        """
        grant_type = form.get("grant_type", "")
        if grant_type == "password":
            return self._issue(self._check_password(form.get("username", ""), form.get("password", "")))
        if grant_type == "refresh_token":
            user = self._user_of(self._refresh, form.get("refresh_token", ""))
            if user is None:
                raise SignInError("The refresh token is not known, or has expired.", "invalid_grant")
            return self._issue(user)
        raise SignInError("The grant_type is neither 'password' nor 'refresh_token'.", "unsupported_grant_type")

    def user_of(self, token: str) -> str | None:
        """Give the user of an access token; None when it is not known, or has expired."""
        return self._user_of(self._access, token)

    def may_work_in(self, namespace: str) -> bool:
        """Tell whether the users may see and change what is in this namespace."""
        return namespace in self._namespaces

    def _check_password(self, user: str, password: str) -> str:
        now = self._clock()
        wrong = self._wrong.get(user, deque[float]())
        if len(wrong) == _TRIES and wrong[-1] - wrong[0] < _LOCK_OUT and now - wrong[-1] < _LOCK_OUT:
            # KubeSphere keeps out whoever knows the password, too.
            raise SignInError("Too many wrong passwords; try again later.", "invalid_grant", 429)
        # A stranger's password is compared as well, with one that nobody knows, so that the time taken tells nothing.
        right = self._passwords.get(user, secrets.token_urlsafe())
        if not secrets.compare_digest(password.encode(), right.encode()):
            wrong.append(now)
            raise SignInError("The user name or the password is wrong.", "invalid_grant")
        return user

    def _issue(self, user: str) -> dict[str, Any]:
        now = self._clock()
        for grants in (self._access, self._refresh):
            for token in [token for token, grant in grants.items() if grant.until <= now]:
                del grants[token]
        access_token, refresh_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._access[access_token] = _Grant(user, now + self._expires_in)
        self._refresh[refresh_token] = _Grant(user, now + 2 * self._expires_in)
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "refresh_token": refresh_token,
            "expires_in": self._expires_in,
        }

    def _user_of(self, grants: Mapping[str, _Grant], token: str) -> str | None:
        grant = grants.get(token)
        return grant.user if grant is not None and self._clock() < grant.until else None


def sign_in_routes(sign_in: SignIn) -> APIRouter:
    """Give the one address at which tokens are had."""
    router = APIRouter(tags=["signing in"])

    @router.post(
        TOKEN_PATH,
        summary="Give tokens for a user's password, or for a refresh token.",
        openapi_extra=takes(TokenForm, "application/x-www-form-urlencoded"),
        responses={
            200: {"model": Tokens, "description": "An access token, and one to get the next with."},
            400: {"model": OAuthError, "description": "The form is wrong, or what it brings."},
            429: {"model": OAuthError, "description": "There were too many wrong passwords."},
        },
    )
    async def give_tokens(request: Request) -> JSONResponse:
        body = (await request.body()).decode("utf-8", "replace")
        try:
            tokens = sign_in.grant(dict(parse_qsl(body, keep_blank_values=True)))
        except SignInError as error:
            return JSONResponse({"error": error.error, "error_description": str(error)}, error.status)
        return JSONResponse(tokens, headers={"Cache-Control": "no-store"})

    return router
