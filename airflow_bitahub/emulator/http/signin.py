"""Signing in as at KubeSphere: a user exchanges name and password for a token, which expires.

Everything is in memory and ends with the emulator. As in KubeSphere's older releases, a client needs no id and secret
of its own; and if so asked, a sign-in or renewal ends the user's other sessions.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from airflow_bitahub.emulator.http.openapi import request_body
from airflow_bitahub.emulator.state.clock import SteadyClock
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

TOKEN_PATH = "/oauth/token"  # noqa: S105  an address
_MAX_FAILURES, _LOCKOUT_SECONDS = 5, 30 * 60  # so many wrong passwords within this time lock a user out as long
_NAMESPACES = ("bita-user", "inference")  # those of the platform's document


class SignInError(BitaHubError):
    """No token is issued; the text says why.

    :param error: OAuth's error code
    :param status: the HTTP status
    """

    def __init__(self, message: str, error: str, status: int = 400) -> None:
        super().__init__(message)
        self.error = error
        self.status = status


class TokenForm(BaseModel):
    """The form that requests tokens. A client may also send its own id and secret."""

    grant_type: Literal["password", "refresh_token"]
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class TokenResponse(BaseModel):
    """OAuth's token response; `expires_in` is seconds."""

    access_token: str
    token_type: Literal["Bearer"]
    refresh_token: str
    expires_in: int


class OAuthError(BaseModel):
    """OAuth's error response."""

    error: str
    error_description: str


class _IssuedToken(NamedTuple):
    user: str
    expires_at: float


class SignIn:
    """The users who may sign in, and the tokens issued to them. Its methods must be called in the event loop.

    :param users: the password of each user
    :param expires_in: seconds for which an access token is valid; a refresh token is valid twice as long
    :param namespaces: the only namespaces in which these users may work
    :param single_session: new tokens invalidate the user's earlier ones, as in KubeSphere's older releases
    :param client: id and secret that a client must send, as in KubeSphere's newer releases; None: they are ignored
    :param clock: returns seconds since the epoch
    :raises ConfigurationError: a name or a password is empty, or `expires_in` is not positive
    """

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        expires_in: int = 7200,
        namespaces: Collection[str] = _NAMESPACES,
        single_session: bool = False,
        client: tuple[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not all(users) or not all(users.values()):
            raise ConfigurationError("The name or the password of a user who may sign in is empty.")
        if expires_in <= 0:
            raise ConfigurationError(f"A token cannot be valid for {expires_in} seconds; choose a positive number.")
        self._passwords = dict(users)
        self._expires_in = expires_in
        self._namespaces = frozenset(namespaces)
        self._single_session = single_session
        self._client = client
        self._clock = SteadyClock(clock)
        self._failures = {user: deque[float](maxlen=_MAX_FAILURES) for user in users}
        self._access: dict[str, _IssuedToken] = {}
        self._refresh: dict[str, _IssuedToken] = {}

    def grant(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Return new tokens for a user's password or for a refresh token, as OAuth's token response.

        :param form: the request's fields as OAuth names them: `grant_type` and those that it requires
        :raises SignInError: a field is wrong, or there were too many wrong passwords
        """
        if self._client not in (None, (form.get("client_id"), form.get("client_secret"))):
            raise SignInError("The client's id or secret is wrong.", "invalid_client", 401)
        grant_type = form.get("grant_type", "")
        if grant_type == "password":
            return self._issue(self.check_password(form.get("username", ""), form.get("password", "")))
        if grant_type == "refresh_token":
            user = self._find_user(self._refresh, form.get("refresh_token", ""))
            if user is None:
                raise SignInError("The refresh token is not known, or has expired.", "invalid_grant")
            return self._issue(user)
        raise SignInError("The grant_type is neither 'password' nor 'refresh_token'.", "unsupported_grant_type")

    def user_of(self, token: str) -> str | None:
        """Return the user of an access token; None if it is unknown or has expired."""
        return self._find_user(self._access, token)

    def may_work_in(self, namespace: str) -> bool:
        """Return whether users may see and change jobs and servings in this namespace."""
        return namespace in self._namespaces

    def check_password(self, user: str, password: str) -> str:
        """Return the user. Raises SignInError for a wrong password, and after too many of them."""
        now = self._clock()
        failures = self._failures.get(user, deque[float]())
        if len(failures) == _MAX_FAILURES and max(failures[-1] - failures[0], now - failures[-1]) < _LOCKOUT_SECONDS:
            # As in KubeSphere, the right password does not help then either.
            raise SignInError("Too many wrong passwords; try again later.", "invalid_grant", 429)
        # For an unknown user compare with a random password, so the response time does not reveal which users exist.
        expected = self._passwords.get(user, secrets.token_urlsafe())
        if not secrets.compare_digest(password.encode(), expected.encode()):
            failures.append(now)
            raise SignInError("The user name or the password is wrong.", "invalid_grant")
        return user

    def _issue(self, user: str) -> dict[str, Any]:
        now = self._clock()
        for issued in (self._access, self._refresh):
            for ended in [key for key, token in issued.items() if self._ends(token, user, now)]:
                del issued[ended]
        access_token, refresh_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._access[access_token] = _IssuedToken(user, now + self._expires_in)
        self._refresh[refresh_token] = _IssuedToken(user, now + 2 * self._expires_in)
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "refresh_token": refresh_token,
            "expires_in": self._expires_in,
        }

    def _ends(self, token: _IssuedToken, user: str, now: float) -> bool:
        return token.expires_at <= now or (self._single_session and token.user == user)

    def _find_user(self, issued: Mapping[str, _IssuedToken], key: str) -> str | None:
        token = issued.get(key)
        return token.user if token is not None and self._clock() < token.expires_at else None


def user_id_of(user: str) -> str:
    """Return the id of a user who has signed in, in the platform's form: always the same one. "" for nobody."""
    return f"_{hashlib.sha256(user.encode()).hexdigest()[:32]}" if user else ""


async def _sign_in_of(request: Request) -> SignIn:
    sign_in: SignIn = request.app.state.sign_in
    return sign_in


router = APIRouter(tags=["signing in"])


@router.post(
    TOKEN_PATH,
    openapi_extra=request_body(TokenForm, "application/x-www-form-urlencoded"),
    responses={
        200: {
            "model": TokenResponse,
            "description": "An access token, and a refresh token to get the next one with.",
        },
        400: {"model": OAuthError, "description": "The form, the password or the refresh token is wrong."},
        401: {"model": OAuthError, "description": "The client's own id or secret is wrong."},
        429: {"model": OAuthError, "description": "There were too many wrong passwords."},
    },
)
async def issue_tokens(sign_in: Annotated[SignIn, Depends(_sign_in_of)], request: Request) -> JSONResponse:
    """Issue tokens for a user's password, or for a refresh token."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        tokens = sign_in.grant(dict(parse_qsl(body, keep_blank_values=True)))
    except SignInError as error:
        return JSONResponse({"error": error.error, "error_description": str(error)}, error.status)
    return JSONResponse(tokens, headers={"Cache-Control": "no-store"})
