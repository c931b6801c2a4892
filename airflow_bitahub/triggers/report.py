"""Whose report a resumed task is handed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_about(event: Mapping[str, Any], subject: str) -> bool:
    """Tell whether a report is about what the resumed task waits for.

    Triggers report by a number, and some databases (SQLite) give the number of one that was removed to the next. A
    triggerer that was away meanwhile still reports for the first, and Airflow hands that to the second's task.
    """
    return bool(event.get("subject", subject) == subject)
