"""Closing a connection without an answer, which ASGI has no word for. The one place that knows uvicorn from inside."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send


class HangUp(BaseException):
    """Raised by an application in place of an answer, or of the rest of one: close the connection instead.

    Not an Exception, so that nothing on its way out takes it for a defect and answers after all.
    """


def hanging_up(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Give one of uvicorn's HTTP protocols, made to obey `HangUp`; it is meant for ``uvicorn.Config(http=...)``."""

    class HangingUp(protocol):  # type: ignore[misc, valid-type]
        app: ASGIApp

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.app = _closing(transport, self.app)

    return HangingUp


def _closing(transport: asyncio.Transport, app: ASGIApp) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except HangUp:
            transport.abort()
            # uvicorn would answer in place of an application that returns before the connection is gone.
            while (await receive())["type"] != "http.disconnect":
                pass

    return serve
