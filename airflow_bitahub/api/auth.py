"""How a request is signed: flows in the manner of httpx's, which the drivers in `client.py` run.

A flow is a generator. It is given a call, may ask for a token first, yields the call with its signature, sees the
result or the error, and may renew the token once and yield the call again.

The document shows no header at all (seed). The gateway in front of the platform is KubeSphere's, which accepts a bearer
token, its own sign-in, and HTTP's basic authentication (family). The business layer of the platform reads a header
called ``token`` (client).
"""

from __future__ import annotations

import base64
import random
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from airflow_bitahub.api.protocol import Blocking, Sleep
from airflow_bitahub.api.tokens import Session, request_tokens
from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    RateLimitError,
    SignInRefusedError,
)

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Flow
    from airflow_bitahub.api.tokens import Grant, SessionStore

T = TypeVar("T")

# A token is renewed when a fifth of its life is left, or this many seconds.
_LONGEST_MARGIN = 300.0
# Seconds, up to which to wait at random after the platform has refused a token: it has refused that of others, too.
_JITTER = 2.0
# Seconds between two looks at whether somebody else has renewed the tokens: in this client, and in the store.
_LOOK, _LOOK_AT_STORE = 0.05, 1.0
# Seconds to wait for somebody else who is renewing the tokens, and may have died.
_PATIENCE = 20.0
# Seconds before a renewal that failed is tried again while the present token is still good, and before the next sign-in
# when the platform has refused a new token immediately.
_PAUSE = 30.0
_CLIENT_ERRORS = ("invalid_client", "unauthorized_client")  # OAuth's codes: not the user is wrong, but the program
_REFUSALS = ("invalid_grant", *_CLIENT_ERRORS)  # OAuth's codes for what was sent; others are about the server
# Seconds to send no password after the platform has locked the account (family: half an hour), where it does not say.
_LOCKED = 1800.0


class Auth(Protocol):
    """What signs requests."""

    def flow(self, call: Call[T]) -> Flow[T]:
        """Sign a call, and return its result. Raises what it raises."""


class _FixedHeaders:
    """Signs every request alike."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that identify the user."""
        raise NotImplementedError

    def flow(self, call: Call[T]) -> Flow[T]:
        """Sign a call, and return its result. Raises what it raises."""
        return (yield from _signed(call, self.headers()))


@dataclass(frozen=True)
class NoAuth(_FixedHeaders):
    """No signature, for a trusted network: requests are sent as the document shows them."""

    def headers(self) -> Mapping[str, str]:
        """Return no headers."""
        return {}


@dataclass(frozen=True)
class BearerToken(_FixedHeaders):
    """A fixed token."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        # The HTTP library would refuse it too, but its message would contain the token.
        if not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigurationError(
                "The token in the Airflow connection's password contains a blank, a line break or a character that "
                "cannot be sent. Copy it again, without 'Bearer' in front; or set the extra 'auth' if it is no token."
            )

    def headers(self) -> Mapping[str, str]:
        """Return the Authorization header."""
        return _bearer(self.token)


@dataclass(frozen=True)
class HeaderToken(BearerToken):
    """A fixed token of the platform's business layer, in a header of its own."""

    def headers(self) -> Mapping[str, str]:
        """Return the header ``token``."""
        return {"token": self.token}


@dataclass(frozen=True)
class BasicAuth(_FixedHeaders):
    """User name and password with every request."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if ":" in self.user:
            raise ConfigurationError(
                "The Airflow connection's login contains ':', which the extra 'auth': 'basic' cannot send."
            )

    @property
    def credentials(self) -> str:
        """User name and password as they are sent: as secret as the password."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def headers(self) -> Mapping[str, str]:
        """Return the Authorization header."""
        return {"Authorization": f"Basic {self.credentials}"}


