"""Proxies: the one that the connection names, or those of the environment's variables, which the HTTP library reads.

The library's own errors name neither the variable nor the proxy. No text of this module shows a proxy's password.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from airflow_bitahub.exceptions import ConfigurationError

DIRECT = "none"  # in place of a proxy's address: no proxy, whatever the environment says

_SCHEMES = ("http", "https", "all")


def are_used(proxy: str) -> bool:
    """Return whether some requests may go through a proxy.

    :param proxy: what the connection says: an address, `DIRECT`, or "" for what the environment says
    """
    return proxy != DIRECT if proxy else bool(getproxies().keys() - {"no"})


def client_options(proxy: str, tls: ssl.SSLContext) -> dict[str, Any]:
    """Return the options of the HTTP library's client that send its requests through a proxy, or past all.

    :param proxy: as for `are_used`
    :param tls: how the proxy is recognized where it speaks https itself
    """
    if not proxy:
        return {}  # the library reads the environment
    if proxy == DIRECT:
        return {"trust_env": False}
    url = httpx.URL(_with_scheme(proxy))
    return {"proxy": httpx.Proxy(url, ssl_context=tls if url.scheme == "https" else None)}


def check(proxy: str) -> None:
    """Raise ConfigurationError when what the connection says is no proxy that can be used. Its value is not shown."""
    if proxy and proxy != DIRECT and (wrong := _wrong(_with_scheme(proxy))):
        raise ConfigurationError(f"The Airflow connection's extra 'proxy' {wrong}, or leave it out.")


def password_of(proxy: str) -> str:
    """Return a proxy's password; "" where it has none."""
    with suppress(httpx.InvalidURL):
        return httpx.URL(_with_scheme(proxy)).password
    return ""


def mistake() -> ConfigurationError:
    """Return what is wrong with the variables, after the HTTP library has refused them. No value is shown."""
    for scheme in _SCHEMES:
        if (proxy := _proxy(scheme)) and (wrong := _wrong(proxy)):
            return ConfigurationError(f"{_variable(scheme)} {wrong}, or unset {_variable(scheme)}.")
    entries = [repr(entry) for entry in getproxies().get("no", "").split(",") if not _is_host_pattern(entry.strip())]
    return ConfigurationError(
        f"{_variable('no')} has entries that cannot be read: {', '.join(entries) or 'unknown'}. Write hosts, such as "
        f"example.com, and addresses without brackets and ranges, such as ::1."
    )


def proxy_of(url: str, proxy: str) -> str | None:
    """Return the proxy that requests to an address go through, and what names it, without its password.

    :param proxy: as for `are_used`
    """
    if proxy == DIRECT:
        return None
    if proxy:
        # Without its scheme, since Airflow replaces the extra's whole value by asterisks wherever it appears in a log.
        named = httpx.URL(_with_scheme(proxy))
        return f"{named.netloc.decode()} of the Airflow connection's extra 'proxy'"
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    for scheme in (parts.scheme, "all"):
        if value := _proxy(scheme):
            with suppress(httpx.InvalidURL, UnicodeError):
                return f"{httpx.URL(value).copy_with(userinfo=b'', raw_path=b'/')} of {_variable(scheme)}"
    return None


def _proxy(scheme: str) -> str | None:
    value = getproxies().get(scheme)
    return _with_scheme(value) if value else value


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _wrong(proxy: str) -> str:
    """Return what is wrong with a proxy's address; "" if nothing is."""
    try:
        httpx.HTTPTransport(proxy=proxy, verify=False).close()
    except ImportError:
        return "names a SOCKS proxy, and the package for it is missing: run pip install 'httpx[socks]'"
    except (httpx.InvalidURL, ValueError):
        return "is not the address of a proxy: write it like http://host:port"
    return "" if httpx.URL(proxy).host else "has no host: write it like http://host:port"


def _variable(scheme: str) -> str:
    """Return the name of the variable as it is set. Python prefers the name in lower case."""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), f"the system's {scheme} proxy")


def _is_host_pattern(entry: str) -> bool:
    is_ipv6 = False
    with suppress(ValueError):
        is_ipv6 = ipaddress.ip_address(entry.split("/")[0]).version == 6
    try:
        httpx.URL(entry if "://" in entry else f"all://[{entry}]" if is_ipv6 else f"all://*{entry}")
    except (httpx.InvalidURL, UnicodeError):
        return False
    return True
