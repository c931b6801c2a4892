"""How a request is signed.

The document shows no header at all (seed). The gateway in front of the platform is KubeSphere's, which accepts a bearer
token (family).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from airflow_bitahub.exceptions import ConfigurationError


class Auth(Protocol):
    """What signs requests."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that identify the user."""


@dataclass(frozen=True)
class NoAuth:
    """No signature, for a trusted network: requests are sent as the document shows them."""

    def headers(self) -> Mapping[str, str]:
        """Return no headers."""
        return {}


@dataclass(frozen=True)
class BearerToken:
    """A fixed token."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        # The HTTP library would refuse it too, but its message would contain the token.
        if not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigurationError(
                "The token in the Airflow connection's password contains a blank, a line break or a character that "
                "cannot be sent. Copy it again, without 'Bearer' in front."
            )

    def headers(self) -> Mapping[str, str]:
        """Return the Authorization header."""
        return {"Authorization": f"Bearer {self.token}"}
