"""The proxies that the environment's variables name: what is wrong with them, and which one a request goes through.

The HTTP library reads these variables. Its own errors name neither the variable nor the proxy.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from airflow_bitahub.exceptions import ConfigurationError

_SCHEMES = ("http", "https", "all")


def are_set() -> bool:
    """Return whether some requests may go through a proxy."""
    return bool(getproxies().keys() - {"no"})


def mistake() -> ConfigurationError:
    """Return what is wrong with the variables, after the HTTP library has refused them. No value is shown."""
    for scheme in _SCHEMES:
        try:
            if proxy := _proxy(scheme):
                httpx.HTTPTransport(proxy=proxy, verify=False).close()
        except ImportError:
            return ConfigurationError(
                f"{_variable(scheme)} names a SOCKS proxy, and the package for it is missing: run "
                f"pip install 'httpx[socks]', or unset {_variable(scheme)}."
            )
        except (httpx.InvalidURL, ValueError):
            return ConfigurationError(
                f"{_variable(scheme)} is not the address of a proxy: write it like http://host:port, or unset it."
            )
    wrong = [repr(entry) for entry in getproxies().get("no", "").split(",") if not _is_host_pattern(entry.strip())]
    return ConfigurationError(
        f"{_variable('no')} has entries that cannot be read: {', '.join(wrong) or 'unknown'}. Write hosts, such as "
        f"example.com, and addresses without brackets and ranges, such as ::1."
    )


def proxy_of(url: str) -> str | None:
    """Return the proxy that requests to an address go through, with its variable and without its password."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    for scheme in (parts.scheme, "all"):
        if proxy := _proxy(scheme):
            with suppress(httpx.InvalidURL, UnicodeError):
                return f"{httpx.URL(proxy).copy_with(userinfo=b'', raw_path=b'/')} of {_variable(scheme)}"
    return None


def _proxy(scheme: str) -> str | None:
    value = getproxies().get(scheme)
    return value if not value or "://" in value else f"http://{value}"


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
