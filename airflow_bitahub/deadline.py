"""A limit for the whole of a blocking request. httpx itself limits the time of each read, but not of all together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx


class Deadline(threading.local):
    """When the answer to a thread's request must have arrived.

    Give `trace` to httpx as the request's extension of that name.
    """

    _at = 0.0

    def start(self, timeout: float) -> None:
        """Start the time of a request, in seconds."""
        self._at = time.monotonic() + timeout

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Make each read from a new connection end at the deadline. httpx calls this for each step of a request."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        stream = info["return_value"]
        read = stream.read

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG001
            left = self._at - time.monotonic()
            if left <= 0:
                raise httpx.ReadTimeout("the answer arrives too slowly")
            data: bytes = read(max_bytes, timeout=left)
            return data

        stream.read = read_in_time
