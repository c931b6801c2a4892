"""Why the emulator refuses a request. `http.app` maps each of these to its HTTP status."""

from __future__ import annotations

from airflow_bitahub.exceptions import BitaHubError


class RequestRefused(BitaHubError):
    """The request had no effect, unless the text says so; it is a sentence for the user."""


class InvalidRequest(RequestRefused):
    """The request cannot be performed as it is."""


class NotFound(RequestRefused):
    """There is no such job, serving or fault."""


class Conflict(RequestRefused):
    """The name is already in use."""


class NotWritten(RequestRefused):
    """The emulator could not write to its disk, or could not read what it wrote."""
