"""The address of a serving: checks the access token, and passes requests on to the serving's replicas."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count
from types import TracebackType

import httpx
import uvicorn
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_bitahub.emulator.answers import bearer_token, unauthorized_answer
from airflow_bitahub.emulator.faults.hangup import HangUp, hang_up_protocol

LOOPBACK = "127.0.0.1"
# Headers that are only meant for one connection (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset((b"connection", b"expect", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"))


class Gateway:
    """An HTTP server at its own address, as an asynchronous context manager.

    :param app: answers the requests
    :param port: the preferred port of the loopback interface; 0, or if it is in use: any free one
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._listener = _listen(port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=hang_up_protocol(AutoHTTPProtocol),
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,  # the program sends these itself
                date_header=False,
                timeout_graceful_shutdown=2,
            )
        )

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


def _listen(port: int) -> socket.socket:
    # Not socket.create_server: unless the protocol is given, asyncio leaves Nagle's algorithm on, as in `server.py`.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.bind((LOOPBACK, 0))
    listener.listen(512)
    return listener


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


class RoundRobinProxy:
    """ASGI application that passes each request on to the next of several programs.

    :param ports: returns the ports of the loopback interface on which programs may listen now
    """

    def __init__(self, ports: Callable[[], list[int]]) -> None:
        self._ports = ports
        self._turns = count()
        # One connection per request: a program may die or close an idle connection at any moment, and a request that
        # is lost that way must not be repeated.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=False, limits=limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        answer = await self._answer(Request(scope, receive))
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        for port in self._next_ports():
            try:
                answer = await self._transport.handle_async_request(_request_to(port, request))
            except httpx.ConnectError:  # nothing listens there (yet), so the program has not seen the request
                continue
            except (httpx.TransportError, ClientDisconnect) as error:
                return PlainTextResponse(f"the program gave no answer: {error or type(error).__name__}\n", 502)
            forwarded = StreamingResponse(_body(answer), answer.status_code)
            forwarded.raw_headers = _end_to_end(answer.headers.raw)
            return forwarded
        return PlainTextResponse("no program of this serving listens\n", 503)

    def _next_ports(self) -> list[int]:
        ports = self._ports()
        turn = next(self._turns) % len(ports) if ports else 0
        return ports[turn:] + ports[:turn]


def _request_to(port: int, request: Request) -> httpx.Request:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    path, query = request.scope["raw_path"], request.scope["query_string"]
    return httpx.Request(
        request.method,
        f"http://{LOOPBACK}:{port}",
        headers=_end_to_end(request.headers.raw),
        content=request.stream() if has_body else None,
        extensions={"target": path + b"?" + query if query else path},  # byte for byte as received
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.TransportError:
        raise HangUp from None  # otherwise the client would take the truncated answer for a complete one
    finally:
        await answer.aclose()
