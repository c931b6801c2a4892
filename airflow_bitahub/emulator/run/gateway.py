"""The address of a serving: checks the access token, and passes requests on to the serving's replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import count
from types import TracebackType

import httpx
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_bitahub.emulator.answers import CONSOLE_COOKIE, bearer_token, unauthorized_answer
from airflow_bitahub.emulator.faults.hangup import HangUp
from airflow_bitahub.emulator.listener import LOOPBACK, Server, listen, server_config
from airflow_bitahub.emulator.origins import Origins

# Headers that are only meant for one connection (RFC 9110, section 7.6.1), besides those that Connection names.
_HOP_BY_HOP = frozenset(
    b"connection expect keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # replaced, as RFC 9110, section 5.5, wants it


class Gateway:
    """An HTTP server at its own address, as an asynchronous context manager.

    :param app: answers the requests
    :param port: the preferred port of the loopback interface; 0, or if it is in use: any free one
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        try:
            self._listener = listen(LOOPBACK, port)
        except OSError:
            self._listener = listen(LOOPBACK, 0)
        self._server = Server(server_config(app, date_header=False))  # the program sends this itself

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"

    async def __aenter__(self) -> Gateway:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True  # if it were cancelled, its connections would stay open
        await asyncio.wait([self._serving])
        self._listener.close()


class OriginCheck:
    """ASGI middleware that rejects what web pages of other sites send."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        answer = self._origins.refuse_host(headers) or self._origins.refuse_site(scope["method"], headers)
        await (answer or self._app)(scope, receive, send)


class TokenAuth:
    """ASGI middleware that rejects requests without the serving's access token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if secrets.compare_digest(bearer_token(Headers(scope=scope)).encode(), self._token):
            await self._app(scope, receive, send)
        else:
            await unauthorized_answer("this needs the serving's access token")(scope, receive, send)


class Backend:
    """A program that listens.

    :param port: of the loopback interface
    :param handle: a file descriptor of its socket file, if it has a network of its own; closed by `close`
    """

    def __init__(self, *, port: int = 80, handle: int | None = None) -> None:
        self.port, self._handle = port, handle
        self._requests = 0
        # One connection per request: a program may die or close an idle connection at any moment, and a request that
        # is lost that way must not be repeated.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        # By the handle: the program can put another file in the place of its socket.
        file = None if handle is None else f"/proc/self/fd/{handle}"
        self._transport = httpx.AsyncHTTPTransport(verify=False, limits=limits, uds=file)

    async def ask(self, request: Request) -> httpx.Response:
        """Pass a request on. Raises httpx.TransportError."""
        return await self._transport.handle_async_request(_request_to(self.port, request))

    @contextlib.contextmanager
    def exchange(self) -> Iterator[None]:
        """Count a request as under way until its answer was sent."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def drain(self, seconds: float) -> None:
        """Wait until every request is answered, at most this long."""
        deadline = time.monotonic() + seconds
        while self._requests and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Forget it."""
        if self._handle is not None:
            os.close(self._handle)


class RoundRobinProxy:
    """ASGI application that passes each request on to the next of several programs.

    :param backends: returns the programs that may be asked now
    """

    def __init__(self, backends: Callable[[], list[Backend]]) -> None:
        self._backends = backends
        self._turns = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with contextlib.ExitStack() as exchange:
            answer = await self._answer(Request(scope, receive), exchange)
            await answer(scope, receive, send)

    async def _answer(self, request: Request, exchange: contextlib.ExitStack) -> Response:
        turn, tried = next(self._turns), set[Backend]()
        # Looked up before each try: meanwhile, an update may have replaced all of them.
        while untried := [backend for backend in self._backends() if backend not in tried]:
            backend = untried[turn % len(untried)]
            tried.add(backend)
            exchange.enter_context(backend.exchange())
            try:
                answer = await backend.ask(request)
            except httpx.ConnectError:  # nothing listens there any more, so the program has not seen the request
                exchange.close()
                continue
            except (httpx.TransportError, ClientDisconnect) as error:
                return PlainTextResponse(f"the program gave no answer: {error or type(error).__name__}\n", 502)
            if not 200 <= answer.status_code < 600:
                await answer.aclose()
                return PlainTextResponse(f"the program answered with the status {answer.status_code}\n", 502)
            forwarded = StreamingResponse(_body(answer), answer.status_code)
            forwarded.raw_headers = _end_to_end(answer.headers.raw, has_length=answer.status_code not in (204, 304))
            return forwarded
        return PlainTextResponse("no program of this serving listens\n", 503)


def _request_to(port: int, request: Request) -> httpx.Request:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    path, query = request.scope["raw_path"], request.scope["query_string"]
    return httpx.Request(
        request.method,
        f"http://{LOOPBACK}:{port}",
        headers=_without_console_cookie(_end_to_end(request.headers.raw)),
        content=request.stream() if has_body else None,
        extensions={"target": path + b"?" + query if query else path},  # byte for byte as received
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], *, has_length: bool = True) -> list[tuple[bytes, bytes]]:
    """Return the headers to pass on.

    :param has_length: whether a Content-Length means what follows, if there is no Transfer-Encoding
    """
    fields = [(name.lower(), value) for name, value in headers]
    named = {option.strip().lower() for name, value in fields if name == b"connection" for option in value.split(b",")}
    left_out = _HOP_BY_HOP | named
    if not has_length or any(name == b"transfer-encoding" for name, _ in fields):
        left_out |= {b"content-length"}
    return [(name, _CONTROL.sub(b" ", value)) for name, value in fields if name not in left_out]


def _without_console_cookie(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a request's headers without the cookie by which a program could use the console in a person's name."""

    def others(cookies: bytes) -> bytes:
        return b"; ".join(
            one for one in map(bytes.strip, cookies.split(b";")) if not one.startswith(CONSOLE_COOKIE.encode())
        )

    kept = [(name, others(value) if name == b"cookie" else value) for name, value in headers]
    return [(name, value) for name, value in kept if value or name != b"cookie"]


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.TransportError:
        raise HangUp from None  # otherwise the client would take the truncated answer for a complete one
    finally:
        await answer.aclose()
