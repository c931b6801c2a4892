"""Why no connection could be made, in one word: what `exceptions.ConnectFailedError` carries."""

from __future__ import annotations

import socket
import ssl

import httpx

from airflow_bitahub import proxies


def connect_reason(url: str, error: Exception) -> str:
    """Return why a request was never sent.

    :param url: where it was to be sent
    :param error: the HTTP library's, with the causes that it has
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
    if proxies.proxy_of(url):
        return "proxy" if isinstance(error, httpx.ProxyError) else "proxy-unreachable"
    if is_due_to(socket.gaierror):
        return "unknown-host"
    if is_due_to(ConnectionRefusedError):
        return "refused"
    return "timeout" if is_due_to(httpx.ConnectTimeout, TimeoutError) else "unreachable"
