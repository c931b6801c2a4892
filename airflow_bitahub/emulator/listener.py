"""How the emulator listens: the settings of each of its HTTP servers, and bounds on what clients can occupy."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_bitahub.emulator.faults.hangup import hang_up_protocol

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_CLIENT_SECONDS = 30.0  # how long a client may take for the head of a request, and between two parts of a body
_CHECK_SECONDS = 5.0
_MAX_HEAD_BYTES = 1 << 16
_FILES_FOR_OTHERS = 64  # file descriptors that the emulator needs besides those of its connections
_FILES_PER_CONNECTION = 3  # one for the client, one for the program behind it, and one to spare
_MAX_CONNECTIONS = 1000
_BACKLOG = 512  # connections that wait to be accepted
_REPORT_SECONDS = 600

_open_connections = set[asyncio.Protocol]()  # of all servers in this process, as they share its file descriptors


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError and OverflowError as `bind` does."""
    # Not socket.create_server: asyncio turns off Nagle's algorithm only if the protocol is given. The algorithm would
    # delay every answer by 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def server_config(app: ASGIApp, **settings: Any) -> uvicorn.Config:
    """Return the configuration of a server.

    :param settings: what is special about it, as arguments of ``uvicorn.Config``
    """
    return uvicorn.Config(
        app,
        http=type("BoundedProtocol", (_BoundedProtocol, hang_up_protocol(AutoHTTPProtocol)), {}),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=2,
        # When files run out, asyncio fails to accept, and says so, this many times in a row. `Server` raises the number
        # of connections that wait to be accepted, which is this one, too.
        backlog=8,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        **settings,
    )


class Server(uvicorn.Server):
    """A server that needs few words when files run out."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)


class QuietAccepting:
    """An exception handler for event loops that reports once that files have run out, and not every second."""

    def __init__(self) -> None:
        self._next_report = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle one exception."""
        message = str(context.get("message"))
        if "socket.accept()" not in message and "_start_serving" not in message:  # asyncio's words
            loop.default_exception_handler(context)
        elif loop.time() >= self._next_report:
            self._next_report = loop.time() + _REPORT_SECONDS
            log.error("the emulator accepts no connection for now: %s", context.get("exception"))


class _BoundedProtocol(asyncio.Protocol):
    """Extends one of uvicorn's HTTP protocols to refuse a client that occupies too much.

    It relies on attributes that both of them have: `cycle`, the exchange of a request and its answer, and `flow`.
    """

    loop: asyncio.AbstractEventLoop
    cycle: Any
    flow: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._is_refused = len(_open_connections) >= _max_connections()
        if self._is_refused:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the emulator has too many connections; try again later")
            return
        _open_connections.add(self)
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_since = self._heard = self.loop.time()
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_refused:
            _open_connections.discard(self)
            self._timer.cancel()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._heard = self.loop.time()
        is_head = self._awaits_head()  # otherwise, it is the rest of a body, perhaps of one that was refused already
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if is_head and self._awaits_head() else 0
        if self._head_bytes > _MAX_HEAD_BYTES:
            message = f"the head of the request is larger than {_MAX_HEAD_BYTES} bytes"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def on_message_complete(self) -> None:
        super().on_message_complete()  # type: ignore[misc]
        self.cycle.more_body = False  # even if the answer was sent before the body had come

    def on_response_complete(self) -> None:
        self._head_since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps({"status": {"code": int(status), "msg": message}, "data": None})
        head = f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        self._transport.close()

    def _awaits_head(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _check(self) -> None:
        now, cycle = self.loop.time(), self.cycle
        if self._awaits_head():
            is_late = now - self._head_since > _CLIENT_SECONDS
        else:
            awaits_body = cycle.more_body and not cycle.waiting_for_100_continue and not self.flow.read_paused
            is_late = awaits_body and now - self._heard > _CLIENT_SECONDS
        if is_late:
            self._transport.abort()
        else:
            self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)


def _max_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(max(4, (files - _FILES_FOR_OTHERS) // _FILES_PER_CONNECTION), _MAX_CONNECTIONS)
