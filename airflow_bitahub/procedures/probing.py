"""Finding out how an installation differs from the platform's document, by asking it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from airflow_bitahub.api import candidates
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import get_job
from airflow_bitahub.api.platform import ENDPOINTS, JobStatus
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConnectFailedError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures import retry

T = TypeVar("T")
Extras: TypeAlias = Mapping[str, Any]  # of a connection
# Seconds after which a job counts as staying in a state whose meaning is not known: a relative of the platform updates
# states once a minute (family).
SETTLING = 90.0
_NO_METHOD = 405


@dataclass(frozen=True)
class Trial(Call[T]):
    """A call that is sent as if the connection had these extras as well."""

    extras: Extras = field(default_factory=dict)

    @classmethod
    def of(cls, call: Call[T], extras: Extras) -> Trial[T]:
        """Return a call with extras."""
        return cls(call.request, call.read, call.safe_to_repeat, extras=extras)


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
    if isinstance(error, ConnectFailedError) and error.reason == "sign-in-denied":
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
