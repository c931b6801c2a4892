"""Reads which Airflow task a submission comes from, so that the console's pages can lead back to it."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from airflow_bitahub.api.wire import TASK_URL_HEADER, TASK_URL_LIMIT

_ADDRESS = re.compile(rf"https?://[!-~]{{1,{TASK_URL_LIMIT}}}", re.IGNORECASE)


# Not a plain function: FastAPI would call that in another thread, for every submission.
async def read_task_url(request: Request) -> str:
    """Return the page of the Airflow task that sends a request; "" where it names none, or no web address."""
    url = request.headers.get(TASK_URL_HEADER, "")
    try:
        return url if _ADDRESS.fullmatch(url) and urlsplit(url).hostname else ""
    except ValueError:
        return ""


TaskUrl = Annotated[str, Depends(read_task_url)]
