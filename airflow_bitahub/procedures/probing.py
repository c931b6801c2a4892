"""Finding out how an installation differs from the platform's document, by asking it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from airflow_bitahub.api import candidates
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import get_job, stop_job
from airflow_bitahub.api.platform import ENDPOINTS, JobStatus
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SignInRefusedError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures import retry

T = TypeVar("T")
Extras: TypeAlias = Mapping[str, Any]  # of a connection
# Seconds after which a job counts as staying in a state whose meaning is not known.
SETTLING = 20.0
_NO_METHOD = 405


@dataclass(frozen=True)
class Trial(Call[T]):
    """A call that is sent as if the connection had these extras as well."""

    extras: Extras = field(default_factory=dict)

    @classmethod
    def of(cls, call: Call[T], extras: Extras) -> Trial[T]:
        """Return a call with extras."""
        return cls(call.request, call.read, call.safe_to_repeat, extras)


class Reach(Enum):
    """How far a request came."""

    ARRIVED = "arrived"  # the platform itself answered
    UNKNOWN_PATH = "unknown path"  # the gateway does not know the path, or not this method of it
    REFUSED = "refused"  # the user is not known
    NO_SIGN_IN = "no sign-in"  # there is nothing at the sign-in's address
    NOT_SENT = "cannot be sent"  # such as a password with a blank as a token


def reach_of(error: BitaHubError) -> Reach:
    """Return how far a request came that failed. Raises the error where it does not show that."""
    if isinstance(error, AuthenticationError) or is_anonymous(error):
        return Reach.REFUSED
    if isinstance(error, ConnectFailedError) and error.reason == "sign-in":
        return Reach.NO_SIGN_IN
    if isinstance(error, UnexpectedResponseError):
        if not error.status:
            return Reach.ARRIVED  # in the platform's form; only what is inside cannot be read
        # Behind the address of its pages, a platform answers a page, or sends to one, for a path that it does not know.
        if error.status < 400 or error.status in (404, _NO_METHOD):
            return Reach.UNKNOWN_PATH
    if isinstance(error, APIError):
        if error.status == _NO_METHOD:
            return Reach.UNKNOWN_PATH
        # A gateway that denies a request knows the user, and does not say whether there is such a path.
        is_answer = error.is_from_platform or isinstance(error, PermissionDeniedError)
        if is_answer and not isinstance(error, ServerError | RateLimitError):
            return Reach.ARRIVED
    raise error


def is_anonymous(error: BitaHubError) -> bool:
    """Return whether a gateway took the request for that of nobody: KubeSphere then answers 403 (family)."""
    return isinstance(error, PermissionDeniedError) and "anonymous" in str(error).lower()


# Signing in, and the address --------------------------------------------------------------------------------------


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
        self._denial_of_nobody = ""
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
        return not self._is_password_refused and (auth == self._stated_auth or not self.knows_no_path)

    def denies_nobody(self, error: BitaHubError | None, auth: str) -> bool:
        """Return whether a gateway denies what it would deny to somebody who has not signed in, and as it does then."""
        if not isinstance(error, PermissionDeniedError) or error.is_from_platform:
            return False
        if auth == "none":
            self._denial_of_nobody = str(error)
        return str(error) == self._denial_of_nobody

    def note_refusal(self, error: BitaHubError, extras: Extras, reach: Reach) -> None:
        """Remember a refusal, or a way that there is not: a password that was refused is never sent again."""
        auth, weight = extras["auth"], _WEIGHTS[reach]
        if reach is Reach.REFUSED and auth in candidates.PASSWORD_AUTHS:
            weight += 3
            if not (isinstance(error, SignInRefusedError) and error.subject == "client"):
                self._is_password_refused = True
        weight += 2 if auth == self._stated_auth else 1 if auth == "bearer" else 0
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
            if search.denies_nobody(error, signature["auth"]):
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


# Single addresses -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What came of trying an operation at its addresses.

    :param extras: what the connection needs for it; empty: it works as it is
    :param answer: the call's result; None where `error` is set
    :param error: why it does not work anywhere
    """

    extras: Extras
    answer: Any = None
    error: BitaHubError | None = None


def find_endpoint(call: Call[Any], stated: Mapping[str, str]) -> Procedure[Found]:
    """Send a call to the addresses at which its operation may be, until the platform knows one.

    :param stated: the connection's own endpoints, of which the operation's is tried first
    """
    operation = call.request.operation
    default = stated.get(operation, ENDPOINTS[operation])
    is_without_cluster = default == candidates.WITHOUT_CLUSTER.get(operation)
    first: BitaHubError | None = None
    for template in (default, *candidates.ENDPOINT_CANDIDATES.get(operation, ())):
        if is_without_cluster:
            template = template.replace("/clusters/{cluster}", "")
        extras = {} if template == default else {"endpoints": {operation: template}}
        try:
            answer = yield from Trial.of(call, extras)
        except BitaHubError as error:
            first = first or error
            if _reach_or_none(error) is not Reach.UNKNOWN_PATH:
                return Found({}, error=error)
        else:
            return Found(extras, answer)
    return Found({}, error=first)


def _reach_or_none(error: BitaHubError) -> Reach | None:
    try:
        return reach_of(error)
    except BitaHubError:
        return None


# Observing a job --------------------------------------------------------------------------------------------------


@dataclass
class Observation:
    """What was seen of a job.

    :param words: its raw states, in their order
    :param job: as last seen; None: never
    :param error: the last failure of a query, where queries fail
    :param is_stuck: it stays in a state whose meaning is not known
    """

    words: list[str] = field(default_factory=list)
    job: Job | None = None
    error: BitaHubError | None = None
    is_stuck: bool = False

    def add(self, job: Job) -> None:
        """Add an answer."""
        if not self.words or self.words[-1] != job.raw_state:
            self.words.append(job.raw_state)
        self.job, self.error = job, None


def observe_job(
    name: str,
    is_enough: Callable[[Job], bool],
    *,
    seconds: float,
    clock: Callable[[], float] = time.time,
) -> Procedure[Observation]:
    """Query a job until enough is seen, and return all of it. Failed queries are repeated.

    :param seconds: when to give up
    """
    seen, start = Observation(), clock()
    changed_at = start
    while True:
        words = len(seen.words)
        try:
            seen.add((yield from get_job(name)))
        except BitaHubError as error:
            if not retry.is_query_failure(error, seen_before=seen.job is not None):
                seen.error = error
                return seen
            seen.error = error
        now = clock()
        if len(seen.words) > words:
            changed_at = now
        if seen.job is not None and is_enough(seen.job):
            return seen
        if seen.job is not None and seen.job.status is JobStatus.UNKNOWN and now - changed_at >= SETTLING:
            seen.is_stuck = True
            return seen
        if now - start >= seconds:
            return seen
        yield Sleep(min(5.0, max(0.1, (now - start) / 10)))
