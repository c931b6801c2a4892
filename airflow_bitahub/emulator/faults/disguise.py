"""What a query shows when a fault has its say: some records hidden, some told of wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from airflow_bitahub.emulator.faults.faults import Records
from airflow_bitahub.emulator.state.errors import Unknown
from airflow_bitahub.emulator.state.state import State

_QUERY = re.compile(r".*/namespaces/([^/]+)/(jobs|serving)(?:/([^/]+))?")
# An installation may answer in other shapes than another, so whatever is wrapped around the records is kept.
_AROUND = ("data", "payload", "items", "jobs", "list")
_TOTALS = ("totalItems", "total")

Show = Callable[[dict[str, Any]], dict[str, Any] | None]


def shows_records(method: str, path: str) -> bool:
    """Tell whether a request is a query of jobs or servings, of one or of many."""
    return method == "GET" and _QUERY.fullmatch(path) is not None


def disguise(records: Records, state: State, path: str, body: Any) -> Any:
    """Give the answer to a query with its records as they are to be seen.

    :param path: what was asked for
    :param body: the answer's JSON
    :raises Unknown: the one record that was asked for is hidden
    """
    match = _QUERY.fullmatch(path)
    namespace, kind, asked = match.groups() if match else ("", "", "")
    created = {job.key.name: job.created for job in state.jobs(namespace)} if kind == "jobs" else {}

    def show(record: dict[str, Any]) -> dict[str, Any] | None:
        since = created.get(asked or _name(record), record.get("createdTime", 0))
        return records.show(record, age=(state.now() - since) / 1000)

    return _rewrite(body, show)


def _rewrite(value: Any, show: Show) -> Any:
    if isinstance(value, list):
        return [shown for record in value if (shown := show(record)) is not None]
    if not isinstance(value, dict):
        return value
    key = next((key for key in _AROUND if key in value), None)
    if key is None:
        return _require(show(value))
    inner = _rewrite(value[key], show)
    hidden = len(value[key]) - len(inner) if isinstance(inner, list) else 0
    return {**value, key: inner, **{total: value[total] - hidden for total in _TOTALS if total in value}}


def _require(shown: dict[str, Any] | None) -> dict[str, Any]:
    if shown is None:
        raise Unknown("there is no such record")
    return shown


def _name(record: dict[str, Any]) -> str:
    """Give the name of a record in a list."""
    return str(record.get("name") or record.get("jobName") or record.get("metadata", {}).get("name"))
