"""The page where a person types the emulator's token once."""

from __future__ import annotations

import re
import secrets

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from airflow_bitahub.emulator.console.access import (
    ROOT,
    SESSION_PATH,
    SESSION_SECONDS,
    cookie_name,
    session_of,
)
from airflow_bitahub.emulator.console.pages import read_form, render

_PAGE_OF_OURS = re.compile(rf"{ROOT}(/[\w.~%/-]*)?(\?[\w.~%=&+*-]*)?")


async def show_form(request: Request) -> Response:
    """Ask for the token."""
    return render(request, "session.html", back=_back(request.query_params.get("next", "")), is_wrong=False)


async def begin(request: Request) -> Response:
    """Begin a session, if the token is right."""
    form = await read_form(request)
    back = _back(form.get("next", ""))
    if not secrets.compare_digest(form.get("token", "").strip().encode(), request.app.state.token.encode()):
        return render(request, "session.html", 403, back=back, is_wrong=True)
    answer = RedirectResponse(back, 303)
    answer.set_cookie(
        cookie_name(request.scope),
        request.app.state.sessions.begin(),
        max_age=SESSION_SECONDS,
        path=ROOT,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


async def end(request: Request) -> Response:
    """End the session."""
    request.app.state.sessions.end(session_of(request.scope))
    answer = RedirectResponse(f"{ROOT}/jobs", 303)
    answer.delete_cookie(cookie_name(request.scope), path=ROOT, httponly=True, samesite="strict")
    return answer


def _back(address: str) -> str:
    """Return an address of the console to go on to; the list of jobs if it is not one."""
    return address if _PAGE_OF_OURS.fullmatch(address) else f"{ROOT}/jobs"


routes = [
    Route(SESSION_PATH, show_form),
    Route(SESSION_PATH, begin, methods=["POST"]),
    Route(f"{SESSION_PATH}/end", end, methods=["POST"]),
]
