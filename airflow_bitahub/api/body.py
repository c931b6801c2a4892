"""The body of an answer while it arrives: decoded, and never more of it than the request allows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import UnexpectedResponseError
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Request

ACCEPTED_ENCODING = "gzip"
_WITH_HEADER = 47  # zlib's number for: gzip or deflate, whichever the header says


class Body:
    """Collects the body of an answer, up to `Request.body_limit`, before and after decoding.

    A small answer may decode to one that fills the memory, so it is decoded piece by piece.

    :param request: what was asked
    :param headers: the headers of the answer
    """

    def __init__(self, request: Request, headers: Mapping[str, str]) -> None:
        self._request = request
        self._received = 0
        self._size = 0
        self._parts: list[bytes] = []
        self._encoding = headers.get("content-encoding", "identity").strip().lower()
        self._decoder = zlib.decompressobj(_WITH_HEADER) if self._encoding in ("gzip", "deflate") else None

    def add(self, chunk: bytes) -> None:
        """Add what has arrived. Raises UnexpectedResponseError when it is too much, or cannot be decoded."""
        if self._decoder is None and self._encoding not in ("identity", ""):
            raise self._error(f"is encoded as {shorten(self._encoding, 100)!r}, and only gzip was asked for")
        limit = self._request.body_limit
        self._received += len(chunk)
        if self._decoder is not None:
            try:
                chunk = self._decoder.decompress(chunk, limit + 1 - self._size)
            except zlib.error as error:
                raise self._error(f"cannot be decoded ({error})") from error
        self._size += len(chunk)
        if max(self._size, self._received) > limit:
            raise self._error(f"is longer than the limit of {limit} bytes")
        self._parts.append(chunk)

    def content(self) -> bytes:
        """Return what was collected."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _error(self, problem: str) -> UnexpectedResponseError:
        return UnexpectedResponseError(f"Could not {self._request.action}: the answer {problem}.")
