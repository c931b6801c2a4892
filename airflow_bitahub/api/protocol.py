"""`Call`, `Procedure` and `Sleep`: what everything else in `api` and `procedures` is made of.

A `Call` is a value: the request, and how to read its answer. A `Procedure` is a generator that yields calls and sleeps.
Its driver sends each result in, or throws the error in; at the end it returns its own result:

    def wait_for_job(name: str) -> Procedure[Job]:
        while True:
            job = yield from get_job(name)      # a Call is iterable, so that type checkers know: Job
            if job.status.is_terminal:
                return job
            yield Sleep(10)

`client.py` performs both, once blocking and once async, so that no call or procedure is written twice. In a triggerer,
`triggers/watch` performs thousands of procedures at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from airflow_bitahub.exceptions import BitaHubError, UnexpectedResponseError
from airflow_bitahub.texts import parse_json

if TYPE_CHECKING:
    from airflow_bitahub.api.platform import Platform

T = TypeVar("T")

# Bytes of an answer, decoded. In the known shapes, 10,000 jobs in one piece take up to 19 MB.
BODY_LIMIT = 64 * 2**20

# The operations that create something, and those that query a job or serving itself.
SUBMISSIONS = ("submit_job", "create_serving")
QUERIES = ("get_job", "get_serving")


@dataclass(frozen=True)
class Request:
    """A request without host, path prefix or credentials.

    :param action: what the request does, for messages, such as ``submit job 'mnist-1'``
    :param operation: a key of `Platform.endpoints`, which has the method and path; or, for a served program, which has
        an address of its own, both in one text: ``POST http://...``
    :param names: the path's parameters
    :param query: query parameters
    :param json_body: sent as JSON
    :param form: field name -> its text, or several; sent url-encoded, or as multipart when there are `files`
    :param files: (field name, (file name, content)); a field may come several times
    :param timeout: seconds for the whole request; None: the client's own
    :param token: a bearer token for a served program; "": none is sent
    :param headers: further headers; `api.auth` adds what identifies the user
    :param body_limit: bytes of the answer's body, decoded; a longer answer is an error. 0: the body is not read
    """

    action: str
    operation: str
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    json_body: Any = None
    form: Mapping[str, str | list[str]] | None = field(default=None, repr=False)
    files: Sequence[tuple[str, tuple[str, bytes]]] | None = None
    timeout: float | None = None
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body_limit: int = BODY_LIMIT

    @property
    def is_foreign(self) -> bool:
        """Whether it goes to another host than the platform's, so that it must not carry the platform's credentials."""
        return " " in self.operation


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text. Bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the parsed body, see `parse_json`. Raises ValueError when it is not JSON."""
        return parse_json(self.body)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to the platform, and how to read its answer.

    :param safe_to_repeat: sending it twice has the same effect as sending it once
    :param is_optional: nothing depends on its answer, so that it is not repeated, and its failure says nothing
    """

    request: Request
    read: Callable[[Response, Platform], T]
    safe_to_repeat: bool = False
    is_optional: bool = False

    def read_answer(self, response: Response, platform: Platform) -> T:
        """Return what an answer says. Raises UnexpectedResponseError for one in a form that nobody foresaw."""
        try:
            return self.read(response, platform)
        except BitaHubError:
            raise
        except Exception as error:
            raise UnexpectedResponseError(
                f"Could not {self.request.action}: the answer (HTTP {response.status}) cannot be read "
                f"({type(error).__name__})."
            ) from error

    def __iter__(self) -> Generator[Call[Any], Any, T]:
        answer: T = yield self
        return answer


@dataclass(frozen=True)
class Sleep:
    """A step of a procedure: wait for this many seconds.

    :param at_most: a driver with many procedures may wait longer, up to this, to save requests; None: it may not
    """

    seconds: float
    at_most: float | None = None


@dataclass(frozen=True)
class Blocking(Generic[T]):
    """A step of a sign-in: something that may take a while, such as reading an Airflow Variable.

    On an event loop, it is done in a thread.
    """

    do: Callable[[], T] = field(repr=False)

    def __iter__(self) -> Generator[Blocking[Any], Any, T]:
        result: T = yield self
        return result


Procedure: TypeAlias = Generator[Call[Any] | Sleep, Any, T]
Flow: TypeAlias = Generator[Call[Any] | Sleep | Blocking[Any], Any, T]  # of `api.auth`, which signs a call
