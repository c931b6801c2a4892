"""Whether a request was meant for the emulator, or comes from a web page that the user visits.

Such a page can send requests to the loopback interface. If it does so by DNS rebinding, the Host header is wrong;
otherwise browsers name the page's site in the Origin header of everything that may change something.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from airflow_bitahub.emulator.answers import error_answer

READ_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(:\d+)?")


class Origins:
    """The names by which the emulator may be addressed.

    :param hosts: without port
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    def refuse_host(self, headers: Headers) -> JSONResponse | None:
        """Return why a request is refused that was addressed to another name, if it was."""
        host = headers.get("host", "")
        if self._is_known(host) and len(headers.getlist("host")) == 1:
            return None
        return error_answer(403, f"the Host {host!r} is not a name of this emulator")

    def refuse_site(self, method: str, headers: Headers) -> JSONResponse | None:
        """Return why a request is refused that a web page of another site sends, if it is and may change something."""
        origin = headers.get("origin")
        if method in READ_METHODS:
            return None
        if origin is None and headers.get("sec-fetch-site", "none").lower() in ("none", "same-origin", "same-site"):
            return None
        if origin is not None and self._is_known(origin.partition("://")[2]):
            return None
        return error_answer(403, f"a web page of another site sends this: {origin or 'of an unknown origin'}")

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        return match is not None and match[1] in self._hosts
