"""What a sign-in brings, how it is shared, and the requests that bring it: KubeSphere's password grant (family).

In KubeSphere's older releases, each sign-in and each renewal ends the user's other sessions, so all workers share one.
In every release, five wrong passwords within half an hour lock the account.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_bitahub.api.protocol import Call, Request
from airflow_bitahub.exceptions import AuthenticationError, RateLimitError, ServerError, UnexpectedResponseError
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Response

_REFUSED_LIMIT = 8  # so many refused passwords are remembered
_HASH_ROUNDS = 100_000  # so that a fingerprint does not reveal its password


@dataclass(frozen=True)
class Session:
    """The tokens of a user, and what else those who share them have to know. Times are seconds since the epoch.

    :param access_token: "": there is none
    :param refresh_token: "": there is none
    :param renew_at: when to renew the access token; None: only when the platform refuses it
    :param refused: fingerprints of the passwords that the platform refused
    :param locked_until: until when the platform accepts no password of this user
    :param claim: who is renewing the tokens now; "": nobody
    """

    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    renew_at: float | None = None
    refused: Sequence[str] = field(default=(), repr=False)
    locked_until: float = 0.0
    claim: str = ""

    def is_refused(self, password: str) -> bool:
        """Return whether the platform has refused a password before. This takes some CPU time."""
        return any(secrets.compare_digest(each, _fingerprint(password, each[:32])) for each in self.refused)

    def with_refused(self, password: str) -> Session:
        """Return a session that also remembers this password."""
        refused = (*self.refused, _fingerprint(password, secrets.token_hex(16)))
        return replace(self, refused=refused[-_REFUSED_LIMIT:])


class SessionStore(Protocol):
    """Where a session is kept for all who share it. Its methods may block.

    :ivar known: the session as this process last saw it
    :ivar name: how a person finds it; "": it is in this process only
    :ivar settling: seconds after which a session that somebody else saved is certainly seen
    """

    known: Session
    name: str
    settling: float

    def load(self) -> Session:
        """Return the session; what cannot be read is an empty one, or the one that this process knows."""

    def save(self, session: Session) -> bool:
        """Keep a session, at least in this process. Return whether all who share it see it."""


class Grant(NamedTuple):
    """What the platform answers to a sign-in; `expires_in` is seconds, None: it does not say."""

    access_token: str
    refresh_token: str
    expires_in: float | None


def session_to_json(session: Session) -> dict[str, Any]:
    """Return a session as JSON."""
    return asdict(session)


def session_from_json(value: Any) -> Session:
    """Return the session that `session_to_json` wrote. Raises ValueError for anything else."""
    try:
        renew_at, texts = value["renew_at"], [value[key] for key in ("access_token", "refresh_token", "claim")]
        refused = [str(each) for each in value["refused"]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError
        renewal = None if renew_at is None else float(renew_at)
        return Session(texts[0], texts[1], renewal, refused, float(value["locked_until"]), texts[2])
    except (LookupError, TypeError, ValueError):
        raise ValueError("it is no session") from None  # without its cause, which may show a token


def request_tokens(form: Mapping[str, str]) -> Call[Grant]:
    """Sign in, or renew a session: OAuth's token request.

    :param form: its fields, as OAuth names them
    :raises AuthenticationError: the platform refuses them
    :raises RateLimitError: there were too many wrong passwords
    """
    request = Request("sign in", "sign_in", form=form)
    secret = [form[key] for key in ("password", "refresh_token", "client_secret") if form.get(key)]
    return Call(request, lambda response, _platform: _read_grant(response, secret))


def _read_grant(response: Response, secret: Sequence[str]) -> Grant:
    try:
        body = response.json()
    except ValueError:
        body = None
    body = body if isinstance(body, Mapping) else {}
    token, refresh_token = body.get("access_token"), body.get("refresh_token")
    if response.status == 200 and isinstance(token, str) and re.fullmatch(r"[!-~]+", token):
        return Grant(token, refresh_token if isinstance(refresh_token, str) else "", _lifetime(body.get("expires_in")))
    said = str(body.get("error_description") or body.get("message") or body.get("error") or "")
    for each in secret:
        said = said.replace(each, "***")
    reply = f"{shorten(said, 300)} (HTTP {response.status})" if said else f"HTTP {response.status}"
    message = f"Could not sign in. The platform said: {reply}."
    if response.status == 429:
        raise RateLimitError(429, None, message, "sign_in", _seconds(response))
    if response.status >= 500 or response.status in (408, 425, 499):
        raise ServerError(response.status, None, message, "sign_in")
    is_oauth = isinstance(body.get("error"), str)
    if response.status in (401, 403) or (response.status == 400 and is_oauth):
        raise AuthenticationError(response.status, str(body["error"]) if is_oauth else None, message, "sign_in")
    # The answer itself is not shown: it may be a page that repeats the form.
    raise UnexpectedResponseError(
        f"Could not sign in: the answer (HTTP {response.status}) does not come from KubeSphere's sign-in. Check the "
        f"extra 'auth' and the host of the Airflow connection, or give the address of the sign-in in the extra "
        f'\'endpoints\': {{"sign_in": "POST /oauth/token"}}.',
        response.status,
    )


def _lifetime(expires_in: Any) -> float | None:
    is_number = isinstance(expires_in, int | float) and not isinstance(expires_in, bool)
    return float(expires_in) if is_number and expires_in > 0 else None


def _seconds(response: Response) -> float | None:
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _fingerprint(password: str, salt: str) -> str:
    return salt + hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _HASH_ROUNDS).hex()
