"""The only file that speaks HTTP. It has two verbs, *send* a call and *run* a procedure, each blocking and async."""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar
from urllib.request import getproxies

import httpx

from airflow_bitahub.api.auth import Auth, BearerToken, NoAuth
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Procedure, Request, Response, Sleep
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    RequestTimeoutError,
    TransportError,
)
from airflow_bitahub.procedures.retry import Retry, retrying

T = TypeVar("T")

# Long enough for the next query of a job to reuse the connection of the last one.
_KEEPALIVE = 60  # seconds
_CONNECTIONS = 100
_IDLE_CONNECTIONS = 20
_LIMITS = httpx.Limits(
    max_connections=_CONNECTIONS, max_keepalive_connections=_IDLE_CONNECTIONS, keepalive_expiry=_KEEPALIVE
)
_ADDRESS_ERRORS = (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError)  # UnicodeError: a host that IDNA refuses
_REQUEST_ERRORS = (httpx.HTTPError, *_ADDRESS_ERRORS)


class BitaHubClient:
    """Performs calls and procedures against one platform.

    :param base_url: such as ``https://kubesphere.example.com``
    :param platform: the addresses, states and error codes of this installation
    :param auth: how requests are signed
    :param verify: whether to check the server's certificate, or the path of the CA bundle to check it against
    :param request_timeout: seconds to wait for one answer
    :param retry: how calls that are safe to repeat are repeated
    """

    def __init__(
        self,
        base_url: str,
        *,
        platform: Platform | None = None,
        auth: Auth | None = None,
        verify: bool | str = True,
        request_timeout: float = 30,
        retry: Retry | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.platform = platform or Platform()
        self._auth = auth or NoAuth()
        self._verify = verify
        self._timeout = request_timeout
        self._retry = retry or Retry()
        self._http: httpx.Client | None = None
        # One client for each concurrent request: before and after every request, httpx checks all idle connections of
        # the client. For 16 of them that costs more than the request itself (``make bench``).
        self._ahttp: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._queries: _AiohttpQueries | None = None

    def send(self, call: Call[T]) -> T:
        """Send a call and return its result. Raises a BitaHubError otherwise."""
        return _drive(retrying(call, self._retry), self._exchange)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure to its end and return its result. Raises a BitaHubError otherwise."""
        return _drive(procedure, self.send)

    async def asend(self, call: Call[T]) -> T:
        """Like `send`, without blocking the event loop."""
        return await adrive(retrying(call, self._retry), self._aexchange)

    async def arun(self, procedure: Procedure[T]) -> T:
        """Like `run`, without blocking the event loop."""
        return await adrive(procedure, self.asend)

    def prepare(self) -> None:
        """Prepare `asend` and `arun`. This may read certificates, so it should not run on an event loop."""
        if not self._ahttp:
            self._idle.append(self._open_client())
            if _aiohttp_is_usable():
                self._queries = _AiohttpQueries(_tls(self._verify), self._timeout)

    def close(self) -> None:
        """Close the connections of `send` and `run`."""
        if self._http is not None:
            self._http.close()
            self._http = None

    async def aclose(self) -> None:
        """Close the connections of `asend` and `arun`."""
        self._idle.clear()
        while self._ahttp:
            await self._ahttp.pop().aclose()
        if self._queries is not None:
            await self._queries.aclose()
            self._queries = None

    def url_of(self, operation: str, names: Mapping[str, str]) -> str:
        """Return the address of an operation on this platform."""
        return self.base_url + self.platform.locate(operation, names)[1]

    def _exchange(self, call: Call[T]) -> T:
        if self._http is None:
            self._http = httpx.Client(**self._options())
        try:
            answer = self._http.request(**self._arguments(call.request))
        except _REQUEST_ERRORS as error:
            _raise_transport(call.request, self.base_url, error)
        return call.read(_response(answer), self.platform)

    async def _aexchange(self, call: Call[T]) -> T:
        arguments = self._arguments(call.request)
        self.prepare()
        try:
            if arguments["method"] == "GET" and self._queries is not None:
                del arguments["method"]
                answer = await self._queries.get(**arguments)
            else:
                answer = await self._arequest(arguments)
        except _REQUEST_ERRORS as error:
            _raise_transport(call.request, self.base_url, error)
        return call.read(answer, self.platform)

    async def _arequest(self, arguments: dict[str, Any]) -> Response:
        http = self._idle.pop() if self._idle else self._open_client()
        try:
            return _response(await http.request(**arguments))
        finally:
            if len(self._idle) >= _IDLE_CONNECTIONS:
                await http.aclose()
            if http.is_closed:
                with suppress(ValueError):  # `aclose` may have removed it meanwhile
                    self._ahttp.remove(http)
            else:
                self._idle.append(http)

    def _open_client(self) -> httpx.AsyncClient:
        self._ahttp.append(httpx.AsyncClient(**self._options()))
        return self._ahttp[-1]

    def _options(self) -> dict[str, Any]:
        return {"timeout": self._timeout, "verify": _tls(self._verify), "limits": _LIMITS}

    def _arguments(self, request: Request) -> dict[str, Any]:
        if request.is_foreign:
            method, _, url = request.operation.partition(" ")
            auth: Auth = BearerToken(request.token) if request.token else NoAuth()
        else:
            method, path = self.platform.locate(request.operation, request.names)
            url, auth = self.base_url + path, self._auth
        optional = {
            "params": request.query or None,
            "json": request.json_body,
            "data": request.form,
            "files": request.files,
            "timeout": request.timeout,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return {"method": method, "url": url, "headers": auth.headers(), **given}


@functools.cache
def _tls(verify: bool | str) -> ssl.SSLContext:
    """Return the TLS context that all clients share. Making one takes tens of milliseconds."""
    try:
        return httpx.create_ssl_context(
            ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"Cannot read the CA bundle {verify!r} of the Airflow connection: {error}") from error


class _AiohttpQueries:
    """Sends queries by aiohttp, which needs a third of httpx's CPU time (``make bench``).

    It sends queries only: aiohttp repeats by itself what it takes for idempotent, DELETE included.
    """

    def __init__(self, context: ssl.SSLContext, timeout: float) -> None:
        self._context = context
        self._timeout = timeout
        self._session: Any = None

    async def get(
        self,
        url: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Return the answer. Raises the same errors as httpx."""
        import aiohttp
        from yarl import URL

        try:
            address = URL(url, encoded=True)
            if params:
                address = address.update_query(params)
            async with self._open_session().get(
                address,
                headers=headers,
                timeout=aiohttp.ClientTimeout(connect=timeout or self._timeout, sock_read=timeout or self._timeout),
                allow_redirects=False,
            ) as answer:
                return Response(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError, aiohttp.ConnectionTimeoutError) as error:
            raise httpx.ConnectError(str(error)) from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise httpx.InvalidURL(str(error)) from error
        except asyncio.TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> Any:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context, limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _aiohttp_is_usable() -> bool:
    """Return whether aiohttp is installed and no proxy is set; proxies are left to httpx."""
    return find_spec("aiohttp") is not None and not getproxies().keys() - {"no"}


def _drive(procedure: Procedure[T], perform: Callable[[Call[Any]], Any]) -> T:
    try:
        step = next(procedure)
        while True:
            try:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                answer = None if isinstance(step, Sleep) else perform(step)
            except BitaHubError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()


async def adrive(procedure: Procedure[T], perform: Callable[[Call[Any]], Awaitable[Any]]) -> T:
    """Run a procedure to its end on an event loop, and return its result.

    :param perform: sends a call
    """
    try:
        step = next(procedure)
        while True:
            try:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                answer = None if isinstance(step, Sleep) else await perform(step)
            except BitaHubError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()


def _response(answer: httpx.Response) -> Response:
    return Response(answer.status_code, answer.headers, answer.content)


def _raise_transport(request: Request, base_url: str, error: Exception) -> NoReturn:
    where = request.operation.partition(" ")[2] if request.is_foreign else base_url
    tried = f"Could not {request.action} at {where}"
    if isinstance(error, _ADDRESS_ERRORS) and not request.is_foreign:
        raise ConfigurationError(
            f"{tried}: this is not an address ({error}). Correct the host of the Airflow connection."
        ) from error
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        advice = "Check that it is up and that the Airflow connection's host is right."
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "Set 'verify' in the Airflow connection's extra to the path of a CA bundle, or to false."
        raise ConnectFailedError(f"{tried}: no connection ({error}). {advice}") from error
    if isinstance(error, httpx.TimeoutException):
        raise RequestTimeoutError(
            f"{tried}: no answer in time ({type(error).__name__}). Raise request_timeout in the Airflow connection if "
            f"the platform is slow."
        ) from error
    raise TransportError(f"{tried}: {str(error).rstrip('.') or type(error).__name__}.") from error
