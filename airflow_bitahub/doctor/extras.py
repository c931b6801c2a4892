"""Merging what was found into a connection's extra."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TABLES = ("endpoints", "status_words", "error_codes", "query_parameters")


def merged(extra: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an extra with what was found. Everything else stays, also in a table of which some entries were found."""
    result = {**extra, **found}
    for table in TABLES:
        if table in found:
            present = extra.get(table) or {}
            # In a connection's URI, a table is text.
            entries = json.loads(present) if isinstance(present, str) else present
            result[table] = {**entries, **found[table]}
    return result
