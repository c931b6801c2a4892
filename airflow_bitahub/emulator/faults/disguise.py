"""Changes the records in the answer to a query, as a fault says: hides some of them, patches others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from airflow_bitahub.emulator.faults.faults import Records
from airflow_bitahub.emulator.state.errors import NotFound
from airflow_bitahub.emulator.state.state import State

_QUERY = re.compile(r".*/namespaces/([^/]+)/(jobs|serving)(?:/([^/]+))?")
# Where the records are depends on the profile. Everything around them stays as it is.
_WRAPPERS = ("data", "payload", "items", "jobs", "list")
_TOTALS = ("totalItems", "total")

Show = Callable[[dict[str, Any]], dict[str, Any] | None]


def is_query(method: str, path: str) -> bool:
    """Return whether a request queries jobs or servings, one of them or a list."""
    return method == "GET" and _QUERY.fullmatch(path) is not None


def disguise(records: Records, state: State, path: str, body: Any) -> Any:
    """Return the answer to a query with its records hidden or patched.

    :param path: the path of the query
    :param body: the answer's JSON
    :raises NotFound: the query is for one record, and that one is hidden
    """
    match = _QUERY.fullmatch(path)
    namespace, kind, name = match.groups() if match else ("", "", "")
    created = {job.key.name: job.created for job in state.jobs(namespace)} if kind == "jobs" else {}

    def show(record: dict[str, Any]) -> dict[str, Any] | None:
        since = created.get(name or _name(record), record.get("createdTime", 0))
        return records.show(record, age=(state.now() - since) / 1000)

    return _rewrite(body, show)


def _rewrite(value: Any, show: Show) -> Any:
    if isinstance(value, list):
        return [shown for record in value if (shown := show(record)) is not None]
    if not isinstance(value, dict):
        return value
    key = next((key for key in _WRAPPERS if key in value), None)
    if key is None:
        return _require_shown(show(value))
    inner = _rewrite(value[key], show)
    hidden = len(value[key]) - len(inner) if isinstance(inner, list) else 0
    return {**value, key: inner, **{total: value[total] - hidden for total in _TOTALS if total in value}}


def _require_shown(shown: dict[str, Any] | None) -> dict[str, Any]:
    if shown is None:
        raise NotFound("there is no such record")
    return shown


def _name(record: dict[str, Any]) -> str:
    """Return the name of a record of a list."""
    return str(record.get("name") or record.get("jobName") or record.get("metadata", {}).get("name"))
