"""The only file that speaks HTTP. It has two verbs, *send* a call and *run* a procedure, each blocking and async."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TypeVar

import anyio
import httpx

from airflow_bitahub import proxies
from airflow_bitahub.api.auth import Auth, BearerToken, NoAuth
from airflow_bitahub.api.body import ACCEPTED_ENCODING, Body
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Flow, Procedure, Request, Response, Sleep
from airflow_bitahub.deadline import Deadline
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.procedures.retry import Retry, retrying
from airflow_bitahub.tls import ClientCertificate, tls_context
from airflow_bitahub.transport_errors import ADDRESS_ERRORS, transport_error

T = TypeVar("T")

# Long enough for the next query of a job to reuse the connection of the last one.
_KEEPALIVE = 60  # seconds
_CONNECTIONS = 100
_IDLE_CONNECTIONS = 20
_LIMITS = httpx.Limits(
    max_connections=_CONNECTIONS, max_keepalive_connections=_IDLE_CONNECTIONS, keepalive_expiry=_KEEPALIVE
)
# The part of a request's time in which to connect: less than all, to tell a late answer from a request never sent.
_CONNECTING = 0.9
# httpx lets an error of TLS pass where its event loop library reads an answer.
_REQUEST_ERRORS = (httpx.HTTPError, ssl.SSLError, *ADDRESS_ERRORS)

_deadline = Deadline()


class BitaHubClient:
    """Performs calls and procedures against one platform.

    :param base_url: such as ``https://kubesphere.example.com``
    :param platform: the addresses, states and error codes of this installation
    :param auth: how requests are signed
    :param verify: whether to check the server's certificate, or the path of the CA bundle to check it against
    :param certificate: what the client shows to a server that asks who it is; None: it has no certificate
    :param proxy: the address of a proxy; ``none``: no proxy; "": what the environment's variables say
    :param request_timeout: seconds for one whole request: until its answer has arrived completely
    :param retry: how calls that are safe to repeat are repeated
    """

    def __init__(
        self,
        base_url: str,
        *,
        platform: Platform | None = None,
        auth: Auth | None = None,
        verify: bool | str = True,
        certificate: ClientCertificate | None = None,
        proxy: str = "",
        request_timeout: float = 30,
        retry: Retry | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.platform = platform or Platform()
        self._auth = auth or NoAuth()
        self._verify = verify
        self._certificate = certificate
        self._proxy = proxy
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
        return drive(retrying(call, self._retry), self._exchange)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure to its end and return its result. Raises a BitaHubError otherwise."""
        return drive(procedure, self.send)

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
            # proxies are left to httpx
            if find_spec("aiohttp") is not None and not proxies.are_used(self._proxy):
                self._queries = _AiohttpQueries(tls_context(self._verify, self._certificate))

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
        if call.request.is_foreign:
            return self._transmit(call)
        return drive(self._auth.flow(call), self._transmit)

    async def _aexchange(self, call: Call[T]) -> T:
        if call.request.is_foreign:
            return await self._atransmit(call)
        return await adrive(self._auth.flow(call), self._atransmit)

    def _transmit(self, call: Call[T]) -> T:
        if self._http is None:
            self._http = self._open(httpx.Client)
        try:
            answer = _request(self._http, call.request, self._arguments(call.request))
        except _REQUEST_ERRORS as error:
            raise transport_error(error, call.request, self.base_url, self._proxy) from error
        return call.read_answer(answer, self.platform)

    async def _atransmit(self, call: Call[T]) -> T:
        self.prepare()
        try:
            arguments = self._arguments(call.request)
            if arguments["method"] == "GET" and self._queries is not None:
                del arguments["method"]
                answer = await self._queries.get(call.request, **arguments)
            else:
                answer = await self._arequest(call.request, arguments)
        except _REQUEST_ERRORS as error:
            raise transport_error(error, call.request, self.base_url, self._proxy) from error
        return call.read_answer(answer, self.platform)

    async def _arequest(self, request: Request, arguments: dict[str, Any]) -> Response:
        http = self._idle.pop() if self._idle else self._open_client()
        try:
            return await _arequest(http, request, arguments)
        finally:
            if len(self._idle) >= _IDLE_CONNECTIONS:
                await http.aclose()
            if http.is_closed:
                with suppress(ValueError):  # `aclose` may have removed it meanwhile
                    self._ahttp.remove(http)
            else:
                self._idle.append(http)

    def _open_client(self) -> httpx.AsyncClient:
        self._ahttp.append(self._open(httpx.AsyncClient))
        return self._ahttp[-1]

    def _open(self, kind: Callable[..., T]) -> T:
        context = tls_context(self._verify, self._certificate)
        try:
            options = proxies.client_options(self._proxy, tls_context(self._verify))
            return kind(verify=context, limits=_LIMITS, **options)
        except (httpx.InvalidURL, ImportError, ValueError):
            # Without its cause, which may show a proxy's password.
            raise proxies.mistake() from None

    def _arguments(self, request: Request) -> dict[str, Any]:
        if request.is_foreign:
            method, _, url = request.operation.partition(" ")
            signature = BearerToken(request.token).headers() if request.token else {}
        else:
            method, path = self.platform.locate(request.operation, request.names)
            url, signature = self.base_url + path, request.headers
        # Added to the query that the endpoint itself may have, which `params` would replace.
        if query := self.platform.query(request.query):
            url = str(httpx.URL(url).copy_merge_params(query))
        optional = {
            "json": request.json_body,
            "data": request.form,
            "files": request.files,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        headers = {**signature, "accept-encoding": ACCEPTED_ENCODING}
        return {"method": method, "url": url, "headers": headers, "timeout": request.timeout or self._timeout, **given}


class _AiohttpQueries:
    """Sends queries by aiohttp, which needs a third of httpx's CPU time (``make bench``).

    It sends queries only: aiohttp repeats by itself what it takes for idempotent, DELETE included.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._session: Any = None

    async def get(
        self,
        request: Request,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Response:
        """Return the answer. Raises the same errors as httpx."""
        import aiohttp
        from yarl import URL

        try:
            async with self._open_session().get(
                URL(url, encoded=True),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout, connect=_CONNECTING * timeout),
                allow_redirects=False,
            ) as answer:
                body = Body(request, answer.headers)
                if request.body_limit:
                    while chunk := await answer.content.readany():
                        body.add(chunk)
                return Response(answer.status, answer.headers, body.content())
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
                auto_decompress=False,  # `Body` decodes no more than it may
            )
        return self._session


def drive(procedure: Flow[T], perform: Callable[[Call[Any]], Any]) -> T:
    """Run a procedure to its end, and return its result.

    :param perform: sends a call
    """
    try:
        step = next(procedure)
        while True:
            try:
                answer = None
                if isinstance(step, Call):
                    answer = perform(step)
                elif isinstance(step, Sleep):
                    time.sleep(step.seconds)
                else:
                    answer = step.do()
            except BitaHubError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()


async def adrive(procedure: Flow[T], perform: Callable[[Call[Any]], Awaitable[Any]]) -> T:
    """Run a procedure to its end on an event loop, and return its result.

    :param perform: sends a call
    """
    try:
        step = next(procedure)
        while True:
            try:
                answer = None
                if isinstance(step, Call):
                    answer = await perform(step)
                elif isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await asyncio.to_thread(step.do)
            except BitaHubError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()


def _request(http: httpx.Client, request: Request, arguments: dict[str, Any]) -> Response:
    _deadline.start(arguments["timeout"])
    with http.stream(**_with_limits(arguments), extensions={"trace": _deadline.trace}) as answer:
        body = Body(request, answer.headers)
        for chunk in answer.iter_raw() if request.body_limit else ():
            body.add(chunk)
        return Response(answer.status_code, answer.headers, body.content())


async def _arequest(http: httpx.AsyncClient, request: Request, arguments: dict[str, Any]) -> Response:
    try:
        with anyio.fail_after(arguments["timeout"]):
            async with http.stream(**_with_limits(arguments)) as answer:
                body = Body(request, answer.headers)
                if request.body_limit:
                    async for chunk in answer.aiter_raw():
                        body.add(chunk)
                return Response(answer.status_code, answer.headers, body.content())
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error


def _with_limits(arguments: dict[str, Any]) -> dict[str, Any]:
    timeout = arguments["timeout"]
    return {**arguments, "timeout": httpx.Timeout(timeout, connect=_CONNECTING * timeout)}
