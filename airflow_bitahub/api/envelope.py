"""From an answer to a value or an exception. Every API error is made here.

The platform wraps its answers as ``{"status": {"code": 0, "msg": "success"}, "data": ...}`` (seed). Its relatives use
``{"message": {"code", "message"}, ...}`` and ``{"code", "msg", "payload"}``; its gateway answers with Kubernetes
``Status`` objects or plain text. An error may come with any HTTP status, 200 included.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_bitahub.api.protocol import SUBMISSIONS
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
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.api.platform import Platform
    from airflow_bitahub.api.protocol import Request, Response

_SUCCESS = {"0", "200", "S000", "OPERATION_SUCCEEDED"}

# kind of error -> its class, and what the user can do about it
_KINDS: dict[str, tuple[type[APIError], str]] = {
    "authentication": (AuthenticationError, "Check the token or password of the Airflow connection, and its 'auth'."),
    "permission": (PermissionDeniedError, "Check the token, workspace and namespace of the Airflow connection."),
    "not_found": (NotFoundError, "Check the name, and the connection's cluster, workspace and namespace."),
    "conflict": (ConflictError, "Choose another name, or remove the existing one."),
    "invalid": (InvalidRequestError, "Correct the operator's arguments."),
    "rate_limit": (RateLimitError, "Send fewer requests: raise poll_interval, or lower the pool's slots."),
    "server": (ServerError, "The platform itself failed; try again later."),
    "other": (APIError, "Look the code up in the platform's documentation."),
}
_KIND_OF_STATUS = {401: "authentication", 403: "permission", 409: "conflict", 429: "rate_limit"}
# "Timeout", "misdirected", "locked", "too early" and nginx's "client closed request" are trouble on the way. They say
# neither that the request was wrong nor that it had no effect.
_KIND_OF_STATUS |= dict.fromkeys((408, 421, 423, 425, 499), "server")
# Kinds of refusals that a gateway sends on its own behalf.
_GATEWAY_KINDS = ("authentication", "permission", "rate_limit")


class Outcome(NamedTuple):
    """What an envelope says."""

    code: str
    message: str
    data: Any

    @property
    def is_success(self) -> bool:
        """Whether the code is one of those that mean success, as a number or as text."""
        return self.code in _SUCCESS


def unwrap(response: Response, request: Request, platform: Platform) -> Any:
    """Return the ``data`` of a successful answer; otherwise raise the error that the answer means.

    :raises APIError: the platform, or its gateway, refused the request
    :raises UnexpectedResponseError: the answer does not come from the platform
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    outcome = _outcome(body)
    if 300 <= response.status < 400:
        target = shorten(response.headers.get("location", "no address"))
        raise UnexpectedResponseError(
            f"Could not {request.action}: the answer (HTTP {response.status}) redirects to {target}. Check the "
            f"host of the Airflow connection.",
            response.status,
            target,
        )
    if response.status < 300:
        if outcome is None and isinstance(body, dict | list) and not _is_from_gateway(body):
            return body  # some relatives, such as a bare Volcano job, use no envelope
        if outcome is None:
            raise UnexpectedResponseError(
                f"Could not {request.action}: the answer (HTTP {response.status}) does not come from the platform: "
                f"{_excerpt(response)}. Check the host of the Airflow connection.",
                response.status,
                _excerpt(response),
            )
        if outcome.is_success:
            return outcome.data
        kind = platform.error_codes.get(outcome.code, "other")
    elif response.status == 404:
        # Only the platform can say that a job does not exist. A gateway's 404 means that the address is wrong; read as
        # "no such job", it would cause a second submission.
        if outcome is None:
            raise UnexpectedResponseError(
                f"Could not {request.action}: no such address (HTTP 404: {_excerpt(response)}). Check the host of "
                f"the Airflow connection, and its extras prefix, cluster, workspace and endpoints.",
                response.status,
                _excerpt(response),
            )
        kind = "not_found"
    elif response.status >= 500:
        kind = "server"
    else:
        kind = _KIND_OF_STATUS.get(response.status) or "invalid"
        if outcome is not None and kind in ("invalid", "server"):
            kind = platform.error_codes.get(outcome.code, kind)
        elif outcome is None and kind not in _GATEWAY_KINDS:
            raise UnexpectedResponseError(
                f"Could not {request.action}: the answer (HTTP {response.status}) does not come from the platform, but "
                f"from something in front of it: {_excerpt(response)}. If it does not pass by itself, check the base "
                f"URL of the Airflow connection.",
                response.status,
                _excerpt(response),
            )
    raise _error(kind, response, request, outcome, body)


def accept(response: Response, request: Request, platform: Platform) -> None:
    """Check the answer to a change. The document shows no such answer; an empty body counts as success."""
    if response.status >= 300 or response.body.strip():
        unwrap(response, request, platform)


def nested_outcome(body: Any) -> Outcome | None:
    """Return what the platform's own form of envelope says, with the code in an object of its own; None for others.

    Served programs use this form, too. In their answers a ``code`` outside of it may belong to the prediction.
    """
    for key in ("status", "message"):
        inner = body.get(key) if isinstance(body, dict) else None
        if isinstance(inner, dict) and "code" in inner:
            message = str(inner.get("msg") or inner.get("message") or "")
            return Outcome(str(inner["code"]), message, body.get("data"))
    return None


def _outcome(body: Any) -> Outcome | None:
    """Return what any of the known envelopes says; None when the body is no envelope."""
    if not isinstance(body, dict) or _is_from_gateway(body):
        return None
    outcome = nested_outcome(body)
    if outcome is None and "code" in body:
        message = str(body.get("msg") or body.get("message") or "")
        return Outcome(str(body["code"]), message, body.get("data", body.get("payload")))
    return outcome


def _is_from_gateway(body: Any) -> bool:
    """Return whether the body is a Kubernetes ``Status`` object, which only the gateway sends."""
    return isinstance(body, dict) and body.get("kind") == "Status"


def _error(kind: str, response: Response, request: Request, outcome: Outcome | None, body: Any) -> APIError:
    if outcome is not None:
        said = shorten(outcome.message) or "no message"
        reply = f"{said} (code {shorten(outcome.code, 100)}, HTTP {response.status})"
    elif isinstance(body, dict) and body.get("message"):
        reply = f"{shorten(str(body['message']))} (HTTP {response.status})"
    else:
        reply = f"HTTP {response.status}: {_excerpt(response)}"
    error, advice = _KINDS[kind]
    if kind == "invalid" and outcome is not None and request.operation in SUBMISSIONS:
        advice = f"{advice[:-1]}; nothing was started."
    return error(
        response.status,
        outcome.code if outcome else None,
        f"Could not {request.action}. The platform said: {reply}. {advice}",
        request.operation,
        _retry_after(response),
    )


def _retry_after(response: Response) -> float | None:
    """Return the seconds in ``Retry-After``. A date there is compared with the answer's own, by the same clock."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        dates = [parsedate_to_datetime(text) for text in (value, response.headers.get("date", ""))]
        return max(0.0, (dates[0] - dates[1]).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: only one of them has a zone
        return None


def _excerpt(response: Response) -> str:
    text = " ".join(response.text.split())
    return repr(shorten(text, 200)) if text else "an empty body"
