"""How servers and this client recognize each other: the TLS context of all clients, and what a refusal means."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from airflow_bitahub.exceptions import ConfigurationError

# OpenSSL's numbers (X509_V_ERR_...), which Python does not name.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAMES = (62, 63, 64)  # host name, e-mail, IP address
# What OpenSSL calls a server's refusal of the client's certificate, and what to do. (TLS 1.2 knows only "handshake
# failure" for a missing one.)
_REFUSALS = {
    "CERTIFICATE_REQUIRED": "the server asks for a client certificate. Set 'client_certificate'",
    "HANDSHAKE_FAILURE": "the server refuses the handshake. If it asks for a client certificate, set "
    "'client_certificate'",
    "CERTIFICATE_EXPIRED": "the server says that the client certificate has expired. Renew the file of "
    "'client_certificate'",
    "CERTIFICATE_REVOKED": "the server says that the client certificate is revoked. Have another one issued for "
    "'client_certificate'",
    "UNKNOWN_CA": "the server does not know the authority that signed the client certificate. Have one issued by the "
    "platform's authority, or put the intermediate certificates into the file of 'client_certificate'",
    "BAD_CERTIFICATE": "the server refuses the client certificate. Have another one issued for 'client_certificate'",
    "UNSUPPORTED_CERTIFICATE": "the server refuses this kind of client certificate. Have one made for clients "
    "('client_certificate')",
    "CERTIFICATE_UNKNOWN": "the server refuses the client certificate. Have another one issued for "
    "'client_certificate'",
    "ACCESS_DENIED": "the server does not allow the owner of the client certificate. Check 'client_certificate'",
}


@dataclass(frozen=True)
class ClientCertificate:
    """What a client shows to a server that asks who it is: paths of PEM files.

    :param certificate: the path of the certificate, followed by its intermediate certificates
    :param key: the path of its private key; "": the key is in the certificate's file
    :param password: the key's password; "": it has none
    """

    certificate: str
    key: str = ""
    password: str = field(default="", repr=False)


Files = tuple[tuple[str, int, int], ...]


def state_of(verify: bool | str, client: ClientCertificate | None) -> Files:
    """Return a value that changes when one of the files changes: certificates are renewed while a triggerer runs."""
    return tuple(_state(path) for path in _paths(verify, client))


def tls_context(verify: bool | str, client: ClientCertificate | None = None) -> ssl.SSLContext:
    """Return the TLS context that all clients share. Making one takes tens of milliseconds.

    :param verify: whether to check the server's certificate, or the path of the CA bundle to check it against
    :param client: the client's own certificate; None: it has none
    :raises ConfigurationError: a file cannot be used
    """
    return _tls_context(verify, client, state_of(verify, client))


@functools.lru_cache(maxsize=16)
def _tls_context(verify: bool | str, client: ClientCertificate | None, files: Files) -> ssl.SSLContext:  # noqa: ARG001
    try:
        context = httpx.create_ssl_context(
            ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        )
    except (OSError, ValueError) as error:  # SSLError is an OSError
        # Without a path in the connection, the HTTP library takes one from the environment.
        variable = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "")
        bundle = f"{verify!r} of the Airflow connection" if isinstance(verify, str) else f"that {variable} names"
        raise ConfigurationError(f"Cannot read the CA bundle {bundle}: {error}") from error
    if client is not None:
        _load(context, client)
    return context


def _load(context: ssl.SSLContext, client: ClientCertificate) -> None:
    """Add a client's certificate to a context. Raises ConfigurationError for files that do not fit."""
    key_extra = "client_key" if client.key else "client_certificate"
    key_path = client.key or client.certificate
    if b"CERTIFICATE-----" not in _content("client_certificate", client.certificate):
        raise _mistake("client_certificate", client.certificate, "holds no certificate in PEM format. " + _PEM)
    if b"PRIVATE KEY-----" not in _content(key_extra, key_path):
        advice = _PEM if client.key else "Set 'client_key' to the path of its key, or append the key to this file."
        raise _mistake(key_extra, key_path, "holds no private key in PEM format. " + advice)
    asked: list[bool] = []

    def password() -> str:  # without it, OpenSSL asks for one at the terminal
        asked.append(True)
        return client.password

    try:
        context.load_cert_chain(client.certificate, client.key or None, password)
    except OSError as error:  # SSLError is one
        reason = str(getattr(error, "reason", "") or error.strerror)
        if "KEY_VALUES_MISMATCH" in reason:
            text = f"does not belong to the certificate {client.certificate!r}. Set both to files of one pair."
        elif asked and client.password:
            text = "is encrypted, and the password in 'client_key_password' does not open it. Correct it."
        elif asked:
            text = "is encrypted. Set 'client_key_password' to its password."
        else:
            text = f"or its certificate cannot be read ({reason}). Make both anew from the original."
        # Without the error, whose traceback may hold the password.
        raise _mistake(key_extra, key_path, text) from None
    except ValueError:  # Python's own: a password too long
        raise _mistake(key_extra, key_path, "cannot be opened with such a 'client_key_password'.") from None


