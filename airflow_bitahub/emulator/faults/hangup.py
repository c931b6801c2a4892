"""Closes a connection without an answer, which ASGI does not offer. The only file that knows uvicorn's internals."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send


class HangUp(BaseException):
    """Raised by an application instead of an answer, or of the rest of one: close the connection.

    It is not an Exception, otherwise error handlers on its way would take it for a defect and answer.
    """


def hang_up_protocol(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return one of uvicorn's HTTP protocols, extended to obey `HangUp`; for ``uvicorn.Config(http=...)``."""

    class HangUpProtocol(protocol):  # type: ignore[misc, valid-type]
        app: ASGIApp

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.app = _closing_on_hang_up(transport, self.app)

    return HangUpProtocol


def _closing_on_hang_up(transport: asyncio.Transport, app: ASGIApp) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except HangUp:
            transport.abort()
            # If an application returns while the connection is still there, uvicorn answers in its place.
            while (await receive())["type"] != "http.disconnect":
                pass

    return serve
