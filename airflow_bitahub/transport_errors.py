"""What it means that a request brought no usable answer: our error in place of the HTTP library's."""

from __future__ import annotations

import socket
import ssl

import httpx

from airflow_bitahub import proxies
from airflow_bitahub.api.protocol import Request
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    RequestTimeoutError,
    TransportError,
)
from airflow_bitahub.tls import client_refusal, tls_failure

ADDRESS_ERRORS = (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError)  # UnicodeError: a host that IDNA refuses


def transport_error(error: Exception, request: Request, base_url: str, proxy: str) -> BitaHubError:
    """Return our error for one of the HTTP library.

    :param base_url: the platform's address
    :param proxy: what the connection says about proxies, as for `proxies.are_used`
    """
    where = request.operation.partition(" ")[2] if request.is_foreign else base_url
    tried = f"Could not {request.action} at {where}"
    # The HTTP library raises the same errors for an address in an answer that redirects.
    if isinstance(error, ADDRESS_ERRORS) and not request.is_foreign and not _is_address(base_url):
        return ConfigurationError(
            f"{tried}: this is not an address ({error}). Correct the host of the Airflow connection."
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        reason = _reason(error, is_proxied=proxies.proxy_of(where, proxy) is not None)
        return ConnectFailedError(f"{tried}: {_connect_failure(request, where, proxy, error)}", reason)
    if refusal := client_refusal(error):
        return ConnectFailedError(f"{tried}: {refusal}", "client-certificate")
    if isinstance(error, httpx.TimeoutException):
        advice = (
            "The program is slow, or hangs: its log on the platform shows why."
            if request.is_foreign
            else "Raise request_timeout in the Airflow connection if the platform is slow."
        )
        return RequestTimeoutError(f"{tried}: no answer in time ({type(error).__name__}). {advice}")
    return TransportError(f"{tried}: {str(error).rstrip('.') or type(error).__name__}.")


def _is_address(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def _connect_failure(request: Request, where: str, named_proxy: str, error: Exception) -> str:
    address = "the serving's address" if request.is_foreign else "the Airflow connection's host"
    if failure := tls_failure(error, address):
        return failure
    if proxy := proxies.proxy_of(where, named_proxy):
        if isinstance(error, httpx.ProxyError):
            return (
                f"the proxy {proxy} refused the connection ({error}). Check what it allows, and its user and password."
            )
        return f"no connection to the proxy {proxy} ({error}). Check that it is up and that its address is right."
    return f"no connection ({error}). Check that it is up and that {address} is right."


def _reason(error: Exception, *, is_proxied: bool) -> str:
    """Return why a request was never sent.

    :param error: the HTTP library's, with the causes that it has
    :param is_proxied: the request was to go through a proxy
    :return: ``certificate``, ``tls``, ``proxy``, ``proxy-unreachable``, ``unknown-host``, ``refused``, ``timeout`` or
        ``unreachable``
    """
    chain: list[BaseException] = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)

    def is_due_to(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if is_due_to(ssl.SSLCertVerificationError):
        return "certificate"
    if is_due_to(ssl.SSLError):
        return "tls"
    if is_proxied:
        return "proxy" if isinstance(error, httpx.ProxyError) else "proxy-unreachable"
    if is_due_to(socket.gaierror):
        return "unknown-host"
    if is_due_to(ConnectionRefusedError):
        return "refused"
    return "timeout" if is_due_to(httpx.ConnectTimeout, TimeoutError) else "unreachable"