_PEM = "A file in another format, such as .p12, can be converted: openssl pkcs12 -in FILE -out FILE.pem"


def _content(extra: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "this is no path"
        advice = "The file must be there on all workers, triggerers and the api-server."
        raise _mistake(extra, path, f"cannot be read ({reason}). {advice}") from error


def _mistake(extra: str, path: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"The Airflow connection's extra {extra!r} names {path!r}, which {what}")


def _paths(verify: bool | str, client: ClientCertificate | None) -> Iterator[str]:
    if isinstance(verify, str):
        yield verify
    if client is not None:
        yield client.certificate
        yield client.key or client.certificate


def _state(path: str) -> tuple[str, int, int]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return path, 0, 0
    return path, status.st_mtime_ns, status.st_size


def tls_failure(error: BaseException, address: str) -> str | None:
    """Return what a failed connection says about TLS and what to do, in whole sentences; None: it is not about TLS.

    :param address: what has the wrong host or port, such as ``the Airflow connection's host``
    """
    cause = _tls_error(error)
    if cause is None:
        return None
    if refusal := client_refusal(error):
        return refusal
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return f"TLS failed ({cause}). Check that {address} has the right port, and that https is spoken there."
    refused = f"the server's certificate is refused ({cause.verify_message.rstrip('.')})."
    if cause.verify_code == _EXPIRED:
        return f"{refused} Have it renewed by whoever runs the platform; if it is valid, correct this machine's clock."
    if cause.verify_code == _NOT_YET_VALID:
        return f"{refused} Correct this machine's clock, or have the certificate replaced."
    if cause.verify_code in _OTHER_NAMES:
        return f"{refused} Change {address} to a name that the certificate is made for."
    return (
        f"{refused} Set 'verify' in the Airflow connection's extra to the path of a CA bundle that holds the "
        f"authority which signed it, or the certificate itself where it is self-signed."
    )


def client_refusal(error: BaseException) -> str | None:
    """Return why a server has refused this client in the TLS handshake, and what to do; None: it has not.

    With TLS 1.3, a client learns of this only when it reads the answer to its first request, which the server has not
    read.
    """
    cause = _tls_error(error)
    reason = (getattr(cause, "reason", None) or "") if cause is not None else ""
    _, alert, name = reason.partition("ALERT_")
    if not alert or name not in _REFUSALS:
        return None
    return f"{_REFUSALS[name]} in the Airflow connection's extra ({reason})."


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    cause: ssl.SSLError | None = None
    step: BaseException | None = error
    while step is not None:  # the first one in time, since aiohttp's own errors are SSLErrors without a code
        cause = step if isinstance(step, ssl.SSLError) else cause
        step = step.__cause__ or step.__context__
    return cause
