"""What an Airflow connection of type ``bitahub`` says, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_bitahub.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_bitahub.api.auth import Auth
    from airflow_bitahub.api.platform import Platform

WATCH_MODES = ("auto", "collection", "single")


@dataclass(frozen=True)
class Settings:
    """What a connection says. See `BitaHubHook` for the meaning of each extra.

    :param base_url: the platform's address, scheme included, without a slash at the end
    :param token: the bearer token; None: requests are not signed
    :param user_name: the user's name in container paths; "": not set
    :param extra: the connection's extra
    """

    base_url: str
    token: str | None = field(repr=False)
    user_name: str
    extra: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_connection(cls, connection: Connection) -> Settings:
        """Read a connection. Raises ConfigurationError when it names no host, or when an extra is wrong."""
        extra = connection.extra_dejson
        login = connection.login or ""
        base_url = _base_url(connection)
        settings = cls(base_url, connection.password or None, str(extra.get("user_name") or login), extra)
        # Some of these are read only by a triggerer. Checking them here shows a mistake before a job is submitted.
        for key in ("max_requests_per_second", "longest_poll_interval", "request_timeout"):
            settings.number(key, 1)
        settings.choice("watch", WATCH_MODES)
        settings.timezone()
        return settings

    def text(self, key: str, default: str = "") -> str:
        """Return an extra as text."""
        value = self.extra.get(key)
        return default if value in (None, "") else str(value)

    def required(self, key: str, purpose: str) -> str:
        """Return an extra that must be set. Raises ConfigurationError when it is not, naming the purpose."""
        value = self.text(key)
        if not value:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} is not set, and {purpose}.")
        return value

    def number(self, key: str, default: float) -> float:
        """Return an extra as a positive number. Raises ConfigurationError when it is anything else."""
        try:
            value = float(self.text(key, str(default)))
        except ValueError:
            value = 0
        if value <= 0:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be a positive number.")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return an extra that must be one of several words; the first of them where it is not set."""
        value = self.text(key, allowed[0])
        if value not in allowed:
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} is {value!r}; allowed are {', '.join(allowed)}."
            )
        return value

    def table(self, key: str) -> Mapping[str, str]:
        """Return an extra that overrides single entries of one of the tables in `api.platform`."""
        value = self.extra.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be an object.")
        return {str(name): str(entry) for name, entry in value.items()}

    def platform(self) -> Platform:
        """Return the installation's addresses, states and codes. Raises ConfigurationError for a wrong override."""
        from airflow_bitahub.api.platform import ENDPOINTS, ERROR_CODES, STATUS_WORDS, Platform

        default = Platform()
        states = {state.upper(): status.upper() for state, status in self.table("status_words").items()}
        for status in states.values():
            if status not in STATUS_WORDS.values():
                raise ConfigurationError(
                    f"The Airflow connection's extra 'status_words' maps to {status!r}; "
                    f"allowed are {sorted(set(STATUS_WORDS.values()))}."
                )
        return Platform(
            prefix=self.text("prefix", default.prefix),
            cluster=self.text("cluster", default.cluster),
            workspace=self.text("workspace", default.workspace),
            job_namespace=self.text("job_namespace", default.job_namespace),
            serving_namespace=self.text("serving_namespace", default.serving_namespace),
            endpoints={**ENDPOINTS, **self.table("endpoints")},
            status_words={**STATUS_WORDS, **states},
            error_codes={**ERROR_CODES, **self.table("error_codes")},
            timezone=self.timezone(),
        )

    def timezone(self) -> tzinfo:
        """Return the zone of the platform's times that have no offset. Raises ConfigurationError for an unknown one."""
        name = self.text("timezone", "UTC")
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"The Airflow connection's extra 'timezone' is {name!r}, which is no IANA time zone such as "
                f"'Asia/Shanghai'."
            ) from error

    def auth(self) -> Auth:
        """Return how requests are signed. Raises ConfigurationError when the token cannot be sent."""
        from airflow_bitahub.api.auth import BearerToken, NoAuth

        return BearerToken(self.token) if self.token else NoAuth()

    def verify(self) -> bool | str:
        """Return whether to check the server's certificate, or the path of the CA bundle to check it against."""
        value = self.extra.get("verify")
        if value in (None, "", True) or str(value).lower() == "true":
            return True
        return False if str(value).lower() in ("false", "0") else str(value)


def _base_url(connection: Connection) -> str:
    where = f"The Airflow connection {connection.conn_id!r}"
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        raise ConfigurationError(f"{where} has no host: set it to the platform's address, such as https://host.")
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    if "@" in host:
        raise ConfigurationError(f"{where} has a user or password in its host: they belong in login and password.")
    if not host.startswith(("http://", "https://")):
        raise ConfigurationError(f"{where} has the host {host!r}: it must begin with http:// or https://.")
    return f"{host}:{connection.port}" if connection.port else host
