"""The platform's address, joined from the fields of an Airflow connection."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from urllib.parse import quote, urlsplit

from airflow_bitahub.exceptions import ConfigurationError

_SCHEMES = ("http", "https")


def base_url(conn_id: str, host: str | None, schema: str | None, port: int | None) -> str:
    """Return the platform's address, scheme included, without a slash at the end.

    :param host: a host, a host with a path, or a whole address
    :param schema: http or https, where the host does not say it; empty: https
    :param port: the port, where the host does not say it
    :raises ConfigurationError: a part is wrong, or is said twice and differently
    """
    where = f"The Airflow connection {conn_id!r} has"
    host, schema = (host or "").strip(), (schema or "").strip().lower()
    if not host:
        raise ConfigurationError(f"{where} no host: set it to the platform's address, such as https://host.")
    if "@" in host:
        raise ConfigurationError(f"{where} a user or password in its host: they belong in login and password.")
    if "?" in host or "#" in host:
        raise ConfigurationError(f"{where} a host with a query or fragment: it cannot contain '?' or '#'.")
    if schema and schema not in _SCHEMES:
        raise ConfigurationError(
            f"{where} the schema {schema!r}; allowed are http and https. A path belongs to the host, "
            f"such as https://host/path (in a URI: https://host%2Fpath)."
        )
    scheme, separator, rest = host.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else (schema or "https", host)
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"{where} the host {host!r}: it must begin with http:// or https://.")
    if schema not in ("", scheme):
        raise ConfigurationError(f"{where} the schema {schema!r}, which differs from the host's, {host!r}: remove one.")
    authority, slash, path = rest.partition("/")
    name, host_port = _host_and_port(authority)
    if name is None:
        raise ConfigurationError(f"{where} the host {host!r}, which is not an address. Write it like https://host.")
    if port and host_port not in (None, port):
        raise ConfigurationError(f"{where} the port {port}, which differs from the host's, {host!r}: remove one.")
    port = port or host_port
    if port and not 0 < port < 65536:
        raise ConfigurationError(f"{where} the port {port}: it must be between 1 and 65535.")
    path = quote(slash + path, safe="/%:!$&'()*+,;=~").rstrip("/")
    return f"{scheme}://{name}{f':{port}' if port else ''}{path}"


def is_loopback(address: str) -> bool:
    """Return whether an address is on this machine, so that nobody else can read what is sent there."""
    name = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _host_and_port(authority: str) -> tuple[str | None, int | None]:
    """Return the host as it is sent, and the port if there is one; None for a host that is none."""
    if _is_ipv6(authority):
        return f"[{authority.lower()}]", None
    try:
        parts = urlsplit(f"//{authority}")
        name, port = parts.hostname or "", parts.port
        if _is_ipv6(name):
            return f"[{name}]", port
        if re.fullmatch(r"[\d.]+", name):
            ipaddress.ip_address(name)
        ascii_name = name.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError included
        return None, None
    # "https:/host" would otherwise name a host "https".
    is_host = re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", ascii_name, re.ASCII) and ascii_name not in _SCHEMES
    return (ascii_name if is_host else None), port


def _is_ipv6(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # A zone, as in fe80::1%eth0, is meant for one machine only; no HTTP library takes it.
    return address.version == 6 and "%" not in name