class PasswordGrant:
    """KubeSphere's sign-in: tokens for a user's name and password, renewed before they expire.

    It never signs out, since that ends all sessions of the user. It never sends a password again that the platform has
    refused, since five wrong ones lock the account.

    :param user: the user's name on the platform
    :param store: where the tokens are kept for all who share them
    :param client_id: this program's own name at KubeSphere
    :param clock: returns seconds since the epoch
    :param jitter: returns a number from 0 to 1
    """

    def __init__(
        self,
        user: str,
        password: str,
        store: SessionStore,
        *,
        client_id: str,
        client_secret: str,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._user = user
        self._password = password
        self._store = store
        self._client = {"client_id": client_id, "client_secret": client_secret}
        self._credentials = "\n".join((user, password, *self._client.values()))
        self._clock = clock
        self._jitter = jitter
        self._renewing = threading.Lock()  # one flow at a time renews the tokens
        self._failures = 0  # of renewals
        self._failure: BitaHubError | None = None  # the last one
        self._not_before = 0.0  # when to try again to renew a token in time: that has failed, or another worker does it
        self._hold_until = 0.0  # when to sign in again, after the platform has refused a new token
        self._claim, self._claimed_at = "", 0.0  # the last claim of another worker, and when it was first seen

    def flow(self, call: Call[T]) -> Flow[T]:
        """Sign a call with the present token, or a new one, and return its result.

        :raises AuthenticationError: the platform refuses the password, or a new token
        :raises ConnectFailedError: the sign-in failed, so that the call was not sent
        """
        token = yield from self._token_in_time()
        is_new = False  # whether this flow has signed in after a refusal
        while True:
            try:
                answer = yield from _signed(call, _bearer(token))
            except AuthenticationError as error:
                if is_new:
                    self._hold_until = self._clock() + _PAUSE
                    raise
                # A token that another worker shared meanwhile may be refused as well; a sign-in is the last attempt.
                token, is_new = yield from self._renewed(token, error)
            else:
                self._hold_until = 0.0
                return answer

    def _token_in_time(self) -> Flow[str]:
        """Return the present token, renewed if it is due."""
        session = self._store.known
        token = session.access_token
        if token and (self._is_usable(session) or self._clock() < self._not_before):
            return token
        try:
            token, _ = yield from self._renewed()
        except BitaHubError:
            if not token:
                raise
            self._not_before = self._clock() + _PAUSE  # the token has not expired yet, or the platform will say so
        return token

    def _renewed(self, refused: str = "", error: AuthenticationError | None = None) -> Flow[tuple[str, bool]]:
        """Return a good token, and whether it comes from a new sign-in. Of several flows, one renews for all.

        :param refused: the token that the platform has refused with this error; "": the token is due, or there is none
        """
        failures = self._failures
        while not self._renewing.acquire(blocking=False):
            # A task that is killed may have been renewing the token itself, and then waits here for nothing.
            if self._store.known.access_token not in ("", refused):
                return self._store.known.access_token, False
            yield Sleep(_LOOK)
        try:
            if self._is_usable(self._store.known, refused):
                return self._store.known.access_token, False
            if self._failure is not None and self._failures != failures:  # of the flow that was waited for
                raise type(self._failure)(*self._failure.args)
            return (yield from self._renew(refused, error))
        except BitaHubError as failure:
            self._failures, self._failure = self._failures + 1, failure
            raise
        finally:
            self._renewing.release()

    def _renew(self, refused: str, error: AuthenticationError | None) -> Flow[tuple[str, bool]]:
        """Take over a token that another worker has shared, or get a new one and share it.

        Airflow's store of Variables knows no locks. So whoever renews the tokens writes a claim first, and goes on if
        it is still there a moment later. The others wait only where the present token is refused, or there is none.
        """
        if refused:
            yield Sleep(self._jitter() * _JITTER)
        claim, waited = secrets.token_hex(8), 0.0
        while True:
            session = yield from Blocking(self._store.load)
            if self._is_usable(session, refused):
                return session.access_token, False
            if error is not None and self._clock() < self._hold_until:
                raise error
            if session.claim == claim or waited > 2 * _PATIENCE:
                break
            if session.claim and self._age_of(session.claim) < _PATIENCE:
                if not refused and session.access_token:
                    self._not_before = self._clock() + _LOOK_AT_STORE
                    return session.access_token, False
                pause = _LOOK_AT_STORE
            else:
                may_need_password = refused or not session.refresh_token
                if may_need_password and (refusal := (yield from self._known_refusal(session))) is not None:
                    raise refusal
                pause = self._store.settling * (1 - self._jitter() / 2)
                session = replace(session, claim=claim)
                if not (yield from Blocking(partial(self._store.save, session))):
                    break  # nobody else sees it
            waited += pause
            yield Sleep(pause)
        grant = yield from self._request(session, may_refresh=not refused)
        margin = 0.0 if grant.expires_in is None else min(_LONGEST_MARGIN, grant.expires_in / 5)
        renew_at = None if grant.expires_in is None else self._clock() + grant.expires_in - margin
        renewed = Session(grant.access_token, grant.refresh_token, renew_at, session.refused)
        yield from Blocking(partial(self._store.save, renewed))
        return grant.access_token, True

    def _request(self, session: Session, *, may_refresh: bool) -> Flow[Grant]:
        """Return new tokens from the platform. Where there are none, give the claim back and say why."""
        refusal: BitaHubError | None
        try:
            if session.refresh_token and may_refresh:
                with suppress(AuthenticationError):
                    return (yield from self._grant(grant_type="refresh_token", refresh_token=session.refresh_token))
                session = replace(session, refresh_token="")
            refusal = yield from self._known_refusal(session)
            if refusal is None:
                return (yield from self._grant(grant_type="password", username=self._user, password=self._password))
            changed = session
        except AuthenticationError as error:
            if error.status == 401 or error.code in _REFUSALS:
                changed = yield from Blocking(partial(session.with_refused, self._credentials))
                refusal = self._refusal(error.status, f" {error}", is_client=error.code in _CLIENT_ERRORS)
            else:  # such as a firewall's 403, or a failure of the sign-in: neither says anything about the password
                changed = session
                refusal = _not_sent(f"{error} This does not mean that the password is wrong.", "sign-in-denied")
        except RateLimitError as error:
            seconds = _LOCKED if error.retry_after is None else min(error.retry_after, _LOCKED)
            changed = replace(session, locked_until=self._clock() + seconds)
            refusal = self._locked(f" {error}")
        except BitaHubError as error:
            changed = session
            not_sent = _not_sent(str(error), getattr(error, "reason", ""))
            refusal = error if isinstance(error, ConfigurationError) else not_sent
        yield from Blocking(partial(self._store.save, replace(changed, claim="")))
        raise refusal

    def _grant(self, **form: str) -> Flow[Grant]:
        return (yield from request_tokens({**form, **self._client}))

    def _age_of(self, claim: str) -> float:
        """Return for how many seconds this process has known another worker's claim."""
        if claim != self._claim:
            self._claim, self._claimed_at = claim, self._clock()
        return self._clock() - self._claimed_at

    def _is_usable(self, session: Session, refused: str = "") -> bool:
        """Return whether a session has a token that is not due and not the one that the platform has refused."""
        is_due = session.renew_at is not None and self._clock() >= session.renew_at
        return bool(session.access_token) and session.access_token != refused and not is_due

    def _known_refusal(self, session: Session) -> Flow[AuthenticationError | None]:
        """Return why not to send the password; None: it may be sent."""
        if self._clock() < session.locked_until:
            return self._locked("")
        if session.refused and (yield from Blocking(partial(session.is_refused, self._credentials))):
            return self._refusal(400, " The platform has refused them before.", is_client=False)
        return None

    def _refusal(self, status: int, said: str, *, is_client: bool) -> AuthenticationError:
        fields = "extras 'client_id' and 'client_secret'" if is_client else "login and password"
        if_right = f"delete the Airflow Variable {self._store.name!r} and " if self._store.name else ""
        return SignInRefusedError(
            status,
            None,
            f"Could not sign in as {self._user!r} with the Airflow connection's {fields}.{said} Correct them in the "
            f"connection. The same password is not sent again, since five wrong ones lock the account; if it is right "
            f"now, {if_right}restart the triggerer.",
            "sign_in",
            None,
            "client" if is_client else "password",
        )

    def _locked(self, said: str) -> AuthenticationError:
        return SignInRefusedError(
            429,
            None,
            f"Could not sign in as {self._user!r}: the platform accepts no password of this account for up to "
            f"{_LOCKED / 60:.0f} minutes, since somebody has sent too many wrong ones.{said} Until then no password is "
            f"sent. Check the login and password of every Airflow connection and program that uses this account.",
            "sign_in",
            None,
            "account",
        )


def _not_sent(said: str, reason: str = "") -> ConnectFailedError:
    """Return what a failed sign-in means for the call: whatever went wrong, the call itself was not sent."""
    return ConnectFailedError(f"The sign-in failed, so nothing else was sent. {said}", reason or "sign-in")


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _signed(call: Call[T], headers: Mapping[str, str]) -> Flow[T]:
    return (yield from replace(call, request=replace(call.request, headers={**call.request.headers, **headers})))
