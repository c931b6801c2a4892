"""From an answer to a value or an exception: the one birthplace of API errors.

The platform wraps what it says as ``{"status": {"code": 0, "msg": "success"}, "data": ...}`` (seed). Its relatives use
``{"message": {"code", "message"}, ...}`` and ``{"code", "msg", "payload"}``; its gateway answers with Kubernetes
``Status`` objects or plain text. An error may come with any HTTP status, 200 included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from airflow_bitahub.api.platform import Platform
    from airflow_bitahub.api.protocol import Request, Response

_SUCCESS = {"0", "200", "S000", "OPERATION_SUCCEEDED"}

# kind -> the class, and what the user can do about it
_KINDS: dict[str, tuple[type[APIError], str]] = {
    "authentication": (AuthenticationError, "Check the token in the Airflow connection's password."),
    "permission": (PermissionDeniedError, "Check the token, workspace and namespace of the Airflow connection."),
    "not_found": (NotFoundError, "Check the name, and the connection's cluster, workspace and namespace."),
    "conflict": (ConflictError, "Choose another name, or remove what has this one."),
    "invalid": (InvalidRequestError, "Correct the operator's arguments; nothing was started."),
    "rate_limit": (RateLimitError, "Ask less often: raise poll_interval, or lower the pool's slots."),
    "server": (ServerError, "The platform has trouble; try again later."),
    "other": (APIError, "Look the code up in the platform's documentation."),
}
_KIND_OF_STATUS = {401: "authentication", 403: "permission", 409: "conflict", 429: "rate_limit"}


class _Verdict(NamedTuple):
    code: str
    message: str
    data: Any


def unwrap(response: Response, request: Request, platform: Platform) -> Any:
    """Give the ``data`` of a successful answer; raise what the answer means otherwise.

    :raises APIError: the platform, or its gateway, refused
    :raises UnexpectedResponseError: the answer is not the platform's
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    verdict = _verdict(body)
    if 300 <= response.status < 400:
        raise UnexpectedResponseError(
            f"Could not {request.action}: the answer (HTTP {response.status}) leads elsewhere, to "
            f"{response.headers.get('location', 'nowhere')}. Check the base URL of the Airflow connection."
        )
    if response.status < 300:
        if verdict is None and isinstance(body, dict | list) and not _is_gateways(body):
            return body  # some relatives, a bare Volcano job for one, come without an envelope
        if verdict is None:
            raise UnexpectedResponseError(
                f"Could not {request.action}: the answer (HTTP {response.status}) is not the platform's: "
                f"{_excerpt(response)}. Check the base URL of the Airflow connection."
            )
        if verdict.code in _SUCCESS:
            return verdict.data
        kind = platform.error_codes.get(verdict.code, "other")
    elif response.status == 404:
        # Only the platform can say that a job does not exist. A gateway's 404 means that the address is wrong, and
        # taking it for "no such job" would submit the job a second time.
        if verdict is None:
            raise UnexpectedResponseError(
                f"Could not {request.action}: no such address (HTTP 404: {_excerpt(response)}). Check the base URL, "
                f"cluster, workspace and endpoints of the Airflow connection."
            )
        kind = "not_found"
    elif response.status >= 500:
        kind = "server"
    else:
        kind = _KIND_OF_STATUS.get(response.status) or "invalid"
        if verdict is not None and kind == "invalid":
            kind = platform.error_codes.get(verdict.code, "invalid")
    raise _error(kind, response, request, verdict, body)


def accept(response: Response, request: Request, platform: Platform) -> None:
    """Read the answer to a change, of which the document shows none: no words at all are as good as success."""
    if response.status >= 300 or response.body.strip():
        unwrap(response, request, platform)


def _verdict(body: Any) -> _Verdict | None:
    """Read any of the known envelopes; None when it is not one."""
    if not isinstance(body, dict) or _is_gateways(body):
        return None
    for key in ("status", "message"):
        inner = body.get(key)
        if isinstance(inner, dict) and "code" in inner:
            return _Verdict(str(inner["code"]), str(inner.get("msg") or inner.get("message") or ""), body.get("data"))
    if "code" in body:
        message = str(body.get("msg") or body.get("message") or "")
        return _Verdict(str(body["code"]), message, body.get("data", body.get("payload")))
    return None


def _is_gateways(body: Any) -> bool:
    """Tell whether it is a Kubernetes ``Status`` object, which only the gateway uses."""
    return isinstance(body, dict) and body.get("kind") == "Status"


def _error(kind: str, response: Response, request: Request, verdict: _Verdict | None, body: Any) -> APIError:
    if verdict is not None:
        said = f"{verdict.message or 'no message'} (code {verdict.code}, HTTP {response.status})"
    elif isinstance(body, dict) and body.get("message"):
        said = f"{body['message']} (HTTP {response.status})"
    else:
        said = f"HTTP {response.status}: {_excerpt(response)}"
    error, advice = _KINDS[kind]
    return error(
        response.status,
        verdict.code if verdict else None,
        f"Could not {request.action}. The platform said: {said}. {advice}",
        request.operation,
        _retry_after(response),
    )


def _retry_after(response: Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None  # the date form is not used by any known relative of the platform


def _excerpt(response: Response) -> str:
    text = " ".join(response.text.split())
    return repr(text[:200]) if text else "an empty body"
