"""What is wrong with a connection, and how we know: for the Test button and ``airflow-bitahub doctor``.

Nothing is sent here. The errors carry what is needed: who answered, with what, and where a connection failed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    SignInRefusedError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.hooks.settings import Settings

# What a TLS server answers to plain HTTP: nginx's words, and those of Go's library.
_PLAIN_HTTP = re.compile(r"plain HTTP request|HTTP request to an HTTPS server", re.IGNORECASE)
_CLIENT_CERTIFICATE = re.compile(r"certificate[ _]required|handshake[ _]failure", re.IGNORECASE)
_PROXY_ASKS = re.compile(r"(?<![:\d])407(?!\d)")  # and not a port
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
# How each way of signing in is refused most often, and what to do then.
_SIGNED = {
    "none": "No password is sent. Set the connection's login and password, and the extra 'auth'.",
    "bearer": "The password is sent as a token, and this token is wrong or has expired. If it is the password with "
    "which you sign in on the platform's pages, set the extra 'auth' to 'kubesphere'.",
    "header": "The password is sent as a token in the header 'token', and this token is wrong or has expired. If it is "
    "the password with which you sign in on the platform's pages, set the extra 'auth' to 'kubesphere'.",
    "basic": "Login and password are sent with the request, and one of them is wrong. Do not try many: five wrong "
    "passwords lock the account.",
    "kubesphere": "The sign-in succeeded, but the token that it brought is refused: an installation that takes other "
    "tokens needs another 'auth'.",
}


class Diagnosis(NamedTuple):
    """What is wrong, in words.

    :param part: the part of the connection, such as ``gateway prefix``
    :param sentences: how we know, and what to do
    """

    part: str
    sentences: str

    def __str__(self) -> str:
        return f"Wrong: {self.part}. {self.sentences}" if self.part else self.sentences


def diagnose(error: BitaHubError, settings: Settings) -> Diagnosis:
    """Return what an error says about a connection.

    :param settings: what the connection said when the request was sent
    """
    match error:
        case ConfigurationError():
            return Diagnosis("", str(error))
        case ConnectFailedError():
            found = _connecting(error, settings)
        case UnexpectedResponseError():
            found = _strange_answer(error, settings)
        case AuthenticationError():
            found = _signing_in(error, settings)
        case PermissionDeniedError():
            found = _permission(error, settings)
        case NotFoundError():
            platform = settings.platform()
            found = Diagnosis(
                "namespace",
                f"The platform itself answers 'not found', so the address is right, but it does not know the workspace "
                f"{platform.workspace!r} or the namespace {platform.job_namespace!r}: check the extras 'workspace' and "
                f"'job_namespace'.",
            )
        case RateLimitError():
            found = Diagnosis("", "The platform answers, but it received too many requests: try again in a minute.")
        case ServerError():
            found = Diagnosis(
                "",
                f"The platform, or its gateway, answers that it failed itself (HTTP {error.status}). Nothing shows "
                f"that the connection is wrong: try again later.",
            )
        case RequestTimeoutError():
            found = Diagnosis(
                "address, or the platform is slow",
                f"{_where(settings)} accepts connections, but sent no complete answer in time. Check that the port is "
                f"the API's; if it is, raise the extra 'request_timeout'.",
            )
        case TransportError():
            found = _broken_off(settings)
        case _:
            found = Diagnosis("", "The platform answers, but not as expected.")
    return Diagnosis(found.part, f"{found.sentences} In full: {error}")


def _connecting(error: ConnectFailedError, settings: Settings) -> Diagnosis:
    where = _where(settings)
    host, _, port = where.rpartition(" port ")
    match error.reason:
        case "certificate":
            return Diagnosis("certificate", f"{where} speaks TLS, but its certificate is refused.")
        case "tls":
            return _tls(error, where)
        case "client-certificate":
            return _client_certificate(where)
        case "proxy" if _PROXY_ASKS.search(str(error)):
            return _proxy_password()
        case "proxy":
            return Diagnosis("proxy", f"The proxy answers, and refuses to connect to {where}.")
        case "proxy-unreachable":
            return Diagnosis("proxy", "The request goes through a proxy, and nothing was reached at its address.")
        case "unknown-host":
            return Diagnosis(
                "address",
                f"No name server knows the host {host!r}. Check how it is spelt, and whether this machine needs a VPN.",
            )
        case "refused":
            return Diagnosis(
                "address", f"The machine {host!r} answers, but nothing listens on its port {port}: check the port."
            )
        case "timeout":
            return Diagnosis(
                "address",
                f"{where} did not answer at all. The host or the port is wrong, or a firewall drops what this machine "
                f"sends there.",
            )
        case "sign-in" | "sign-in-denied":
            return _sign_in(error, settings)
    return Diagnosis("address", f"No connection to {where}: this machine's network has no way there.")


def _sign_in(error: ConnectFailedError, settings: Settings) -> Diagnosis:
    if error.reason == "sign-in-denied" or "The platform said" in str(error):
        return Diagnosis(
            "sign-in",
            "The sign-in answers with an error that says nothing about the password. Try again later. If the error "
            "stays, ask whoever runs the platform, or the firewall in front of it.",
        )
    path = settings.platform().endpoints["sign_in"]
    return Diagnosis(
        "auth", f"The address answers, but not as a sign-in: it has none at {path!r}. Check the extra 'auth'."
    )


def _tls(error: ConnectFailedError, where: str) -> Diagnosis:
    if _CLIENT_CERTIFICATE.search(str(error)):
        return _client_certificate(where)
    return Diagnosis(
        "address",
        f"{where} answers, but does not speak TLS. If the platform has no https there, begin the host with http://; "
        f"otherwise check the port.",
    )


def _client_certificate(where: str) -> Diagnosis:
    return Diagnosis(
        "client certificate", f"{where} asks for a certificate of this client, and got none that it takes."
    )


def _broken_off(settings: Settings) -> Diagnosis:
    other = "https" if settings.base_url.startswith("http:") else "http"
    return Diagnosis(
        "address",
        f"{_where(settings)} accepts connections, but broke this one off without an HTTP answer. Check the port, and "
        f"whether the host should begin with {other}://.",
    )


def _strange_answer(error: UnexpectedResponseError, settings: Settings) -> Diagnosis:
    said, platform = error.said, settings.platform()
    if not error.status:
        return Diagnosis("", "The platform answers in its own form, but what its answer contains cannot be read.")
    if error.status == 407:
        return _proxy_password()
    if 300 <= error.status < 400:
        return Diagnosis(
            "address",
            f"The server sends the request on to {said}: make that the host, as far as it is the API's. An API does "
            f"not redirect, so this may also be the address of the pages for people.",
        )
    if _PLAIN_HTTP.search(said):
        return Diagnosis("address", "The server says that it speaks https at this port: begin the host with https://.")
    if error.status == 404 and not _PAGE.search(said):
        for word, extra, value in (
            ("namespace", "job_namespace", platform.job_namespace),
            ("workspace", "workspace", platform.workspace),
            ("cluster", "cluster", platform.cluster),
        ):
            if re.search(rf"\b{word}s?[^\w/]{{1,6}}{re.escape(value)}\b", said):
                return Diagnosis(
                    word, f"The gateway answers {said}: it does not know this {word}. Check the extra {extra!r}."
                )
        return Diagnosis(
            "gateway prefix",
            f"The gateway answers 404 in plain text ({said}) and not in the platform's own form, so it does not know "
            f"this path: check the extra 'prefix' (now {platform.prefix!r}). `airflow-bitahub doctor` tries those "
            f"that are known.",
        )
    if error.status in (404, 200) or _PAGE.search(said):
        return Diagnosis(
            "address",
            f"Something answers (HTTP {error.status}), but with a page for people or other text: {said}. It is not the "
            f"platform's API: check the host and the port, and whether a proxy answers in its place.",
        )
    return Diagnosis(
        "gateway",
        f"Something in front of the platform answers in its place (HTTP {error.status}): {said}. Check the host, the "
        f"port and the extra 'prefix'.",
    )


def _signing_in(error: AuthenticationError, settings: Settings) -> Diagnosis:
    if isinstance(error, SignInRefusedError):
        match error.subject:
            case "client":
                return Diagnosis(
                    "client", "The sign-in refuses this program: check the extras 'client_id' and 'client_secret'."
                )
            case "account":
                return Diagnosis("account", "It is locked for a while, since it received too many wrong passwords.")
        return Diagnosis("password", "The sign-in refuses the connection's login or password.")
    kind = settings.auth_kind
    part = {"none": "auth", "basic": "password", "kubesphere": "auth"}.get(kind, "token")
    who = "The platform itself answers, in its own form," if error.is_from_platform else "The gateway answers"
    return Diagnosis(part, f"{who} that it does not know the user (HTTP {error.status}). {_SIGNED[kind]}")


def _permission(error: PermissionDeniedError, settings: Settings) -> Diagnosis:
    kind, namespace = settings.auth_kind, settings.platform().job_namespace
    if "anonymous" in str(error).lower():
        part = "auth" if kind == "none" else "password" if kind == "basic" else "token"
        return Diagnosis(
            part, f"The gateway took the request for that of nobody (HTTP {error.status}). {_SIGNED[kind]}"
        )
    who = "platform itself" if error.is_from_platform else "gateway"
    if namespace in str(error):
        return Diagnosis(
            "namespace",
            f"The {who} knows the user, and does not allow the namespace {namespace!r} (HTTP {error.status}). Check "
            f"the extra 'job_namespace', or ask for access to it.",
        )
    return Diagnosis(
        "permission",
        f"The {who} knows the user, and denies the request (HTTP {error.status}). Ask whoever runs the platform to let "
        f"this user work in the workspace {settings.platform().workspace!r} and the namespace {namespace!r}.",
    )


def _proxy_password() -> Diagnosis:
    return Diagnosis(
        "proxy", "The proxy answers 407: it asks for a user and a password, or refuses those in its address."
    )


def _where(settings: Settings) -> str:
    parts = urlsplit(settings.base_url)
    return f"{shorten(parts.hostname or '', 200)} port {parts.port or _PORTS[parts.scheme]}"
