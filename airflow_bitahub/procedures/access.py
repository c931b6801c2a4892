"""Finding out how requests to an installation are signed, and where its addresses begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_bitahub.api import candidates
from airflow_bitahub.api.jobs import get_job, stop_job
from airflow_bitahub.api.protocol import Call, Procedure
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    PermissionDeniedError,
    SignInRefusedError,
)
from airflow_bitahub.procedures.probing import Extras, Reach, Trial, reach_of


@dataclass(frozen=True)
class Access:
    """How to reach the platform.

    :param extras: of the connection, complete: what to set them to, also where that is the default; where nothing
        works, those of the refusal that says most
    :param works: the platform answered, so that these extras are right
    :param denial: the platform knows the user, and denies this
    :param refusal: the refusal of the user that says most, where nothing works; otherwise the first answer for a path
        that is not known
    :param tried: what was tried, in words
    """

    extras: Extras
    works: bool
    denial: BitaHubError | None = None
    refusal: BitaHubError | None = None
    tried: Sequence[str] = ()


# How much it says to a person that a request was not accepted.
_WEIGHTS = {Reach.NOT_SENT: 1, Reach.NO_SIGN_IN: 1, Reach.REFUSED: 4}


class _Search:
    """The state of `find_access`: what is still worth trying."""

    def __init__(self, stated: Extras, *, has_password: bool, has_login: bool) -> None:
        self.prefixes = _first(stated.get("prefix"), candidates.PREFIXES)
        self.clusters: tuple[Extras, ...] = ({}, {"endpoints": candidates.WITHOUT_CLUSTER})
        auths = _first(stated.get("auth"), candidates.AUTHS)
        self.auths = [
            auth
            for auth in auths
            if auth == "none" or (has_password and (has_login or auth not in candidates.PASSWORD_AUTHS))
        ]
        self.client_ids = _first(stated.get("client_id"), candidates.CLIENT_IDS)
        self._is_password_refused = False
        self._has_no_sign_in = False
        self._denial_of_anonymous = ""
        self.knows_no_path = False  # the server has shown nothing of the platform
        self.stranger: BitaHubError | None = None  # the first answer for a path that is not known
        self.refusal: BitaHubError | None = None
        self.refused_extras: Extras = {}
        self._stated_auth = stated.get("auth")
        self._weight = 0
        self.tried: list[str] = []
        self.undecided: Access | None = None

    def signatures(self) -> Iterator[Extras]:
        """Yield the ways of signing in that are left, as extras."""
        for auth in self.auths:
            for client_id in self.client_ids if auth == "kubesphere" else ("",):
                if auth not in candidates.PASSWORD_AUTHS or self._may_send_password(auth):
                    yield {"auth": auth, **({"client_id": client_id} if client_id else {})}

    def _may_send_password(self, auth: str) -> bool:
        """Return whether to send the password to a sign-in: once, and to a server that may be the platform."""
        if auth == "kubesphere" and self._has_no_sign_in:
            return False
        return not self._is_password_refused and (auth == self._stated_auth or not self.knows_no_path)

    def is_denial_of_anonymous(self, error: BitaHubError | None, auth: str) -> bool:
        """Return whether a gateway's 403 is the same one that it sends to a request without credentials."""
        if not isinstance(error, PermissionDeniedError) or error.is_from_platform:
            return False
        if auth == "none":
            self._denial_of_anonymous = str(error)
        return str(error) == self._denial_of_anonymous

    def note_refusal(self, error: BitaHubError, extras: Extras, reach: Reach) -> None:
        """Remember a refusal, or a way that there is not: a password that was refused is never sent again."""
        auth, weight = extras["auth"], _WEIGHTS[reach]
        if reach is Reach.REFUSED and auth in candidates.PASSWORD_AUTHS:
            weight += 3
            if not (isinstance(error, SignInRefusedError) and error.subject == "client"):
                self._is_password_refused = True
        weight += 2 if auth == self._stated_auth else 1 if auth == "bearer" else 0
        self._has_no_sign_in = self._has_no_sign_in or reach is Reach.NO_SIGN_IN
        if weight > self._weight:
            self._weight, self.refusal, self.refused_extras = weight, error, extras


def find_access(stated: Extras, name: str, *, has_password: bool, has_login: bool) -> Procedure[Access]:
    """Find how requests are signed and where the platform's addresses begin.

    Only requests about a job that does not exist are sent. A wrong password is sent once: platforms lock accounts.

    :param stated: the connection's extras, which are tried first
    :param name: the name of a job that does not exist
    :raises BitaHubError: the platform cannot be reached, or fails itself
    """
    search = _Search(stated, has_password=has_password, has_login=has_login)
    for signature in search.signatures():
        access = yield from _find_address(search, signature, name)
        if access is not None:
            return access
    if search.undecided is not None:
        return search.undecided
    refusal = search.refusal or search.stranger
    return Access(search.refused_extras, works=False, refusal=refusal, tried=search.tried)


def _find_address(search: _Search, signature: Extras, name: str) -> Procedure[Access | None]:
    """Return the access with this signature; None: it is refused, or no address is known."""
    denied: Access | None = None
    for prefix in search.prefixes:
        for cluster in search.clusters:
            extras = {**signature, "prefix": prefix, **cluster}
            reach, error = yield from _reach(Trial.of(get_job(name), extras))
            if search.is_denial_of_anonymous(error, signature["auth"]):
                reach = Reach.REFUSED
            search.tried.append(f"{_in_words(extras)}: {reach.value}")
            if reach is Reach.UNKNOWN_PATH:
                search.stranger = search.stranger or error
                continue
            if isinstance(error, PermissionDeniedError) and reach is Reach.ARRIVED and not error.is_from_platform:
                # A gateway may deny a path before it looks whether it knows it.
                denied = denied or Access(extras, works=True, denial=error, tried=search.tried)
                continue
            if error is not None and reach is not Reach.ARRIVED:
                search.note_refusal(error, extras, reach)
                return None
            search.prefixes, search.clusters = (prefix,), (cluster,)
            return (yield from _confirm(search, extras, name, error))
    search.knows_no_path = denied is None
    return denied


def _confirm(search: _Search, extras: Extras, name: str, answer: BitaHubError | None) -> Procedure[Access | None]:
    """Return the access if it also allows changes: an installation may let everybody read."""
    reach, error = yield from _reach(Trial.of(stop_job(name), extras))
    denial = answer if isinstance(answer, PermissionDeniedError) else None
    if reach is Reach.ARRIVED:
        return Access(extras, works=True, denial=denial, tried=search.tried)
    if reach is Reach.REFUSED and error is not None:
        search.tried.append(f"{_in_words(extras)}: may read, may not change")
        search.note_refusal(error, extras, reach)
    elif search.undecided is None or search.undecided.extras["auth"] == "none" or extras["auth"] == "kubesphere":
        # Where everybody may read, only a sign-in that succeeds shows anything about the password.
        search.undecided = Access(extras, works=True, denial=denial, tried=search.tried)
    return None


def _reach(call: Call[Any]) -> Procedure[tuple[Reach, BitaHubError | None]]:
    try:
        yield from call
    except ConfigurationError as error:
        return Reach.NOT_SENT, error
    except BitaHubError as error:
        return reach_of(error), error
    return Reach.ARRIVED, None


def _first(stated: Any, others: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*([str(stated)] if stated else ()), *others)))


def _in_words(extras: Extras) -> str:
    return ", ".join(
        "no cluster in addresses" if key == "endpoints" else f"{key} {value!r}" for key, value in extras.items()
    )
