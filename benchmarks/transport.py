"""Measures the CPU time of one query through each layer of the HTTP libraries, in the client's process alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.contestants import FEW, JOBS, leave_out_aiohttp
from benchmarks.watching import Server

_QUERIES = 3200


async def _cost(get: Callable[[], Awaitable[Any]]) -> float:
    """Return the CPU microseconds of one query, with a few in flight over open connections."""

    async def query(times: int) -> None:
        for _ in range(times):
            await get()

    await asyncio.gather(*(query(2) for _ in range(FEW)))
    before = time.process_time()
    await asyncio.gather(*(query(_QUERIES // FEW) for _ in range(FEW)))
    return (time.process_time() - before) / _QUERIES * 1e6


async def _costs(address: str) -> list[dict[str, Any]]:
    import aiohttp
    import httpcore
    import httpx

    from airflow_bitahub.api.auth import BearerToken
    from airflow_bitahub.api.jobs import get_job
    from airflow_bitahub.client import BitaHubClient

    url, headers = f"https://{address}{JOBS}/job-1", {"Authorization": "Bearer token-token"}
    context = httpx.create_ssl_context()
    limits = {"max_connections": FEW, "keepalive_expiry": 60.0}
    pool = httpcore.AsyncConnectionPool(ssl_context=context, **limits)
    transport = httpx.AsyncHTTPTransport(verify=context, limits=httpx.Limits(**limits))
    client = httpx.AsyncClient(verify=context, limits=httpx.Limits(**limits))
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=FEW))
    with_aiohttp = BitaHubClient(f"https://{address}", auth=BearerToken("token-token"))
    with_aiohttp.prepare()
    leave_out_aiohttp()
    with_httpx = BitaHubClient(f"https://{address}", auth=BearerToken("token-token"))

    async def by_transport() -> bytes:
        return await (await transport.handle_async_request(httpx.Request("GET", url, headers=headers))).aread()

    async def by_aiohttp() -> bytes:
        async with session.get(url, headers=headers) as answer:
            return await answer.read()

    query_again = get_job("job-1", await with_aiohttp.asend(get_job("job-1")))  # as a waiting task does
    layers: dict[str, Callable[[], Awaitable[Any]]] = {
        "aiohttp": by_aiohttp,
        "this package, with aiohttp": lambda: with_aiohttp.asend(query_again),
        "httpcore": lambda: pool.request("GET", url, headers=headers),
        "httpx's transport, on httpcore": by_transport,
        "httpx's client, on its transport": lambda: client.get(url, headers=headers),
        "this package, without aiohttp": lambda: with_httpx.asend(query_again),
    }
    rows = [{"by": name, "cpu_us": await _cost(get)} for name, get in layers.items()]
    await session.close()
    for each in (pool, transport, client, with_aiohttp, with_httpx):
        await each.aclose()
    return rows


def transport_costs(certificate: str) -> list[dict[str, Any]]:
    """Return the cost of a query through each layer."""
    server = Server(certificate)
    try:
        later = time.time() + 3600
        server.send(f"begin 2 {later} {later} {later}")
        return asyncio.run(_costs(server.address))
    finally:
        server.close()
