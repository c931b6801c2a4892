"""Whom the platform takes for the owner of a job: the id that is a part of every path of this user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_bitahub.api.envelope import unwrap
from airflow_bitahub.api.protocol import Call, Request

if TYPE_CHECKING:
    from airflow_bitahub.api.platform import Platform
    from airflow_bitahub.api.protocol import Response

# The keys under which the platform and its relatives name the owner of a job (client, family, vendor).
_KEYS = ("username", "userID", "userId", "leinao.ai/userid")
_USER_ID = re.compile(r"_[0-9a-f]{32}")  # seed
_DEPTH = 6


def get_job_owner(name: str) -> Call[str]:
    """Query the id of the user to whom a job belongs; "" where the platform does not say it."""
    request = Request(f"get the owner of job {name!r}", "get_job", {"name": name})

    def read(response: Response, platform: Platform) -> str:
        data = unwrap(response, request, platform)
        return next((value for value in _values(data, _DEPTH) if _USER_ID.fullmatch(value)), "")

    return Call(request, read, safe_to_repeat=True)


def _values(data: Any, depth: int) -> Iterator[str]:
    if isinstance(data, dict) and depth:
        yield from (value for key in _KEYS if isinstance(value := data.get(key), str))
        for value in data.values():
            yield from _values(value, depth - 1)
