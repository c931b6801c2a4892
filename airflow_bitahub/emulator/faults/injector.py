"""Makes happen what `faults.py` describes, to requests on their way to the platform and to its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_bitahub.emulator.faults.disguise import disguise, shows_records
from airflow_bitahub.emulator.faults.faults import ArmedFault, Faults, Outcome, Records
from airflow_bitahub.emulator.faults.hangup import HangUp
from airflow_bitahub.emulator.http.access import envelope
from airflow_bitahub.emulator.state.errors import Unknown
from airflow_bitahub.emulator.state.state import State

_SPARED = ("/emulator/", "/healthz")  # a fault must not get in the way of its own removal
_PIECES = 10


class FaultInjector:
    """ASGI middleware that lets faults strike. It notes in the scope's state whether the platform was `reached`.

    :raises HangUp: instead of an answer
    """

    def __init__(self, app: ASGIApp, faults: Faults, state: State) -> None:
        self._app = app
        self._faults = faults
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(_SPARED):
            await self._app(scope, receive, send)
            return
        # All of it, first: a delayed request takes effect even if the client has gone, and a connection that is closed
        # while the client still writes fails in other ways than one that is closed instead of an answer.
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
        await self._hold(armed, effect.delay)
        if effect.before is not None:
            answer = _instead(effect.before)
        else:
            answer = await self._perform(striking, scope, receive)
            if effect.after is not None:
                answer = _instead(effect.after)
            elif effect.records is not None and shows_records(scope["method"], scope["path"]):
                answer = self._show(effect.records, scope["path"], answer)
        await answer(scope, receive, self._slow(send, armed, effect.body_seconds) if effect.body_seconds else send)

    async def _perform(self, striking: Iterator[ArmedFault], scope: Scope, receive: Receive) -> Response:
        """Let the request go on its way, and keep its answer back."""
        answer, parts = Response(), list[bytes]()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status_code, answer.raw_headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        await self._serve(striking, scope, receive, keep)
        answer.body = b"".join(parts)
        return answer

    def _show(self, records: Records, path: str, answer: Response) -> Response:
        if answer.status_code != HTTPStatus.OK:
            return answer
        try:
            body = json.loads(bytes(answer.body))
        except ValueError:  # another fault's
            return answer
        try:
            return JSONResponse(disguise(records, self._state, path, body))
        except Unknown as error:
            return envelope(404, str(error))

    def _slow(self, send: Send, armed: ArmedFault, seconds: float) -> Send:
        async def slow(message: Message) -> None:
            body = message.get("body", b"")
            size = -(-len(body) // _PIECES) or 1
            for start in range(0, len(body), size):
                if start:
                    await self._hold(armed, seconds / (_PIECES - 1))
                await send({**message, "body": body[start : start + size], "more_body": True})
            await send({**message, "body": b""} if body else message)

        return slow

    async def _hold(self, armed: ArmedFault, seconds: float) -> None:
        """Let so much time pass by the emulator's clock, but no longer than the fault is in force."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end and not armed.is_removed:
            await asyncio.sleep(0.005)


def _instead(outcome: Outcome) -> Response:
    if outcome == "close":
        raise HangUp
    is_text = isinstance(outcome.body, str)
    content = outcome.body if is_text else json.dumps(outcome.body)
    return Response(content, outcome.status, outcome.headers, "text/plain" if is_text else "application/json")
