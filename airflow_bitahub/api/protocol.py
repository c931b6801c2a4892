"""The three words everything else in `api` is written in.

A `Call` is a value: what to ask, and how to read the answer. A `Procedure` is a generator that yields calls and
sleeps; it is sent each answer, or has the error thrown in, and returns its result:

    def wait_for_job(name: str) -> Procedure[Job]:
        while True:
            job = yield from get_job(name)      # a Call is iterable, so that type checkers know: Job
            if job.status.is_terminal:
                return job
            yield Sleep(10)

`client.py` performs both, once blocking and once async, so that nothing here is written twice. In a triggerer
`triggers/subscription.py` takes thousands of procedures on, each as soon as its call is answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from airflow_bitahub.api.platform import Platform

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What to ask, without host, path prefix or credentials.

    :param action: what this does, for messages: ``submit job 'mnist-1'``
    :param operation: a key of `Platform.endpoints`, which knows method and path; or, where the address is not the
        platform's (a served program), ``POST http://...``
    :param names: the path's parameters
    :param query: query parameters
    :param json_body: sent as JSON
    :param form: sent url-encoded, or as multipart when there are `files`
    :param files: field name -> (file name, content)
    :param timeout: seconds to wait for the answer; None: the client's own
    :param token: sent as a bearer token where the address is not the platform's; "": none is
    """

    action: str
    operation: str
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    json_body: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    timeout: float | None = None
    token: str = field(default="", repr=False)

    @property
    def is_foreign(self) -> bool:
        """Whether it goes to another host than the platform's own, and so must not carry its credentials."""
        return " " in self.operation


@dataclass(frozen=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Parse the body. Raises ValueError when it is not JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question to the platform and the reading of its answer.

    :param safe_to_repeat: asking twice has the effect of asking once
    """

    request: Request
    read: Callable[[Response, Platform], T]
    safe_to_repeat: bool = False

    def __iter__(self) -> Generator[Call[Any], Any, T]:
        answer: T = yield self
        return answer


@dataclass(frozen=True)
class Sleep:
    """A step of a procedure: wait this many seconds."""

    seconds: float


Procedure: TypeAlias = Generator[Call[Any] | Sleep, Any, T]
