"""Applies the faults of `faults.py` to requests on their way to the platform, and to its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub.emulator.answers import error_answer
from airflow_bitahub.emulator.faults.disguise import disguise, is_query
from airflow_bitahub.emulator.faults.faults import ArmedFault, Faults, Records, Replacement
from airflow_bitahub.emulator.faults.hangup import HangUp
from airflow_bitahub.emulator.state.errors import NotFound
from airflow_bitahub.emulator.state.state import State

_EXEMPT = ("/emulator/", "/healthz")  # a fault must not prevent its own removal
_PIECES = 10


class FaultInjector:
    """ASGI middleware that applies faults. It sets `reached` in the scope's state if the request gets to the platform.

    :raises HangUp: instead of an answer
    """

    def __init__(self, app: ASGIApp, faults: Faults, state: State) -> None:
        self._app = app
        self._faults = faults
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(_EXEMPT):
            await self._app(scope, receive, send)
            return
        # Read the whole body first. A delayed request must take effect even if the client has gone. And a connection
        # that closes while the client still sends fails in other ways than one that closes instead of an answer.
        body = await Request(scope, receive).body()

        async def received() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._serve(self._faults.striking(scope["method"], scope["path"]), scope, received, send)

    async def _serve(self, striking: Iterator[ArmedFault], scope: Scope, receive: Receive, send: Send) -> None:
        armed = next(striking, None)
        if armed is None:
            scope["state"]["reached"] = True
            await self._app(scope, receive, send)
            return
        effect = armed.fault.effect
        await self._wait(armed, effect.delay)
        if effect.before is not None:
            answer = _replacement(effect.before)
        else:
            answer = await self._get_answer(striking, scope, receive)
            if effect.after is not None:
                answer = _replacement(effect.after)
            elif effect.records is not None and is_query(scope["method"], scope["path"]):
                answer = self._disguise(effect.records, scope["path"], answer)
        await answer(scope, receive, self._slow(send, armed, effect.body_seconds) if effect.body_seconds else send)

    async def _get_answer(self, striking: Iterator[ArmedFault], scope: Scope, receive: Receive) -> Response:
        """Pass the request on, and return its answer instead of sending it."""
        answer, parts = Response(), list[bytes]()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status_code, answer.raw_headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        await self._serve(striking, scope, receive, collect)
        answer.body = b"".join(parts)
        return answer

    def _disguise(self, records: Records, path: str, answer: Response) -> Response:
        if answer.status_code != HTTPStatus.OK:
            return answer
        try:
            body = json.loads(bytes(answer.body))
        except ValueError:  # the answer is already another fault's
            return answer
        try:
            return JSONResponse(disguise(records, self._state, path, body))
        except NotFound as error:
            return error_answer(404, str(error))

    def _slow(self, send: Send, armed: ArmedFault, seconds: float) -> Send:
        async def slow(message: Message) -> None:
            body = message.get("body", b"")
            size = -(-len(body) // _PIECES) or 1
            for start in range(0, len(body), size):
                if start:
                    await self._wait(armed, seconds / (_PIECES - 1))
                await send({**message, "body": body[start : start + size], "more_body": True})
            await send({**message, "body": b""} if body else message)

        return slow

    async def _wait(self, armed: ArmedFault, seconds: float) -> None:
        """Wait `seconds` by the emulator's clock, but no longer than the fault is active."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end and not armed.is_removed:
            await asyncio.sleep(0.005)


def _replacement(replacement: Replacement) -> Response:
    if replacement == "close":
        raise HangUp
    is_text = isinstance(replacement.body, str)
    content = replacement.body if is_text else json.dumps(replacement.body)
    media_type = "text/plain" if is_text else "application/json"
    return Response(content, replacement.status, replacement.headers, media_type)
