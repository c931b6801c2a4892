"""The forms of the platform's answers, and how a request carries its token: for every part that speaks HTTP."""

from __future__ import annotations

import base64
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

# The cookie of a session in the console begins so. Browsers send it to every port of a host, so also to servings.
CONSOLE_COOKIE = "bitahub-console"


def success_answer(data: Any) -> JSONResponse:
    """Return data in the platform's envelope."""
    return JSONResponse({"status": {"code": 0, "msg": "success"}, "data": data})


def error_answer(code: int, message: str) -> JSONResponse:
    """Return an error in the platform's envelope; `code` is also the HTTP status."""
    return JSONResponse({"status": {"code": code, "msg": message}, "data": None}, status_code=code)


def gateway_error_answer(code: int, reason: str, message: str) -> JSONResponse:
    """Return an error as the platform's gateway reports it: a Status object of Kubernetes, without an envelope."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"{reason}: {message}",
        "reason": reason,
        "code": code,
    }
    return JSONResponse(body, status_code=code)


def unauthorized_answer(message: str) -> JSONResponse:
    """Return the gateway's 401 for a missing or wrong token; the message says which token is needed."""
    answer = gateway_error_answer(401, "Unauthorized", f"{message}, as 'Authorization: Bearer ...'")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def bearer_token(headers: Headers) -> str:
    """Return the token in a request's headers; "" when there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def basic_credentials(headers: Headers) -> tuple[str, str] | None:
    """Return the name and the password in a request's headers; None when there are none."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None
