"""What the emulator does wrong in each kind of strike at the platform."""

from __future__ import annotations

from typing import Any

from tests.chaos.plan import GATEWAY_STATUSES

_SUBMIT = {"method": "POST", "path": "*/jobs/*"}
_QUERY = {"method": "GET", "path": "*/jobs/*"}
_STOP = {"method": "DELETE", "path": "*/jobs/*"}
_TRUNCATED = {"status": 200, "headers": {"Content-Type": "application/json"}, "body": '{"status": {"co'}
_QUERY_SERVING = {"method": "GET", "path": "*/serving/*"}
_CREATE_SERVING = {"method": "POST", "path": "*/serving"}
_REMOVE_SERVING = {"method": "DELETE", "path": "*/serving/*"}
_UNKNOWN_CODE = {"status": 200, "body": {"status": {"code": 77777, "msg": "odd"}, "data": None}}
_PAGE = {"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>Please sign in</html>"}
_UNKNOWN = {"state": "PERPLEXED", "jobStatus": {"state": "PERPLEXED"}}


def _gateway(status: int) -> dict[str, Any]:
    """Return an answer of the gateway in front of the platform. Half of the statuses come as Kubernetes sends them."""
    body: Any = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
    return {"status": status, "body": body if status % 2 else "denied"}


# The faults as the emulator's API describes them; see airflow_bitahub.emulator.faults.faults.
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "submission: answer lost": ({**_SUBMIT, "times": 2}, {"after": "close"}),
    "submission: refused connection": ({**_SUBMIT, "times": 2}, {"before": "close"}),
    "submission: 504 after it took effect": ({**_SUBMIT, "times": 2}, {"after": {"status": 504, "body": "<html>"}}),
    "submission: 408 after it took effect": ({**_SUBMIT, "times": 2}, {"after": _gateway(408)}),
    **{
        f"submission: gateway {status}": ({**_SUBMIT, "times": 1}, {"before": _gateway(status)})
        for status in GATEWAY_STATUSES
    },
    "submission: 503": ({**_SUBMIT, "times": 2}, {"before": {"status": 503, "body": "<html>busy</html>"}}),
    "submission: 429": ({**_SUBMIT, "times": 2}, {"before": {"status": 429, "headers": {"Retry-After": "1"}}}),
    "submission: truncated JSON": ({**_SUBMIT, "times": 2}, {"after": _TRUNCATED}),
    "query: connection closed": ({**_QUERY, "times": 30, "probability": 0.7}, {"before": "close"}),
    "query: 502": ({**_QUERY, "times": 30, "probability": 0.7}, {"before": {"status": 502, "body": "<html>"}}),
    "query: unknown code": ({**_QUERY, "times": 5}, {"before": _UNKNOWN_CODE}),
    **{
        f"query: gateway {status}": ({**_QUERY, "times": 5}, {"before": _gateway(status)})
        for status in GATEWAY_STATUSES
    },
    "query: slow": ({**_QUERY, "times": 10}, {"body_seconds": 2}),
    "query: unknown state": ({**_QUERY, "times": 30}, {"records": {"patch": _UNKNOWN}}),
    "query: web page": ({**_QUERY, "times": 10, "probability": 0.5}, {"after": _PAGE}),
    "record appears late": ({**_QUERY, "times": 20}, {"records": {"hideFor": 6}}),
    "stop: answer lost": ({**_STOP, "times": 2}, {"after": "close"}),
    "stop: 503": ({**_STOP, "times": 2}, {"before": {"status": 503, "body": "<html>busy</html>"}}),
    **{f"stop: gateway {status}": ({**_STOP, "times": 2}, {"before": _gateway(status)}) for status in GATEWAY_STATUSES},
    "serving query: gateway 403": ({**_QUERY_SERVING, "times": 5}, {"before": _gateway(403)}),
    "serving query: 502": ({**_QUERY_SERVING, "times": 10}, {"before": {"status": 502, "body": "<html>"}}),
    "serving creation: answer lost": ({**_CREATE_SERVING, "times": 1}, {"after": "close"}),
    "serving creation: 504 after it took effect": (
        {**_CREATE_SERVING, "times": 1},
        {"after": {"status": 504, "body": ""}},
    ),
    "serving removal: answer lost": ({**_REMOVE_SERVING, "times": 1}, {"after": "close"}),
}
