"""How servers are recognized: the TLS context of all clients, and what a refused certificate means."""

from __future__ import annotations

import functools
import os
import ssl

import httpx

from airflow_bitahub.exceptions import ConfigurationError

# OpenSSL's numbers (X509_V_ERR_...), which Python does not name.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAMES = (62, 63, 64)  # host name, e-mail, IP address


@functools.cache
def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return the TLS context that all clients share. Making one takes tens of milliseconds.

    :param verify: whether to check the server's certificate, or the path of the CA bundle to check it against
    :raises ConfigurationError: the CA bundle cannot be read
    """
    try:
        return httpx.create_ssl_context(
            ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        )
    except (OSError, ValueError) as error:  # SSLError is an OSError
        # Without a path in the connection, the HTTP library takes one from the environment.
        variable = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "")
        bundle = f"{verify!r} of the Airflow connection" if isinstance(verify, str) else f"that {variable} names"
        raise ConfigurationError(f"Cannot read the CA bundle {bundle}: {error}") from error


def tls_failure(error: BaseException, address: str) -> str | None:
    """Return what a failed connection says about TLS and what to do, in whole sentences; None: it is not about TLS.

    :param address: what has the wrong host or port, such as ``the Airflow connection's host``
    """
    cause: ssl.SSLError | None = None
    step: BaseException | None = error
    while step is not None:  # the first one in time, since aiohttp's own errors are SSLErrors without a code
        cause = step if isinstance(step, ssl.SSLError) else cause
        step = step.__cause__ or step.__context__
    if cause is None:
        return None
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
