"""How a request is signed.

The document shows no header at all (seed); the gateway in front of the platform is KubeSphere's, which takes a bearer
token (family).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from airflow_bitahub.exceptions import ConfigurationError


class Auth(Protocol):
    """Anything that signs requests."""

    def headers(self) -> Mapping[str, str]:
        """Give the headers that tell who asks."""


@dataclass(frozen=True)
class NoAuth:
    """A trusted network: requests go out as the document shows them."""

    def headers(self) -> Mapping[str, str]:
        """Give no headers."""
        return {}


@dataclass(frozen=True)
class BearerToken:
    """A fixed token."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        # The HTTP library would refuse it as well, with a message that holds the token.
        if not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigurationError(
                "The token in the Airflow connection's password holds a blank, a line break or a character that "
                "cannot be sent. Copy it again."
            )

    def headers(self) -> Mapping[str, str]:
        """Give the Authorization header."""
        return {"Authorization": f"Bearer {self.token}"}
