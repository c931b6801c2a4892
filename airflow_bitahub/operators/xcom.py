"""What Airflow refuses to store as an XCom, found before it does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_DEPTH = 100  # levels; the task's channel to Airflow refuses about 200
# Airflow takes a mapping with all keys of one of these sets for a value that it has encoded itself.
_RESERVED = ({"__classname__"}, {"__id__"}, {"__type", "__var"})


def problem_as_xcom(value: Any, depth: int = 1) -> str:
    """Return why Airflow could not store a value from JSON and give it back unchanged; "" if it can."""
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        for keys in _RESERVED:
            if keys <= value.keys():
                return f"it has the key {' and '.join(map(repr, sorted(keys)))}, which Airflow reserves"
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    if inner and depth > _DEPTH:
        return f"it is nested more than {_DEPTH} levels deep"
    return next(filter(None, (problem_as_xcom(each, depth + 1) for each in inner)), "")
