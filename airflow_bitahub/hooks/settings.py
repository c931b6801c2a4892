"""What an Airflow connection of type ``bitahub`` says, checked."""

from __future__ import annotations

import difflib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timezone, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_bitahub import proxies
from airflow_bitahub.api.auth import Auth, BasicAuth, BearerToken, HeaderToken, NoAuth, PasswordGrant
from airflow_bitahub.api.platform import (
    ENDPOINTS,
    ERROR_CODES,
    QUERY_PARAMETERS,
    STATUS_WORDS,
    Platform,
    allowed_words,
    check_placeholders,
)
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.address import base_url, is_loopback
from airflow_bitahub.hooks.sessions import mask, sessions_of
from airflow_bitahub.tls import ClientCertificate, Files, state_of, tls_context

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)

WATCH_MODES = ("auto", "collection", "single")
AUTHS = ("none", "bearer", "header", "basic", "kubesphere")

_PATH_PARTS = ("prefix", "cluster", "workspace", "job_namespace", "serving_namespace")
_PAGES = ("console_url", "serving_console_url", "model_console_url")
_TEXTS = ("user_id", "user_name", "storage_uri", "default_image", "timezone", "watch", *_PATH_PARTS, *_PAGES)
_SIGN_IN_TEXTS = ("auth", "client_id", "client_secret")
_TRANSPORT_TEXTS = ("client_certificate", "client_key", "client_key_password", "proxy")
_NUMBERS = ("request_timeout", "max_requests_per_second", "longest_poll_interval")
_MACHINE_LIMITS = ("max_cpu", "max_memory_mb")
_TABLES = ("endpoints", "status_words", "error_codes", "query_parameters")
_OTHERS = ("verify", "share_token", "accelerators", "preflight")
# What a connection may say. Anything else in its extra is left alone: it may be meant for something else.
_EXTRAS = (*_TEXTS, *_SIGN_IN_TEXTS, *_TRANSPORT_TEXTS, *_NUMBERS, *_MACHINE_LIMITS, *_TABLES, *_OTHERS)
# KubeSphere's own, for programs that are not registered there (family).
_CLIENT = "kubesphere"

_LEAST, _MOST = 0.001, 1_000_000  # of a number: a socket's timeout takes no more
_LARGEST_LIMIT = 2**31 - 1
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


