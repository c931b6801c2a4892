"""A stage on which procedures are stepped by hand, and what the tests of all of them use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat
from typing import Any, TypeVar

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, stop_job, submit_job
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConflictError,
    ConnectFailedError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures.deployments import Deployment, Intent
from airflow_bitahub.procedures.retry import Retry

T = TypeVar("T")
A = TypeVar("A", bound=APIError)

TIMEOUT = RequestTimeoutError("no answer in time")
RESET = TransportError("connection reset")
NOT_CONNECTED = ConnectFailedError("connection refused")
FOREIGN = UnexpectedResponseError("a login page")


def refusal(kind: type[A], retry_after: float | None = None, request: str = "submit_job") -> A:
    """Return the platform's own refusal, in its envelope."""
    return kind(0, "4711", kind.__name__, request, retry_after)


def gateway(kind: type[A], request: str = "get_job") -> A:
    """Return the refusal of a gateway, without an envelope."""
    return kind(403, None, f"{kind.__name__} of a gateway", request)


MISSING = refusal(NotFoundError)
CONFLICT = refusal(ConflictError)
BROKEN = refusal(ServerError)
BUSY = refusal(RateLimitError)
INVALID = refusal(InvalidRequestError)
UNKNOWN_CODE = refusal(APIError)
UNKNOWN_USER = gateway(AuthenticationError)

# What a query, or anything else, may be answered with although it says nothing.
SAYS_NOTHING = [
    *(TIMEOUT, RESET, NOT_CONNECTED, FOREIGN, BROKEN, BUSY, UNKNOWN_CODE, UNKNOWN_USER),
    *(gateway(kind) for kind in (PermissionDeniedError, RateLimitError, ServerError)),
]
# What the platform itself may answer to a query of a job that is fine.
ODD_REFUSALS: list[APIError] = [
    refusal(kind, request="get_job")
    for kind in (InvalidRequestError, AuthenticationError, PermissionDeniedError, ConflictError)
]


PLATFORM = Platform()


def job(word: str, name: str = "mnist", **fields: Any) -> Job:
    return Job(name=name, status=PLATFORM.job_status(word), raw_state=word, **fields)


def serving(word: str, url: str = "http://mnist.example.com", created_at: float | None = 1.0) -> Serving:
    return Serving(
        name="mnist", status=PLATFORM.serving_status(word), raw_state=word, url=url, created_at=created_at, replicas=1
    )


def fresh(error: BitaHubError) -> BitaHubError:
    """Return an equal error: one that is raised again and again keeps all its tracebacks."""
    again = type(error).__new__(type(error), *error.args)
    vars(again).update(vars(error))  # faster than the constructor, which every stepped failure would call
    return again


@dataclass
class MemoryRecords:
    """The record of a serving, as Airflow keeps it."""

    record: Deployment | None = None
    intent: Intent | None = None

    def load(self) -> Deployment | None:
        return self.record

    def save(self, record: Deployment) -> None:
        self.record = record

    def load_intent(self) -> Intent | None:
        return self.intent

    def save_intent(self, intent: Intent) -> None:
        self.intent = intent


class Stage:
    """Performs procedures; sleeping lets its own time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.done: list[str | float] = []  # calls by their operation, sleeps by their length

    def clock(self) -> float:
        return self.now

    def answer(self, call: Call[Any]) -> Any:
        raise NotImplementedError

    def perform(self, step: Call[Any] | Sleep) -> Any:
        assert len(self.done) < 5000, "it never ends"
        if isinstance(step, Sleep):
            assert step.seconds >= 0
            self.done.append(step.seconds)
            self.now += step.seconds
            return None
        self.done.append(step.request.operation.partition(" ")[0])
        return self.answer(step)

    def run(self, procedure: Procedure[T], step: Call[Any] | Sleep | None = None) -> T:
        """Perform a procedure; one that has begun from its current step on."""
        try:
            step = step or next(procedure)
            while True:
                try:
                    answer = self.perform(step)
                except BitaHubError as error:
                    step = procedure.throw(error)
                else:
                    step = procedure.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    @property
    def calls(self) -> list[str]:
        return [step for step in self.done if isinstance(step, str)]

    @property
    def pauses(self) -> list[float]:
        return [step for step in self.done if not isinstance(step, str)]


class Script(Stage):
    """Gives these answers, one after the other, and then the last one for ever; errors are thrown in."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self._answers: Iterator[Any] = chain(answers[:-1], repeat(answers[-1]))

    def answer(self, call: Call[Any]) -> Any:  # noqa: ARG002
        answer = next(self._answers)
        if isinstance(answer, BitaHubError):
            raise fresh(answer)
        return answer


SPEC = JobSpec(job_name="mnist", task_roles=[TaskRole(image="tensorflow", command="true")])
LOOK: Call[Any] = get_job("mnist")
SUBMIT, STOP = submit_job(SPEC), stop_job("mnist")
STEADY = Retry(attempts=4, first_pause=1, longest_pause=3)


class Died(BaseException):
    """The worker was killed."""


def every_death(attempt: Callable[[Sequence[tuple[int, bool]]], int]) -> None:
    """Make an attempt for every step a worker can die in, before and after it takes effect.

    The next worker dies, too: in every seventh step, which over all first deaths are all steps.
    """
    for took_effect in (False, True):
        for first in count(1):
            if attempt([(first, took_effect)]) == 0:
                break
            for second in count(1 + first % 7, 7):
                if attempt([(first, took_effect), (second, took_effect)]) < 2:
                    break
