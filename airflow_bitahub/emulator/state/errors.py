"""Why the emulator refuses a request. `app.py` gives each its HTTP status."""

from __future__ import annotations

from airflow_bitahub.exceptions import BitaHubError


class Refused(BitaHubError):
    """The request had no effect; the text is a sentence for the user."""


class Invalid(Refused):
    """The request cannot be performed as it is."""


class Unknown(Refused):
    """There is no such job or serving."""


class Conflict(Refused):
    """The name is taken."""
