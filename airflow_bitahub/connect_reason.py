"""Why no connection could be made, in one word: what `exceptions.ConnectFailedError` carries."""

from __future__ import annotations

import socket
import ssl

import httpx


def connect_reason(error: Exception, *, is_proxied: bool) -> str:
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