@dataclass(frozen=True)
class Settings:
    """What a connection says. See `BitaHubHook` for the meaning of each extra.

    :param base_url: the platform's address, scheme included, without a slash at the end
    :param token: the connection's password: a token, or what `auth` makes of it; None: it has none
    :param user_name: the user's name in container paths; "": not set
    :param extra: the connection's extra
    :param login: the connection's login
    :param files: the state of the certificates, so that settings differ after one of them was renewed
    """

    base_url: str
    token: str | None = field(repr=False)
    user_name: str
    extra: Mapping[str, Any] = field(repr=False)
    login: str = ""
    files: Files = ()

    @classmethod
    def from_connection(cls, connection: Connection) -> Settings:
        """Read a connection. Raises ConfigurationError when its host or an extra is wrong."""
        extra = _extra(connection)
        address = base_url(connection.conn_id, connection.host, connection.schema, connection.port)
        login = (connection.login or "").strip()
        settings = cls(address, connection.password or None, "", extra, login)
        # Some of these are read late, or only by a triggerer. A mistake has to show before a job is submitted.
        for key in (*_TEXTS, *_SIGN_IN_TEXTS, *_TRANSPORT_TEXTS):
            settings.text(key)
        for key in _NUMBERS:
            settings.number(key, 1)
        for key in _MACHINE_LIMITS:
            settings.limit(key)
        for key in _PAGES:
            settings.page(key)
        settings.names("accelerators")
        settings.flag("preflight", default=True)
        settings.choice("watch", WATCH_MODES)
        settings.flag("share_token", default=True)
        settings.check_auth()
        settings.platform()
        settings.check_transport()
        for warning in settings.warnings():
            _warn_once(connection.conn_id, warning)
        files = state_of(settings.verify(), settings.client_certificate())
        return replace(settings, user_name=settings.text("user_name", login), files=files)

    def text(self, key: str, default: str = "") -> str:
        """Return an extra as text, without blanks around it. Raises ConfigurationError when it is no text."""
        value = self._value(key)
        if value is None:
            return default
        # An Airflow that reads "1e5" in a URI as a number has already lost what was written.
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be text: write it in double quotes.")
        return str(value).strip() or default

    def required(self, key: str, purpose: str) -> str:
        """Return an extra that must be set. Raises ConfigurationError when it is not, naming the purpose."""
        value = self.text(key)
        if not value:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} is not set, and {purpose}.")
        return value

    def path_part(self, key: str, default: str) -> str:
        """Return an extra that becomes one part of an address or path. Raises ConfigurationError when it cannot."""
        value = self.text(key).strip("/ ") or default
        if "/" in value or value in (".", ".."):
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} is {value!r}: it is one part of a path, so it cannot "
                f"contain '/' or be '.' or '..'."
            )
        return value

    def page(self, key: str) -> str:
        """Return an extra that is the address of a page, with ``{name}`` in it; "" where it is not set."""
        value = self.text(key)
        where = f"The Airflow connection's extra {key!r}"
        if value and not value.startswith(("http://", "https://")):
            raise ConfigurationError(f"{where} must begin with http:// or https://.")
        check_placeholders(where, value, ("{name}",))
        return value

    def names(self, key: str) -> list[str]:
        """Return an extra that is a list of names, or a text with commas between them."""
        value = self._value(key)
        names = value.split(",") if isinstance(value, str) else [] if value is None else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} must be a list of names, or a text with commas between them."
            )
        return [name.strip() for name in names if name.strip()]

    def limit(self, key: str) -> float:
        """Return an extra that is the largest number of something; infinity where it is not set."""
        return self.number(key, math.inf, _LARGEST_LIMIT)

    def number(self, key: str, default: float, most: float = _MOST) -> float:
        """Return an extra as a positive number. Raises ConfigurationError when it is anything else."""
        value = self._value(key)
        if value is None or value == "":  # Airflow's form writes null for what was left empty
            return default
        try:
            number = 0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = 0
        if not _LEAST <= number <= most:
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} must be a number between {_LEAST} and {most:,}. "
                f"For the default, leave it out."
            )
        return number

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return an extra that must be one of several words; the first of them where it is not set."""
        value = self.text(key, allowed[0]).lower()
        if value not in allowed:
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} is {value!r}; {allowed_words(value, allowed)}"
            )
        return value

    def table(self, key: str) -> Mapping[str, str]:
        """Return an extra that overrides single entries of one of the tables in `api.platform`.

        It may be an object, or the text of one: in a connection's URI, every extra is text.
        """
        value = self._value(key)
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value or "{}")
        where = f"The Airflow connection's extra {key!r}"
        if not isinstance(value, Mapping | None):
            raise ConfigurationError(f"{where} must be an object, such as {{...}}.")
        for name, entry in (value or {}).items():
            # An empty word would give a meaning to every answer without one.
            if not name.strip() or isinstance(entry, bool) or not isinstance(entry, str | int):
                raise ConfigurationError(f"{where} must be text, entry {name!r} is not.")
        return {name.strip(): str(entry).strip() for name, entry in (value or {}).items()}

    def platform(self) -> Platform:
        """Return the installation's addresses, states and codes. Raises ConfigurationError for a wrong override."""
        default = Platform()
        states = {state.upper(): status.upper() for state, status in self.table("status_words").items()}
        kinds = {code: kind.lower() for code, kind in self.table("error_codes").items()}
        return Platform(
            **{key: self.path_part(key, getattr(default, key)) for key in _PATH_PARTS},
            endpoints={**ENDPOINTS, **self.table("endpoints")},
            status_words={**STATUS_WORDS, **states},
            error_codes={**ERROR_CODES, **kinds},
            query_parameters={**QUERY_PARAMETERS, **self.table("query_parameters")},
            timezone=self.timezone(),
        )

    def timezone(self) -> tzinfo:
        """Return the zone of the platform's times that have no offset. Raises ConfigurationError for an unknown one."""
        name = self.text("timezone")
        try:
            return ZoneInfo(name) if name else timezone.utc
        except (KeyError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"The Airflow connection's extra 'timezone' is {name!r}, which is no IANA time zone such as "
                f"'Asia/Shanghai'."
            ) from error

    @property
    def auth_kind(self) -> str:
        """How requests are signed, one of `AUTHS`."""
        return self.choice("auth", AUTHS) if self.text("auth") else "bearer" if self.token else "none"

    def check_auth(self) -> None:
        """Raise ConfigurationError when the connection lacks what its way of signing in needs."""
        kind = self.auth_kind
        where = f"The Airflow connection's extra 'auth' is {kind!r}, but its"
        if kind != "none" and not self.token:
            raise ConfigurationError(f"{where} password is empty.")
        if kind in ("basic", "kubesphere") and not self.login:
            raise ConfigurationError(f"{where} login is empty: it is the user's name on the platform.")

    def auth(self) -> Auth:
        """Return how requests are signed. Raises ConfigurationError when the token cannot be sent."""
        password = self.token or ""
        match self.auth_kind:
            case "bearer":
                return BearerToken(password)
            case "header":
                return HeaderToken(password)
            case "basic":
                basic = BasicAuth(self.login, password)
                mask(basic.credentials)
                return basic
            case "kubesphere":
                client_id = self.text("client_id", _CLIENT)
                store = sessions_of(self.base_url, self.login, client_id, shared=self.flag("share_token", default=True))
                client_secret = self.text("client_secret", _CLIENT)
                return PasswordGrant(
                    self.login, password, store, client_id=client_id, client_secret=client_secret, clock=time.time
                )
        return NoAuth()

    def flag(self, key: str, *, default: bool) -> bool:
        """Return an extra that is true or false. Raises ConfigurationError when it is anything else."""
        value = self._value(key)
        known = _BOOLEANS.get(("" if value is None else str(value)).strip().lower() or str(default).lower())
        if known is None:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be true or false.")
        return known

    def verify(self) -> bool | str:
        """Return whether to check the server's certificate, or the path of the CA bundle to check it against."""
        value = self._value("verify")
        text = "" if value is None else str(value).strip()
        known = _BOOLEANS.get(text.lower())
        if known is None and not isinstance(value, str | None):
            raise ConfigurationError(
                "The Airflow connection's extra 'verify' must be true, false or the path of a CA bundle."
            )
        return (text or True) if known is None else known

    def client_certificate(self) -> ClientCertificate | None:
        """Return what the client shows to a server that asks who it is; None where the connection names no file."""
        certificate = self.text("client_certificate")
        key, password = self.text("client_key"), self.text("client_key_password")
        if certificate:
            return ClientCertificate(certificate, key, password)
        if key or password:
            raise ConfigurationError(
                f"The Airflow connection's extra {'client_key' if key else 'client_key_password'!r} is set without "
                f"'client_certificate': set that to the path of the certificate."
            )
        return None

    def proxy(self) -> str:
        """Return the address of the proxy, ``none`` for no proxy, or "" for what the environment says."""
        value = self.text("proxy")
        return proxies.DIRECT if value.lower() == proxies.DIRECT else value

    def check_transport(self) -> None:
        """Raise ConfigurationError when a certificate, a key or the proxy cannot be used."""
        verify, certificate, proxy = self.verify(), self.client_certificate(), self.proxy()
        if certificate is not None or isinstance(verify, str):
            tls_context(verify, certificate)
        proxies.check(proxy)
        mask(proxies.password_of(proxy))

    def warnings(self) -> list[str]:
        """Return what endangers the user's token."""
        found = []
        kind = self.auth_kind
        secret = "password" if kind in ("basic", "kubesphere") else "token"
        if kind != "none" and self.base_url.startswith("http:") and not is_loopback(self.base_url):
            found.append(
                f"The {secret} is sent over plain http, where others can read it: use https if the platform has it."
            )
        if self.verify() is False:
            found.append(
                f"The extra 'verify' is false: nothing shows that the server is the platform, so the {secret} may be "
                f"sent to somebody else. Set it to the path of a CA bundle."
            )
        return found

    def unknown_extras(self) -> list[str]:
        """Return a sentence for each extra that this package does not know."""
        return [
            f"The extra {key!r} is not known"
            + "".join(f": did you mean {near!r}" for near in difflib.get_close_matches(key, _EXTRAS, n=1))
            + "."
            for key in self.extra
            if key not in _EXTRAS
        ]

    def _value(self, key: str) -> Any:
        if key not in _EXTRAS:  # or the Test button would call it unknown
            raise KeyError(key)
        return self.extra.get(key)


def _extra(connection: Connection) -> Mapping[str, Any]:
    extra = connection.extra_dejson  # this also registers its secrets for masking
    try:  # again, since Airflow reads an extra that is not JSON as an empty one
        is_object = isinstance(json.loads((connection.extra or "").strip() or "{}"), Mapping)
    except ValueError:
        is_object = False
    if not is_object:
        raise ConfigurationError(
            f"The extra of the Airflow connection {connection.conn_id!r} is not a JSON object, such as "
            f'{{"user_id": "..."}}.'
        )
    return extra


@cache
def _warn_once(conn_id: str, warning: str) -> None:
    """Log a warning about a connection, once in this process."""
    log.warning("About the Airflow connection %r: %s", conn_id, warning)
